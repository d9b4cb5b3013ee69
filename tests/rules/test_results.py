"""What README and docs say is what their records say, or it is marked as without a record."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from querying.base.errors import DamagedError, UserError
from querying.base.files import read_json, write_json

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
NO_RECORD = "No record is kept: the figures are those noted on the day."
PAGES = sorted((DOCS / "results").glob("20*.md"))
RECORDED = [page for page in PAGES if NO_RECORD not in page.read_text()]
NUMBER = re.compile(r"\d\.\d")
NO_RESULT = re.compile(r"(?:Python|torch|Ray) \d\.\d+|6\.4 GB|\[[^]]*\]\([^)]*\)")
"""Of README and index: numbers that nobody has measured as a result, and links."""


@pytest.fixture(scope="module")
def make_results():
    spec = importlib.util.spec_from_file_location("make_results", DOCS / "make_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(make_results):
    return make_results.Results(ROOT)


@pytest.fixture
def copied(make_results, tmp_path):
    """A tree of README, documents and records that may be changed."""
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    return make_results.Results(tmp_path)


def outside_marks(make_results, text):
    return make_results.MARK.sub("", text)


def test_every_marked_number_and_table_is_what_its_record_gives(results):
    for document in results.documents():
        assert document.read_text() == results.rewritten(document), f"{document}: run make results"


def test_every_figure_is_what_its_record_gives(make_results, results, tmp_path):
    """Pixels may differ by what another build of the libraries rounds."""
    for mark, draw in results.figures().items():
        path = results.figure(mark)
        with make_results.styled():
            make_results.save(draw(), tmp_path, path.stem, svg=False)
        there, now = (np.array(Image.open(file).convert("RGB"), int) for file in (path, tmp_path / path.name))
        assert there.shape == now.shape, f"{path}: run make results"
        assert abs(there - now).max() <= 16, f"{path}: run make results"


def test_there_are_marks_and_each_is_closed(make_results, results):
    texts = [document.read_text() for document in results.documents()]
    assert sum(len(make_results.MARK.findall(text)) for text in texts) > 5
    for text in texts:
        left = outside_marks(make_results, re.sub(r"`[^`]*`", "", text))
        assert "<!-- results" not in left
        assert "<!-- end -->" not in left


@pytest.mark.parametrize(
    "path", ["README.md", "docs/results/index.md", "docs/use/headroom.md", "docs/how_it_works/fidelity.md"]
)
def test_any_changed_digit_between_marks_is_found(make_results, copied, path):
    document = copied.root / path
    text = document.read_text()
    places = [
        match.start(3) + digit.start()
        for match in make_results.MARK.finditer(text)
        for digit in re.finditer(r"\d", match[3])
    ]
    assert places
    for place in places:
        digit = str((int(text[place]) + 1) % 10)
        document.write_text(text[:place] + digit + text[place + 1 :])
        assert copied.rewritten(document) == text


def test_a_changed_record_is_found(make_results, copied):
    summary = copied.root / "docs/results/records/2026-12-01-demo/demo/summary.json"
    text = summary.read_text()
    summary.write_text(text.replace('"miou": 0.5', '"miou": 0.6', 1))
    with pytest.raises(DamagedError, match=r"summary\.json"):
        copied.rewritten(copied.root / "README.md")
    summary.write_text(text)
    data = {key: value for key, value in read_json(summary).items() if key != "seal"}
    data["cycles"][-1]["miou"] += 0.001
    write_json(summary, data)
    found = make_results.Results(copied.root).rewritten(copied.root / "README.md")
    assert found != (copied.root / "README.md").read_text()
    assert "50.11" in found


def test_make_results_fills_marks_and_draws_figures(make_results, copied):
    page = copied.root / "docs/results/2026-12-01-new.md"
    marks = ("2026-12-01-demo/systems", "2026-12-01-demo/systems/figure", "2026-12-01-demo/cycles")
    page.write_text("\n".join(f"<!-- results: {mark} --><!-- end -->" for mark in marks))
    picture = copied.root / "docs/images/2026-12-01-demo-systems.png"
    assert list(make_results.write_all(copied)) == [page, picture]
    text = page.read_text()
    assert "](../images/2026-12-01-demo-systems.png)" in text
    assert "| toy_s4al_plus | 2 | 36.67 | 35.75 | 33.33 | 2816 | 50.01 | 48.2-51.6 | 100.2 |" in text
    assert list(make_results.write_all(copied)) == []
    before = picture.read_bytes()
    summary = copied.root / "docs/results/records/2026-12-01-demo/demo/summary.json"
    data = {key: value for key, value in read_json(summary).items() if key != "seal"}
    data["cycles"][0]["miou"] += 0.01
    write_json(summary, data)
    assert picture in list(make_results.write_all(make_results.Results(copied.root)))
    assert picture.read_bytes() != before


def test_a_mark_that_stands_for_nothing_is_named(copied):
    readme = copied.root / "README.md"
    for mark, why in (
        ("2026-12-01-nothing/ending", "no such record"),
        ("2026-12-01-demo/nothing", "no such kind"),
        ("2026-12-01-headroom/ceiling/1x1", "no number of that name"),
    ):
        readme.write_text(f"<!-- results: {mark} -->1<!-- end -->")
        with pytest.raises(UserError, match=f"{mark}.*{why}"):
            copied.rewritten(readme)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_has_marks_or_says_that_it_has_no_record(make_results, page):
    text = page.read_text()
    left = outside_marks(make_results, text)
    tables = [
        line for line in left.splitlines() if line.startswith("|") and NUMBER.search(re.sub(r"`[^`]*`", "", line))
    ]  # a recipe's key is no result
    bare = left == text or tables
    assert not bare or NO_RECORD in text, "its tables are in no record: say so, in the sentence of NO_RECORD"


def test_the_index_says_of_which_experiments_no_record_is_kept():
    lines = (DOCS / "results/index.md").read_text().splitlines()
    entries = {found[1]: line for line in lines if (found := re.match(r"- .*\]\((20[^)]*\.md)\)", line))}
    assert set(entries) == {page.name for page in PAGES}
    for page in PAGES:
        assert entries[page.name].endswith("(no record)") == (NO_RECORD in page.read_text())


@pytest.mark.parametrize("path", ["README.md", "docs/results/index.md"])
def test_a_number_of_readme_and_index_is_marked_or_said_to_have_no_record(make_results, path):
    """Per paragraph, list item or row; numbers with a point, and bold ones."""
    left = outside_marks(make_results, (ROOT / path).read_text())
    parts = re.split(r"\n\n|\n(?=- |\|)", left)
    bare = [part for part in parts if re.search(r"\d\.\d|\*\*[\d,]+\*\*", NO_RESULT.sub("", part))]
    assert not [part for part in bare if "no record" not in part.lower()]


@pytest.mark.parametrize("path", [*RECORDED, DOCS / "use/headroom.md"], ids=lambda path: path.stem)
def test_a_number_of_a_page_with_records_is_marked_or_said_to_have_none(make_results, path):
    """Per paragraph or row; but for settings and file names, which stand between backticks."""
    left = re.sub(r"`[^`]*`", "", outside_marks(make_results, path.read_text()))
    bare = [part for part in re.split(r"\n\n|\n(?=\|)", left) if NUMBER.search(part)]
    assert not [part for part in bare if "no record" not in part.lower()]


def test_every_record_is_shown_somewhere(make_results, results):
    marks = {
        mark.split("/")[0]
        for text in results.documents()
        for _, mark, _, _ in make_results.MARK.findall(text.read_text())
    }
    assert {path.name for path in (DOCS / "results/records").iterdir()} == marks


def test_the_control_with_true_labels_is_shown_from_its_answers(make_results, copied):
    seeds = [
        {"seed": 0, "supervised": 0.41, "pool-truth": 0.45, "fit": {"miou": 0.8}},
        {"seed": 1, "supervised": 0.42, "pool-truth": 0.44, "fit": {"miou": 0.7}},
    ]
    record = copied.root / "docs/results/records/2026-12-03-control"
    record.mkdir()
    found = {"seeds": seeds, "gain": 0.03, "spread": 0.0141421}
    write_json(record / "control-a.json", {"asked": {"recipe": {"name": "a"}}, "found": found})
    one = {"seeds": [{**seeds[0], "pool-truth": 0.409}], "gain": -0.001, "spread": None}
    write_json(record / "control-b.json", {"asked": {"recipe": {"name": "b"}}, "found": one})
    page = copied.root / "docs/results/2026-12-03-control.md"
    page.write_text(
        "".join(f"<!-- results: 2026-12-03-control/control{key} --><!-- end -->" for key in ("", "/a/gain"))
    )
    text = copied.rewritten(page)
    assert "| a | 0 | 80.00 | 41.00 | 45.00 | +4.00 |\n| a | 1 | 70.00 | 42.00 | 44.00 | +2.00 |" in text
    assert "| b | 0 | 80.00 | 41.00 | 40.90 | -0.10 |" in text
    assert text.endswith("-->+3.00<!-- end -->")
    assert copied.made("2026-12-03-control", "control").numbers == {
        "a/gain": "+3.00",
        "a/spread": "1.41",
        "b/gain": "-0.10",
    }


def test_when_cps_collapsed_is_what_its_steps_say(make_results, copied):
    path = copied.root / "docs/results/records/2026-12-01-cps/steps.json"
    document = copied.root / "docs/how_it_works/fidelity.md"
    assert copied.rewritten(document) == document.read_text()
    for before, after, shown in (
        ("[10, [9, 9], [0.976, 0.987], [2, 2], 0.965]", "[10, [9, 9], [0.996, 0.987], [2, 2], 0.965]", None),
        ("[10, [9, 9], [0.976, 0.987], [2, 2], 0.965]", "[10, [9, 9], [0.996, 0.997], [2, 2], 0.965]", "at step 10"),
        ("[15, [9, 9], [1.0, 1.0], [1, 1], 1.0]", "[15, [9, 8], [1.0, 1.0], [1, 1], 1.0]", "at step 20"),
    ):
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after, 1))
        found = make_results.Results(copied.root).rewritten(document)
        path.write_text(text)
        assert (found == document.read_text()) if shown is None else f"rate .0025 | {shown}: pedestrian" in found


def test_records_are_small_and_say_nothing_of_a_machine():
    from benchmarks.results.records import clean

    for record in (DOCS / "results/records").iterdir():
        for path in record.rglob("*"):
            if path.is_file():
                assert path.stat().st_size < 100_000, path
                assert clean(path.read_text()) == path.read_text(), path


def test_faults_on_nodes_are_shown_from_their_trials(make_results, copied):
    record = copied.root / "docs/results/records/2026-12-03-other-nodes"
    record.mkdir()
    rows = [("a", 10.4, ""), ("a", 30.0, ""), ("a", 20.0, "x differs"), ("b", 7.0, "")]
    trials = [
        {"fault": fault, "run": f"run-{number // 2}", "seconds": seconds, "problem": problem}
        for number, (fault, seconds, problem) in enumerate(rows)
    ]
    (record / "nodes.json").write_text(json.dumps({"faults": ["b", "a", "c"], "trials": trials}))
    page = copied.root / "docs/results/2026-12-03-other-nodes.md"
    keys = ("", "/trials", "/failures", "/runs")
    page.write_text("".join(f"<!-- results: 2026-12-03-other-nodes/node_faults{key} --><!-- end -->" for key in keys))
    text = copied.rewritten(page)
    assert "| b | 1 | 0 | 7 | 7 |\n| a | 3 | 1 | 20 | 30 |\n| c | 0 | 0 |" in text
    assert re.findall(r"-->(\d)<!--", text) == ["4", "1", "2"]
