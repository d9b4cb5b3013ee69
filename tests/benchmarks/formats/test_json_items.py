import json

import pytest
from hypothesis import given, settings, strategies as st

from benchmarks.formats import json_items
from benchmarks.formats.json_items import items
from querying.base.errors import UserError

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
TREES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


@settings(max_examples=150, deadline=None)
@given(st.lists(TREES, max_size=6), st.sampled_from([1, 2, 3, 5, 64]), st.booleans(), st.sampled_from([None, 2]))
def test_the_items_are_those_of_the_list_wherever_the_file_is_cut_into_parts(
    tmp_path_factory, tree, chunk, plain, indent
):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(tree, ensure_ascii=plain, indent=indent), encoding="utf-8", errors="surrogatepass")
    before, json_items._CHUNK = json_items._CHUNK, chunk
    try:
        assert list(items(path, "task")) == tree
    finally:
        json_items._CHUNK = before


def test_a_byte_order_mark_is_passed_over_and_an_empty_list_has_no_items(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'\xef\xbb\xbf [ {"a": "\\"]"} ] \n')
    assert list(items(path, "task")) == [{"a": '"]'}]
    path.write_bytes(b" [ ] ")
    assert list(items(path, "task")) == []


WRONG = {
    "empty": (b"", "is empty, where a JSON list of tasks"),
    "mapping": (b'{"a": 1}', "is a mapping, where a JSON list of tasks"),
    "text": (b'"a"', "is something else, where"),
    "UTF-16": (json.dumps([{}]).encode("utf-16"), "is UTF-16 or binary"),
    "UTF-16 without a mark": (json.dumps([{}]).encode("utf-16-le"), "is UTF-16 or binary"),
    "Latin-1": (b'[{}, "\xfc"]', "task 1: is not UTF-8"),
    "key twice": (b'[{"a": 1, "b": 2, "a": 3}]', "task 0: .*the key 'a' is there twice"),
    "NaN": (b'[{}, {"a": NaN}]', "task 1: .*NaN is not a finite number"),
    "infinite": (b'[{"a": -1e999}]', "task 0: .*-1e999 is not a finite number"),
    "5000 digits": (b"[" + b"1" * 5000 + b"]", "task 0: is not valid JSON"),
    "deep": (b"[" * 100_000, "task 0 is nested more than 32 deep"),
    "deep mappings": (b"[" + b'{"a":' * 100_000, "task 0 is nested more than 32 deep"),
    "many parts": (b"[[" + b"{}," * 300_000 + b"{}]]", "task 0 has over 262144 parts"),
    "cut": (b'[{"a": 1}, {"b": [1, 2', "ends within task 1"),
    "cut in a text": (b'["abc\\', "ends within task 0"),
    "more behind": (b"[1] x", "something follows the list"),
    "two commas": (b"[1,,2]", "task 1: is not valid JSON"),
    "comma at the end": (b"[1,]", "task 1: is not valid JSON"),
    "another bracket": (b"[1}", "task 0: a bracket is closed"),
    "comment": (b"[1, // x\n 2]", "task 1: is not valid JSON"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_that_names_the_file_and_the_item(tmp_path, name):
    content, message = WRONG[name]
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        list(items(path, "task"))
    assert str(raised.value).startswith(f"{path}: ")
    assert len(str(raised.value).splitlines()) == 1


def test_a_file_of_2_gb_is_refused_unread_and_an_item_that_is_too_long_before_all_of_it_is(tmp_path):
    path = tmp_path / "x.json"
    with path.open("wb") as file:
        file.write(b"[")
        file.truncate(2 << 30)
    with pytest.raises(UserError, match="2048 MB of JSON, more than 512"):
        next(items(path, "task"))
    path.write_bytes(b'["' + b"a" * (34 << 20) + b'"]')
    with pytest.raises(UserError, match="task 0 has more than 32 MB"):
        next(items(path, "task"))


def test_more_items_than_a_project_can_have_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(json_items, "MOST_ITEMS", 3)
    path = tmp_path / "x.json"
    path.write_bytes(b"[1, 2, 3, 4]")
    with pytest.raises(UserError, match="more than 3 tasks"):
        list(items(path, "task"))
