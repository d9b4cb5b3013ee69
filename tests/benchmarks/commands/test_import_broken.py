"""`s4al annotate import` beside another one, and on a disk that is full: all of a file or nothing, once, and a line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.cli.failures import failure
from benchmarks.commands.people.annotate import import_command
from orchestrator.annotation.human import waiting_line
from orchestrator.annotation.imports import import_folders, rows_of
from orchestrator.annotation.package import About, Asked, read_package, write_package
from orchestrator.annotation.rounds import current_round
from orchestrator.folder.layout import locked, once
from orchestrator.folder.manifest import problems
from querying.dataset.codecs import encode_label

ROOT = Path(__file__).parents[3]
SIZE, NAMES = (48, 64), [f"i{number}" for number in range(6)]
BOXES = [(0, 0, 0, 16, 16), (11, 32, 48, 48, 64)]


def noise(seed):
    """Nothing that a PNG makes small."""
    return np.random.default_rng(seed).integers(0, 4, SIZE).astype(np.uint8)


def asked(root, whole=False):
    """A run that waits for answers, or a new project."""
    folder, boxes = root / ("round-0" if whole else "cycle-000") / "package", [(-1, 0, 0, *SIZE)] if whole else BOXES
    palette = tuple((value, 0, 200) for value in range(4))
    about = About("x", 0 if whole else 1, "m", "d", ("road", "car", "tree", "sky"), palette, *SIZE, 16)
    images = [Asked(name, np.zeros((*SIZE, 3), np.uint8), boxes, encode_label(noise(9))) for name in NAMES]
    once(folder, lambda out: write_package(out, about, images, dict.fromkeys(NAMES)))
    return root


def handed_in(root, names=NAMES):
    (root / "masks").mkdir(parents=True)
    for name in names:
        Image.fromarray(noise(NAMES.index(name))).save(root / "masks" / f"{name}.png")
    return root


def begin(run, file, who="anna"):
    command = [sys.executable, "-P", ROOT / "benchmarks" / "__main__.py", "annotate", "import", run, file, "--as", who]
    return subprocess.Popen([*map(str, command)], env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def ended(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def files(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*"))
            if path.is_file() and path.name != "run.lock"}  # fmt: skip


def test_what_comes_next_is_said_when_all_is_answered(tmp_path, capsys):
    for whole, said in (
        (False, ["next: the same `s4al run` again, which goes on"]),
        (
            True,
            ["next:", "  s4al ingest folder {0} {0}-data", "  s4al run {0}/recipe.yaml --data {0}-data --out {0}-run"],
        ),
    ):
        project = asked(tmp_path / f"p{whole}", whole)
        assert take(project, handed_in(tmp_path / f"some{whole}", NAMES[1:])) == 3
        assert "next" not in capsys.readouterr().out
        if not whole:
            assert "waiting for labels of cycle 1: 2 of 12 regions of 6 images, about 1 minute (" in waiting_line(
                project
            )
        assert take(project, handed_in(tmp_path / f"all{whole}")) == 0
        assert capsys.readouterr().out.splitlines()[-len(said) :] == [line.format(project) for line in said]
    run = tmp_path / "pFalse"
    assert waiting_line(run) == "all 12 regions of cycle 1 are answered: the same `s4al run` goes on"


def test_imports_at_once_take_each_answer_once_and_lose_none(tmp_path):
    """Six processes: three files, each of them twice."""
    run, parts = asked(tmp_path / "run"), []
    for number, who in enumerate(("anna", "bert", "cleo")):
        parts.append((handed_in(tmp_path / who, NAMES[number::3]), who))
    with locked(run):
        status, out, line = ended(begin(run, *parts[0]))
    assert (status, out) == (2, "")
    assert line.startswith(f"s4al: {run}: another process works on this run (")
    assert line.count("\n") == 1
    assert not (run / "cycle-000" / "answers").exists()

    waiting = [*parts, *parts]
    for _ in range(10):
        done = [(ended(process), part) for process, part in [(begin(run, *part), part) for part in waiting]]
        waiting = [part for (status, _, _), part in done if status == 2]
        for (status, _, line), _part in done:
            assert status in (0, 2, 3), line
            assert (line.count("\n"), "another process works on this run" in line) == (
                (1, True) if status == 2 else (0, False)
            )
        if not waiting:
            break
    assert not waiting
    folders = import_folders(run / "cycle-000" / "answers")
    assert [path.name for path in folders] == ["import-000", "import-001", "import-002"]
    assert not [line for folder in folders for line in problems(folder)]
    rows = [row for folder in folders for row in rows_of(folder / "regions.parquet")]
    assert sorted(row.cell for row in rows) == sorted((name, box[0]) for name in NAMES for box in BOXES)
    assert {(row.annotator, row.image_id) for row in rows} == {
        (who, name) for number, (_, who) in enumerate(parts) for name in NAMES[number::3]
    }
    assert not [path for path in run.rglob("*") if "tmp" in path.name or "part" in path.name]


def test_a_full_disk_at_any_place_writes_all_or_nothing(tmp_path, monkeypatch):
    """Every failpoint of an import: one line, nothing half there, and the same import again takes everything."""
    for whole in (False, True):
        project, source = asked(tmp_path / f"whole-{whole}" / "p", whole), handed_in(tmp_path / f"in-{whole}")
        before, trace = files(project), tmp_path / f"trace-{whole}"
        whole_one = shutil.copytree(project, tmp_path / f"calm-{whole}")
        monkeypatch.setenv("S4AL_FAILPOINT_TRACE", str(trace))
        assert take(whole_one, source) == 0
        monkeypatch.delenv("S4AL_FAILPOINT_TRACE")
        after = answers_of(whole_one)
        for number, place in enumerate(dict.fromkeys(trace.read_text().splitlines())):
            here = shutil.copytree(project, tmp_path / f"{whole}-{number}")
            monkeypatch.setattr("querying.base.failpoints._passed", type(_passed())())
            monkeypatch.setenv("S4AL_FAILPOINT", f"{place}=enospc")
            with pytest.raises(OSError, match="No space left") as broken:
                take(here, source)
            monkeypatch.delenv("S4AL_FAILPOINT")
            line, status = failure(broken.value)
            assert (status, line.count("\n")) == (5, 0)
            assert "No space left on device: free some space there" in line
            for folder in import_folders(current_round(here).answers):
                assert not problems(folder), place
            kept = files(here)
            assert {name: kept[name] for name in before} == before, place
            assert take(here, source) == 0
            assert answers_of(here) == after, place


def _passed():
    from querying.base import failpoints

    return failpoints._passed


def take(project, source):
    return import_command(project, source, False, "anna", "majority", "ask", False)


def answers_of(project):
    """What came back, without times and what was set aside."""
    return {name: content for name, content in files(project).items()
            if name.endswith(("regions.parquet", "source")) or name.startswith("masks/")}  # fmt: skip


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here (needs root)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_on_a_disk_that_is_really_full_nothing_is_half_written(small_disk, tmp_path):
    project, source = asked(small_disk / "run"), handed_in(tmp_path / "in")
    read_package(project / "cycle-000" / "package")
    before, refused = files(project), 0
    for left in range(0, 64, 12):
        free = shutil.disk_usage(small_disk).free
        (small_disk / "filler").write_bytes(bytes(max(0, free - 1024 * left)))
        status, _, line = ended(begin(project, source))
        (small_disk / "filler").unlink()
        if status != 5:
            break
        refused += 1
        assert line.startswith("s4al: "), line
        assert "No space left on device" in line
        assert line.count("\n") == 1
        assert {name: content for name, content in files(project).items() if ".tmp/" not in name} == before
    assert refused >= 2
    assert ended(begin(project, source))[0] == 0
    [folder] = import_folders(project / "cycle-000" / "answers")
    assert not problems(folder)
    assert len(list(rows_of(folder / "regions.parquet"))) == len(NAMES) * len(BOXES)
    assert not [name for name in files(project) if ".tmp/" in name], "what the broken ones left"
