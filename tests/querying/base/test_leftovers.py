"""What a killed process leaves goes with the next of its kind; what a living one makes stays, and the user's own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from querying.base.leftovers import folder_beside, remove_beside, remove_written, writing_into

ROOT = Path(__file__).parents[3]
INGEST = """
import os, signal, sys
from pathlib import Path
from benchmarks.datasets.ingest import ingest
def progress(done, total):
    if done == 4:
        os.kill(os.getpid(), signal.SIGKILL)
ingest("toy", None, Path(sys.argv[1]), size=(48, 64), shard_size=2, counts=(6, 1, 1), progress=progress)
"""


def test_a_killed_ingest_is_removed_by_the_next_one_to_the_same_place_and_said(tmp_path, caplog):
    from benchmarks.datasets.ingest import ingest

    done = subprocess.run([sys.executable, "-c", INGEST, tmp_path / "toy"], cwd=ROOT, timeout=120)
    assert done.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    bytes_left = sum(path.stat().st_size for path in left.rglob("*") if path.is_file())
    assert bytes_left > 0
    ingest("toy", None, tmp_path / "other", size=(48, 64), counts=(1, 1, 1))
    assert left.exists()
    with folder_beside(tmp_path / "toy") as living:  # another process, which lives
        (living / "images").mkdir()
        caplog.clear()
        ingest("toy", None, tmp_path / "toy", size=(48, 64), counts=(1, 1, 1))
        assert (living / "images").is_dir()
    assert [record.getMessage() for record in caplog.records] == [
        f"{left}: removed, {bytes_left / 1e6:.1f} MB that were left when a process was killed"
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "toy"]


def place(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("names", "goes"),
    [
        (["toy/images/x.arrow"], True),  # of an earlier version, which had no lock
        (["in-progress.lock"], True),  # killed between the rename and the end
        (["in-progress.lock", "toy/index.json", "toy/images/x.arrow"], True),
        (["toy/index.json", "toy/images/x.arrow"], False),  # somebody's copy of a data set
        (["toy/images/x.arrow", "notes.txt"], False),
        (["toy/thesis.pdf"], False),
    ],
)
def test_a_folder_of_the_user_that_is_called_likewise_stays(tmp_path, names, goes):
    own = tmp_path / "toy.tmp-abcdefgh"
    place(own, names)
    place(tmp_path / "toy.tmp-longer-name", ["toy/images/x.arrow"])
    place(tmp_path / "other.tmp-abcdefgh", ["other/images/x.arrow"])
    said = []
    remove_beside(tmp_path / "toy", said.append)
    assert own.exists() != goes
    assert len(said) == goes
    assert {path.name for path in tmp_path.iterdir()} >= {"toy.tmp-longer-name", "other.tmp-abcdefgh"}


def test_half_written_files_go_where_nobody_else_writes(tmp_path):
    left = [".tmp-7-a.png", ".tmp-123456-report.html", ".tmp-abcd_efg/regions-00000.arrow"]
    kept = ["a.png", ".tmp-7-notes", ".tmp-x-a.png", ".tmpfile", "below/.tmp-7-a.png"]
    place(tmp_path, [*left, *kept])
    said = []
    with writing_into(tmp_path, said.append):
        assert said == [
            f"{tmp_path}: removed 2 half-written files, the first .tmp-123456-report.html, 0.0 MB that were left when a"
            " process was killed"
        ]
        place(tmp_path, [".tmp-8-b.png"])  # ours, in the making
        with writing_into(tmp_path, said.append, scratch=True):
            assert len(said) == 1
        assert (tmp_path / ".tmp-8-b.png").exists()
    remove_written(tmp_path, said.append, only="a.onnx")
    assert (tmp_path / ".tmp-8-b.png").exists()
    with writing_into(tmp_path, said.append, scratch=True):
        pass
    there = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert there == sorted(kept)


def test_a_folder_that_is_not_there_is_no_error(tmp_path):
    said = []
    with writing_into(tmp_path / "none", said.append):
        pass
    remove_beside(tmp_path / "none" / "toy", said.append)
    assert (said, list(tmp_path.iterdir())) == ([], [])


def test_an_export_removes_what_a_killed_one_has_left(tmp_path, monkeypatch, capsys):
    from benchmarks.deploy import predict
    from benchmarks.deploy.onnx_file import Agreement

    place(tmp_path, [f".tmp-{os.getpid()}0-model.onnx", ".tmp-7-other.onnx"])
    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr(predict, "find_checkpoint", lambda run, cycle: run)
    same = Agreement(0.0, pixels=4, same=4, clear=4, clear_same=4)
    monkeypatch.setattr(predict, "export_onnx", lambda checkpoint, file: same)
    predict.export_command(tmp_path, tmp_path / "model.onnx", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-7-other.onnx", "model.onnx"]
    assert "removed 1 half-written files, the first .tmp-" in capsys.readouterr().out
