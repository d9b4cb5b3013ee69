"""CamVid in the 11-class copy of the SegNet tutorial (480 x 360 pixels, 367 / 101 / 233 images)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path, PurePosixPath

from benchmarks.datasets.files.images import Size, UInt8, Unknown, map_ids, read_mask
from benchmarks.datasets.files.listing import PNG, list_images
from benchmarks.datasets.files.pairs import by_stem, refuse_formats
from benchmarks.datasets.sources.source import FileSample, RawDataset
from querying.base.errors import UserError
from querying.dataset.label_values import IGNORE

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
PALETTE = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
IDS = {**{label: label for label in range(11)}, 11: IGNORE, IGNORE: IGNORE}
SPLITS = ("train", "val", "test")


def load(src: Path, size: Size | None, *, unknown: Unknown = "error") -> RawDataset:
    """SRC/<split>.txt lists "image annotation" pairs; without the lists, SRC/<split> and SRC/<split>annot are paired.

    The tutorial's own lists start with /SegNet/CamVid: only the last two parts of a listed path count.
    """
    read_labels = partial(_read_labels, unknown=unknown)
    splits, said = {}, []
    for split in SPLITS:
        listed = src / f"{split}.txt"
        pairs, left_out = (_listed(src, listed), []) if listed.is_file() else _paired(src, split)
        splits[split] = [FileSample(image.stem, image, mask, read_labels) for image, mask in pairs]
        said += left_out
    return RawDataset("camvid", CLASSES, PALETTE, splits, size, {"unknown": unknown}, said)


def _read_labels(path: Path, unknown: Unknown) -> UInt8:
    return map_ids(read_mask(path), IDS, path, unknown)


def _listed(src: Path, listed: Path) -> list[tuple[Path, Path]]:
    pairs = []
    for number, line in enumerate(listed.read_text("utf-8-sig", "replace").splitlines(), 1):
        if not line.strip():
            continue
        ways = [(line[: gap.start()], line[gap.end() :]) for gap in re.finditer(r"\s+", line.strip())]
        if not ways:
            raise UserError(f"{listed}: line {number} is not a pair 'image annotation'")
        both = [tuple(src.joinpath(*PurePosixPath(name.strip()).parts[-2:]) for name in way) for way in ways]
        there = [pair for pair in both if all(path.is_file() for path in pair)]  # a name may have spaces
        if len(there) != 1:
            if there:
                raise UserError(f"{listed}: line {number} could be more than one pair of files")
            missing = next(path for path in both[0] if not path.is_file())
            raise UserError(f"{missing}: does not exist, although {listed} lists it in line {number}")
        image, mask = there[0]
        pairs.append((image, mask))
    return pairs


def _paired(src: Path, split: str) -> tuple[list[tuple[Path, Path]], list[str]]:
    images, masks = src / split, src / f"{split}annot"
    for folder in (images, masks):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder, and no list {src / split}.txt: not the layout of CamVid")
    found = [list_images(folder, PNG) for folder in (images, masks)]
    for listing in found:
        refuse_formats(listing, PNG)
    image_of, mask_of = (by_stem(folder, here.images) for folder, here in zip((images, masks), found, strict=True))
    for stem in sorted(image_of.keys() ^ mask_of.keys()):
        missing, folder = ("annotation", masks) if stem in image_of else ("image", images)
        raise UserError(f"{folder / stem}.png: the {missing} of {image_of.get(stem) or mask_of[stem]} does not exist")
    return [(image_of[stem], mask_of[stem]) for stem in image_of], [note for here in found for note in here.notes()]
