"""Where images and masks lie below a folder, and which of them are train, val and test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.datasets.files.listing import list_images, named
from querying.base.errors import UserError

Splits = Literal["auto", "folders", "draw"]
"""Whether folders called train, val and test are the splits, or val and test are drawn."""
SPLITS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
IMAGES = ("images", "image", "imgs", "img", "jpegimages")
MASKS = (
    "masks", "mask", "labels", "label", "annotations", "annotation", "annot", "segmentationclass", "segmentations",
    "gt", "ground_truth", "groundtruth",
)  # fmt: skip
"""What people call these folders, in any case; the first name is the documented one and wins."""
_BESIDE = ("annot", "_annot", "_annotations", "_labels", "_label", "_masks", "_mask", "_gt")
"""Behind a split's name: the masks of images that lie in the split's folder itself, as CamVid has them."""
_LISTS = ("ImageSets/Segmentation/{}.txt", "{}.txt")


@dataclass(frozen=True, slots=True)
class Part:
    """A folder of images and that of their masks (None: there is none)."""

    images: Path
    masks: Path | None


@dataclass(frozen=True, slots=True)
class Layout:
    """`parts` by split; by "" alone where val and test are to be drawn.  `said`: how it was recognised."""

    parts: Mapping[str, Part]
    said: tuple[str, ...]


def find_layout(src: Path, images: str | None = None, masks: str | None = None, splits: Splits = "auto") -> Layout:
    """SRC/images + SRC/masks, SRC/<split>/images + .../masks, SRC/images/<split> + SRC/masks/<split>, or SRC/<split> +
    SRC/<split>_labels; other common names are known.  `images` and `masks` are folders below SRC, perhaps with
    {split}.  UserError where nothing or more than one thing fits.
    """
    found = _found(src) if images is None else _given(src, images)
    if list(found) == [""] and splits != "draw":
        found = _nested(found[""], splits) or found
    if splits == "draw" and list(found) != [""]:
        raise UserError(
            f"{src}: --splits draw: the images of each split lie in a folder of their own; there is no common"
        )
    if splits == "folders" and list(found) == [""]:
        raise UserError(f"{src}: --splits folders: no folders train, val, test with images in them")
    if list(found) == [""] and splits == "auto":
        _refuse_lists(src)
    if "" not in found and "train" not in found:
        missing = next(iter(found.values()))
        raise UserError(f"{src}: there are images for {', '.join(found)} ({missing}), but no train folder with images")
    parts = {split: Part(folder, _masks_of(src, split, folder, masks)) for split, folder in found.items()}
    return Layout(parts, tuple(_said(src, parts)))


def _given(src: Path, template: str) -> dict[str, Path]:
    if "{split}" not in template:
        if not (src / template).is_dir():
            raise UserError(f"--images {template}: {src / template}: no such folder")
        return {"": src / template}
    found = _by_split({alias: src / template.replace("{split}", alias) for names in SPLITS.values() for alias in names})
    if not found:
        raise UserError(f"--images {template}: no folder of that name for train, val or test below {src}")
    return found


def _found(src: Path) -> dict[str, Path]:
    """Image folders in the layouts that are known; UserError where two of them are there, or none."""
    split_folders = _by_split({path.name: path for path in _folders(src)})
    ways = {
        "images": {"": folder} if (folder := _child(src, IMAGES)) else {},
        "<split>/images": {split: f for split, path in split_folders.items() if (f := _child(path, IMAGES))},
        "<split>": {split: path for split, path in split_folders.items() if _beside(path)},
    }
    there = {way: found for way, found in ways.items() if found}
    if not there:
        have = ", ".join(f"{path.name}/" for path in _folders(src)[:8]) or "no folder"
        raise UserError(
            f"{src / 'images'}: no such folder; expected images/ and masks/ below {src}, which has {have};"
            " --images FOLDER and --masks FOLDER say where they are"
        )
    if len(there) > 1:
        folders = " and ".join(str(next(iter(found.values()))) for found in there.values())
        raise UserError(
            f"{src}: images could be in {folders}; say which: --images FOLDER (with {{split}} if they differ)"
        )
    return next(iter(there.values()))


def _nested(images: Path, splits: Splits) -> dict[str, Path]:
    """The splits below a folder of images, where they are all that is in it."""
    inside = _by_split({path.name: path for path in _folders(images)})
    inside = {split: path for split, path in inside.items() if splits == "folders" or list_images(path).images}
    if not inside or splits == "folders":
        return inside
    others = [path for path in list_images(images).images if not any(path.is_relative_to(f) for f in inside.values())]
    if others or "train" not in inside:
        what = named(others, "image", "beside them") if others else f"there is no {images / 'train'}"
        raise UserError(
            f"{images}: are the folders {', '.join(path.name for path in inside.values())} the splits? {what}."
            " --splits folders takes them as splits, --splits draw takes all images and draws val and test"
        )
    return inside


def _refuse_lists(src: Path) -> None:
    for pattern in _LISTS:
        lists = [path for names in SPLITS.values() for name in names if (path := src / pattern.format(name)).is_file()]
        if lists:
            raise UserError(
                f"{lists[0]}: a list of a split, which is not read: put the images of each split into a folder of its"
                " own (images/train, ...), or draw val and test anew: --splits draw"
            )


def _masks_of(src: Path, split: str, images: Path, template: str | None) -> Path | None:
    if template is not None:
        names = SPLITS[split] if split else ("",)
        tried = [src / template.replace("{split}", name) for name in names]
        if not split and "{split}" in template:
            raise UserError(f"--masks {template}: there are no splits; leave {{split}} out")
        nested = [path / name for path in tried for name in names] if split and "{split}" not in template else []
        found = [path for path in (*nested, *tried) if path.is_dir()]
        if not found:
            raise UserError(f"--masks {template}: {tried[0]}: no such folder")
        return found[0]
    if not split:
        return _child(images.parent, MASKS) if images != src else _child(src, MASKS)
    if images.parent == src:  # SRC/<split> beside SRC/<split>annot
        return _beside(images)
    if images.name.lower() in IMAGES:  # SRC/<split>/images
        return _child(images.parent, MASKS)
    above = _child(images.parent.parent, MASKS)  # SRC/images/<split>
    return _by_split({path.name: path for path in _folders(above)}).get(split) if above else None


def _said(src: Path, parts: Mapping[str, Part]) -> list[str]:
    shown = [
        f"{split + ': ' if split else ''}{_below(src, part.images)} + {_below(src, part.masks)}"
        for split, part in parts.items()
    ]
    used = [path for part in parts.values() for path in (part.images, part.masks) if path is not None]
    near = {path.parent for path in used if path != src and path.is_relative_to(src)} | {src}
    unused = [folder for above in sorted(near) for folder in _folders(above)]
    unused = [
        folder for folder in unused if not any(p.is_relative_to(folder) or folder.is_relative_to(p) for p in used)
    ]
    left = [(folder, list_images(folder).images) for folder in unused]
    return [
        f"layout: {'; '.join(shown)}",
        *(f"not read: {named(paths, 'image', f'in {folder}')}" for folder, paths in left if paths),
    ]


def _below(src: Path, folder: Path | None) -> str:
    return "no masks" if folder is None else str(folder.relative_to(src) if folder.is_relative_to(src) else folder)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__MACOSX")))


def _child(folder: Path, names: tuple[str, ...]) -> Path | None:
    """The sub-folder that has one of the names; of several the documented name, else UserError."""
    found = [path for path in _folders(folder) if path.name.lower() in names]
    exact = [path for path in found if path.name == names[0]]
    if len(found) > 1 and not exact:
        option = "--images" if names is IMAGES else "--masks"
        raise UserError(f"{folder}: {' or '.join(path.name for path in found)}? {option} FOLDER says which")
    return exact[0] if exact else found[0] if found else None


def _beside(images: Path) -> Path | None:
    found = [
        path for path in _folders(images.parent) if path.name.lower() in {images.name.lower() + t for t in _BESIDE}
    ]
    if len(found) > 1:
        raise UserError(f"{images.parent}: {' or '.join(path.name for path in found)}? --masks FOLDER says which")
    return found[0] if found else None


def _by_split(named_folders: Mapping[str, Path]) -> dict[str, Path]:
    """Folders by the split that their names stand for; UserError where two names stand for one."""
    found: dict[str, Path] = {}
    for split, names in SPLITS.items():
        paths = [path for name, path in named_folders.items() if name.lower() in names and path.is_dir()]
        if len(paths) > 1:
            raise UserError(f"{' and '.join(map(str, paths))}: both could be {split}; rename one of them")
        if paths:
            found[split] = paths[0]
    return found
