import errno
import json
import math
import os
from contextlib import suppress

import numpy as np
import pytest

from querying.base.errors import DamagedError, UserError
from querying.base.failpoints import failpoint
from querying.base.files import check_folder, flush_below, make_folder, read_json, sealed, unsealed, write_json, written

DATA = {"a": [1, 2.5, None, "é"], "b": {"c": True}, "number": 0.1 + 0.2}


def test_sealed_json_comes_back_as_it_was(tmp_path):
    write_json(tmp_path / "x.json", DATA)
    assert read_json(tmp_path / "x.json") == DATA
    assert unsealed(sealed(DATA), tmp_path) == DATA
    assert json.loads((tmp_path / "x.json").read_text())["number"] == DATA["number"]  # readable without us


def test_every_single_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, DATA)
    whole = path.read_bytes()
    silent = 0
    for place in range(len(whole)):
        for bit in range(8):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            with suppress(DamagedError):
                silent += read_json(path) != DATA
    assert silent == 0


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"seal": 1}', "[" * 100_000, "\xff"])
def test_what_is_no_sealed_json_is_named(tmp_path, text):
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedError, match=r"x\.json"):
        read_json(tmp_path / "x.json")
    with pytest.raises(DamagedError, match=r"y\.json: does not exist"):
        read_json(tmp_path / "y.json")


def test_a_disk_that_does_not_answer_is_not_taken_for_damage(tmp_path, monkeypatch):
    write_json(tmp_path / "x.json", DATA)

    def stale(path):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr("pathlib.Path.read_bytes", stale)
    with pytest.raises(OSError, match="Stale"):
        read_json(tmp_path / "x.json")


def test_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": math.nan})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("place", "visible"), [("written", False), ("renamed", True)])
@pytest.mark.parametrize("action", ["enospc", "eio"])
def test_a_full_or_failing_disk_leaves_all_or_nothing(tmp_path, monkeypatch, place, visible, action):
    path = tmp_path / f"{place}-{action}"  # a name of its own, since passings are counted
    monkeypatch.setenv("S4AL_FAILPOINT", f"{path.name}:{place}={action}")
    with pytest.raises(OSError, match=r"No space|Input/output"), written(path) as staged:
        staged.write_text("whole")
    assert list(tmp_path.iterdir()) == ([path] if visible else [])


def test_a_failpoint_acts_at_its_nth_passing_and_is_traced(tmp_path, monkeypatch):
    monkeypatch.setenv("S4AL_FAILPOINT", "nth@2=eio")
    monkeypatch.setenv("S4AL_FAILPOINT_TRACE", str(tmp_path / "trace"))
    failpoint("nth")
    failpoint("other")
    with pytest.raises(OSError, match="nth"):
        failpoint("nth")
    failpoint("nth")
    assert (tmp_path / "trace").read_text().split() == ["nth", "other", "nth", "nth"]
    monkeypatch.setenv("S4AL_FAILPOINT", "x=explode")
    with pytest.raises(ValueError, match="explode"):
        failpoint("x")


def test_a_synced_file_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    """The order that a power cut can not undo: contents, rename, directory."""
    order = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), replace(a, b)))
    rng = np.random.default_rng(0)
    with written(tmp_path / "x") as staged:
        staged.write_bytes(rng.bytes(10))
    assert order == [str(staged), "rename", str(tmp_path)]


def test_a_folder_that_can_not_be_made_is_named_and_none_is_made(tmp_path, monkeypatch):
    check_folder(tmp_path / "a/b")
    (tmp_path / "file").touch()
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for name, culprit in (("file", "file"), ("file/a/b", "file"), ("lost/a", "lost")):
        with pytest.raises(UserError, match=rf"{name}: can not be written: .*{culprit} is not a folder"):
            check_folder(tmp_path / name)
    with pytest.raises(UserError, match="can not be written: File name too long"):
        check_folder(tmp_path / ("a" * 300))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match=r"b: can not be written: .* is not ours to write"):
        check_folder(tmp_path / "a/b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "lost"]


def test_a_folder_is_flushed_with_all_that_is_below_it(tmp_path, monkeypatch):
    """What `written` was told not to flush: nothing before, then contents before the folders that name them."""
    order = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: order.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    for name in ("a", "inner/b", "inner/c"):
        make_folder((tmp_path / name).parent)
        order.clear()
        write_json(tmp_path / name, {}, flush=False)
    assert order == []
    flush_below(tmp_path)
    files = [str(tmp_path / name) for name in ("a", "inner/b", "inner/c")]
    assert sorted(order[:3]) == files
    assert order[3:] == [str(tmp_path / "inner"), str(tmp_path)]


def test_a_file_that_can_not_be_flushed_is_not_believed_by_the_next_attempt(tmp_path, monkeypatch):
    """Its pages count as flushed once the error has been told, and read as what was written."""
    for name in ("good", "bad"):
        write_json(tmp_path / name, {}, flush=False)

    def fsync(descriptor):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("bad"):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match=r"Input/output error.*bad"):
        flush_below(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
