import os
import shutil
import subprocess
import sys
import time

import pytest

from orchestrator.folder.layout import RunLayout, locked, once, remove_leftovers
from orchestrator.folder.manifest import seconds
from querying.base.errors import UserError
from querying.base.files import write_json


def test_a_stage_is_made_once_and_published_whole(tmp_path):
    calls = []

    def make(staging):
        calls.append(staging)
        (staging / "a").write_text("1")

    for _ in range(2):
        assert once(tmp_path / "scores", make) == tmp_path / "scores"
    assert len(calls) == 1
    assert (tmp_path / "scores" / "a").read_text() == "1"
    assert seconds(tmp_path / "scores") >= 0
    assert [p.name for p in tmp_path.iterdir()] == ["scores"]


def test_a_failed_stage_is_not_published_and_goes_on_from_its_complete_files(tmp_path):
    def half(staging):
        (staging / "first").write_text("1")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "scores", half)
    assert not (tmp_path / "scores").exists()
    once(tmp_path / "scores", lambda staging: (staging / "second").write_text((staging / "first").read_text()))
    assert (tmp_path / "scores" / "second").read_text() == "1"


def test_the_seconds_of_killed_attempts_count_until_the_last_file_that_they_left(tmp_path):
    def killed(staging):
        (staging / "first").write_text("1")
        raise KeyboardInterrupt

    for ago, lasted in ((1000, 60), (500, 30)):
        with pytest.raises(KeyboardInterrupt):
            once(tmp_path / "scores", killed)
        [staging] = tmp_path.glob("scores-*.tmp")
        os.utime(staging / "attempt.json", (time.time() - ago,) * 2)
        os.utime(staging / "first", (time.time() - ago + lasted,) * 2)
    once(tmp_path / "scores", lambda staging: None)
    assert seconds(tmp_path / "scores") == pytest.approx(90, abs=5)
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["first", "manifest.json"]


def test_a_damaged_note_of_an_attempt_only_costs_its_seconds(tmp_path):
    def killed(staging):
        (staging / "attempt.json").write_text("{}")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "scores", killed)
    once(tmp_path / "scores", lambda staging: None)
    assert seconds(tmp_path / "scores") < 5


def test_sweeping_removes_what_was_being_written(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".tmp-1-x").write_text("")
    (tmp_path / ".tmp-2-epoch").mkdir()
    (tmp_path / ".tmp-2-epoch" / "y").write_text("")
    (tmp_path / "a" / "kept").write_text("")
    remove_leftovers(tmp_path)
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "kept"]


def test_a_second_process_is_refused_and_the_first_is_named(tmp_path):
    code = "import sys, time; from pathlib import Path; from orchestrator.folder.layout import locked\n"
    code += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(UserError, match=f"another process works on this run .pid {holder.pid} on"),
            locked(tmp_path),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    holder.stdout.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:  # a lock dies with its process
        with locked(tmp_path):
            return
    pytest.fail("the lock outlived its holder")


def test_a_folder_that_can_not_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/run: can not be written"), locked(tmp_path / "file" / "run"):
        pass


def test_the_reference_starts_from_the_same_weights(tmp_path):
    layout = RunLayout(tmp_path)
    assert layout.reference.backbone == layout.backbone
    assert layout.reference.checkpoint(0) == tmp_path / "reference" / "cycle-000" / "checkpoint"


@pytest.mark.parametrize("how", ["renamed", "removed", "renamed and made anew"])
@pytest.mark.parametrize("fails", [True, False])
def test_a_folder_that_is_renamed_while_it_is_worked_on_is_named_with_the_way_on(tmp_path, how, fails):
    root = tmp_path / "run"

    def work():
        with locked(root):
            shutil.rmtree(root) if how == "removed" else root.rename(tmp_path / "other")
            if how == "renamed and made anew":
                write_json(root / "summary.json", {})
            if fails:
                (root / "cycle-000/checkpoint").stat()

    with pytest.raises(UserError, match=r"run: was renamed or removed while it was worked on; .*--out"):
        work()


def test_an_error_in_a_folder_that_is_where_it_was_stays_as_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), locked(tmp_path / "run"):
        (tmp_path / "nothing").stat()


def test_all_of_a_stage_is_on_the_disk_before_its_manifest(tmp_path, monkeypatch):
    flushed = []
    true = os.fsync

    def fsync(descriptor):
        flushed.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")).removeprefix(".tmp-"))
        true(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)

    def make(staging):
        flushed.clear()
        (staging / "inner").mkdir()
        for name in ("a", "inner/b"):
            write_json(staging / name, {}, flush=False)

    once(tmp_path / "scores", make)
    [manifest] = [place for place, name in enumerate(flushed) if name.endswith("manifest.json")]
    assert {"a", "b", "inner"} <= set(flushed[:manifest])
