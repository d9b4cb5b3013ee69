import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.formats.export import export
from benchmarks.formats.shares import deal, with_pre
from querying.base.errors import DamagedError, InfrastructureError, UserError
from tests.benchmarks.formats.packages import blocks, make_package

ROOT = Path(__file__).parents[3]
FORMATS = ("labelstudio", "cvat", "folder")


def tree(root):
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


def many(root, count=20):
    return make_package(root, {f"image{number:02}": blocks() for number in range(count)})


@pytest.mark.parametrize("format_", FORMATS)
def test_the_same_package_gives_the_same_bytes_and_again_changes_nothing(tmp_path, format_, caplog):
    package = make_package(tmp_path / "p")
    for name in ("one", "two", "deep/er/three"):
        export(package, tmp_path / name, format_)
    assert tree(tmp_path / "one") == tree(tmp_path / "two") == tree(tmp_path / "deep" / "er" / "three")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    export(package, tmp_path / "one", format_)
    assert "is already this export: nothing to do" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "one").rglob("*")}
    assert str(tmp_path) not in str(tree(tmp_path / "one"))


def test_dst_appears_by_one_rename(tmp_path, monkeypatch):
    package, seen, replace = make_package(tmp_path / "p"), [], os.replace

    def noted(source, target):
        seen.append((Path(target), Path(target).exists(), tree(Path(source))))
        replace(source, target)

    monkeypatch.setattr("benchmarks.formats.export.os.replace", noted)
    export(package, tmp_path / "out", "cvat")
    assert seen == [(tmp_path / "out", False, tree(tmp_path / "out"))]


def test_another_dst_is_refused_and_left_as_it_is_and_an_empty_one_is_taken(tmp_path):
    package = make_package(tmp_path / "p")
    (tmp_path / "empty").mkdir()
    export(package, tmp_path / "empty", "folder")
    (tmp_path / "empty" / "masks" / "a1.png").write_bytes(b"work")
    export(package, tmp_path / "empty", "folder")  # what people put into masks/ is no difference
    assert (tmp_path / "empty" / "masks" / "a1.png").read_bytes() == b"work"
    (tmp_path / "empty" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"empty: exists, and .*/mine\.txt is not what this export has"):
        export(package, tmp_path / "empty", "folder")
    with pytest.raises(UserError, match=r"empty: exists, and .* is not what this export has"):
        export(package, tmp_path / "empty", "cvat")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: exists, and"):
        export(package, tmp_path / "file", "cvat")
    with pytest.raises(UserError, match=r"file: can not be written: .* is not a folder"):
        export(package, tmp_path / "file" / "below", "cvat")
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_package_that_is_not_what_was_written_is_named(tmp_path):
    package = make_package(tmp_path / "p")
    path = package.image(package.images[1])
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(DamagedError, match=f"{path.name}: not what was written"):
        export(package, tmp_path / "out", "cvat")
    path.unlink()
    with pytest.raises(DamagedError, match=f"{path.name}: does not exist"):
        export(package, tmp_path / "out", "cvat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


def test_images_are_dealt_once_but_for_the_part_that_all_share(tmp_path):
    package = many(tmp_path)
    lists = deal(package, 3, 0.2)
    sets = [{one.image_id for one in images} for images in lists]
    assert len(sets[0] & sets[1] & sets[2]) == 4
    assert sum(map(len, sets)) == 16 + 3 * 4
    assert max(map(len, sets)) - min(map(len, sets)) <= 1
    assert set.union(*sets) == {one.image_id for one in package.images}
    assert [[one.rank for one in images] for images in lists] == [sorted(one.rank for one in i) for i in lists]
    assert deal(package, 3, 0.2) == lists
    assert [len(images) for images in deal(package, 1, 0.5)] == [20]


@pytest.mark.parametrize("format_", FORMATS)
def test_several_annotators_get_folders_that_lie_side_by_side_on_one_server(tmp_path, format_):
    package = many(tmp_path / "p")
    lists = export(package, tmp_path / "out", format_, annotators=3, shared=0.2)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1", "2", "3"]
    for place, images in enumerate(lists, 1):
        own = tmp_path / "out" / str(place)
        assert (own / "README.txt").is_file()
        files = {path.name.rpartition("-")[2] for path in own.rglob("images/*.png")}
        assert files == {one.file for one in images}
    if format_ == "labelstudio":
        names = [path.parent.name for path in (tmp_path / "out").rglob("tasks.json")]
        assert len(set(names)) == 3


def test_a_share_of_the_images_comes_without_pre_annotation(tmp_path):
    package = many(tmp_path / "p")
    chosen = with_pre(package, 0.9)
    assert len(chosen) == 18
    export(package, tmp_path / "out", "labelstudio", pre=0.9)
    [path] = (tmp_path / "out").rglob("tasks.json")
    for one in json.loads(path.read_text()):
        kinds = {result["type"] for result in one["predictions"][0]["result"]}
        assert ("brushlabels" in kinds) == (one["data"]["image_id"] in chosen) == one["data"]["pre"]
        assert "rectanglelabels" in kinds
    export(package, tmp_path / "folder", "folder", pre=0.9)
    assert len(list((tmp_path / "folder" / "pre").iterdir())) == 18
    export(package, tmp_path / "cvat", "cvat", pre=0)
    assert not (tmp_path / "cvat" / "annotations.zip").exists()


def test_more_annotators_than_images_are_refused(tmp_path):
    with pytest.raises(UserError, match="--annotators 4: there are only 3 images"):
        export(make_package(tmp_path / "p"), tmp_path / "out", "folder", annotators=4)


KILLED = """
import sys
from pathlib import Path
from benchmarks.formats.export import export
from orchestrator.annotation.package import read_note
export(read_note(Path(sys.argv[1])), Path(sys.argv[2]), sys.argv[3])
"""


@pytest.mark.parametrize(("place", "format_"), [
    ("export:written", "labelstudio"), ("export:renamed", "labelstudio"), ("export:written", "cvat"),
    ("export:written", "folder"),
])  # fmt: skip
def test_a_killed_export_is_there_as_a_whole_or_not_at_all_and_the_next_one_clears_up(tmp_path, place, format_, caplog):
    package = make_package(tmp_path / "p")
    command = [sys.executable, "-c", KILLED, package.root, tmp_path / "out", format_]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "S4AL_FAILPOINT": f"{place}=kill"})
    assert done.returncode == -signal.SIGKILL
    export(package, tmp_path / "whole", format_)
    assert not (tmp_path / "out").exists() or tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert (tmp_path / "out").exists() == (place == "export:renamed")
    assert len(list(tmp_path.glob("out.tmp-*"))) == 1
    export(package, tmp_path / "out", format_)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert not list(tmp_path.glob("out.tmp-*"))
    assert "were left when a process was killed" in caplog.text


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    package = make_package(tmp_path / "p")
    monkeypatch.setenv("S4AL_FAILPOINT", "export:written=enospc")
    with pytest.raises(InfrastructureError, match="out: No space left on device: free some"):
        export(package, tmp_path / "out", "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]
