"""Every file of a folder is either an image that is read, or left out with a reason and a count."""

import os
from pathlib import Path

import pytest

from benchmarks.datasets.files.listing import AGAIN, FORMAT, HIDDEN, OTHER, list_images
from querying.base.errors import UserError


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def short(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_what_is_an_image_is_decided_by_suffix_and_the_rest_is_left_out_by_reason(tmp_path):
    taken = ["B/x.PNG", "a/y.jfif", "a/y.jpe", "s p a c e.tiff", "u.ppm", "v.JPG", "w.bmp"]
    junk = [
        ".DS_Store",
        "._v.JPG",
        ".hidden/z.png",
        "Thumbs.db",
        "__MACOSX/._v.JPG",
        "a/.ipynb_checkpoints/y-checkpoint.jpg",
    ]
    touch(tmp_path, *taken, *junk, "i.heic", "j.webp", "notes.txt", "README")
    found = list_images(tmp_path)
    assert short(found.images, tmp_path) == sorted(taken)
    assert {reason: short(paths, tmp_path) for reason, paths in found.left_out.items()} == {
        HIDDEN: sorted(junk), FORMAT: ["i.heic", "j.webp"], OTHER: ["README", "notes.txt"],
    }  # fmt: skip
    assert f"left out: 6 files ({HIDDEN}): {tmp_path}/.DS_Store, " in "\n".join(found.notes())
    assert short(list_images(tmp_path, (".png",)).images, tmp_path) == ["B/x.PNG"]


def test_linked_folders_are_followed_once_and_loops_end(tmp_path):
    root, outside = tmp_path / "root", tmp_path / "outside"
    touch(root, "own/a.png")
    touch(outside, "b.png", "deep/c.png")
    for link, target in (
        ("linked", outside), ("linked again", outside), ("same", root / "own"), ("loop", root), ("up", tmp_path),
    ):  # fmt: skip
        (root / link).symlink_to(target)
    (outside / "deep/back").symlink_to(outside)
    (root / "file.png").symlink_to(outside / "b.png")
    found = list_images(root)
    assert short(found.images, root) == ["file.png", "linked/b.png", "linked/deep/c.png", "own/a.png"]
    assert short(found.left_out[AGAIN], root) == ["linked/deep/back", "linked again", "loop", "same", "up"]


def test_a_folder_whose_listing_fails_is_named_and_not_skipped(tmp_path, monkeypatch):
    touch(tmp_path, "a.png", "b/c.png")
    real = os.scandir

    def scandir(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError, match=r"b: can not be read: Permission denied"):
        list_images(tmp_path)
