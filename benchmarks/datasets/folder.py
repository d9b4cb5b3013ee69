"""Anybody's images in folders, with masks for all, some or none of them."""

from __future__ import annotations

import colorsys
import logging
import re
from functools import partial
from pathlib import Path

from benchmarks.datasets.source import FileSample, RawDataset, draw, files_by_stem
from benchmarks.images import Palette, Size, UInt8, Unknown, map_ids, read_mask
from querying.errors import UserError
from querying.labels import IGNORE

_log = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_IMAGES = (".png", ".jpg", ".jpeg")


def load(
    src: Path,
    size: Size | None,
    *,
    classes_file: Path,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    unknown: Unknown = "error",
) -> RawDataset:
    """SRC/images and SRC/masks, paired by name, or SRC/<split>/images and SRC/<split>/masks for train, val and test.

    Without split folders, val and test are drawn with `seed` from the images that have a mask; when no image has
    one, all are train.  `classes_file` has a name a line, perhaps followed by a colour "r g b"; when every
    class has one, masks may be RGB.  The image id is the path below `images`, without suffix, with __ for /.
    """
    names, palette, coloured = read_classes(classes_file)
    read_labels = partial(_read_labels, num_classes=len(names), palette=palette if coloured else None, unknown=unknown)
    parameters: dict[str, object] = {"unknown": unknown}
    present = [split for split in SPLITS if (src / split / "images").is_dir()]
    if present:
        splits = {split: _samples(src / split, read_labels) for split in present}
        if "train" not in splits:
            raise UserError(f"{src / 'train' / 'images'}: no such folder, although there is one for {present[0]}")
        for sample in (sample for split in present[1:] for sample in splits[split]):
            if sample.mask is None:
                raise UserError(f"{sample.image}: no mask; an image of val or test needs one")
    else:
        splits = _drawn(_samples(src, read_labels), {"val": val_fraction, "test": test_fraction}, seed, src)
        parameters |= {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": seed}
    if not any(sample.mask for sample in splits["train"]):
        masks = (src / "train" if present else src) / "masks"
        _log.warning("%s: no mask of any train image is there: this data set alone teaches nothing", masks)
    return RawDataset(src.resolve().name, names, palette, splits, size, parameters)


def read_classes(path: Path) -> tuple[list[str], Palette, bool]:
    """Names, colours, and whether the file gives every colour; else a palette of distinct ones is made."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a readable list of classes: {error}") from None
    names: list[str] = []
    colours: list[tuple[int, int, int]] = []
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"(.*?\S)(?:\s+(\d+)\s+(\d+)\s+(\d+))?", line.strip())
        if match is None:
            continue
        name, *rgb = match.groups()
        if not name.isprintable():
            raise UserError(f"{path}: line {number}: class {name!r} has characters that can not be printed")
        if name in names:
            raise UserError(f"{path}: line {number}: class {name!r} is there twice")
        names.append(name)
        if rgb[0] is not None:
            red, green, blue = (int(part.lstrip("0")[:4] or 0) for part in rgb)  # 4 digits are too many already
            if max(red, green, blue) > 255 or (red, green, blue) in colours:
                raise UserError(f"{path}: line {number}: colour {red} {green} {blue} is above 255 or there twice")
            colours.append((red, green, blue))
    if not 2 <= len(names) <= IGNORE:
        raise UserError(f"{path}: {len(names)} classes; 2 to {IGNORE} are possible")
    if colours and len(colours) != len(names):
        raise UserError(f"{path}: {len(colours)} of {len(names)} classes have a colour; give all of them one, or none")
    return names, colours or _palette(len(names)), bool(colours)


def _read_labels(path: Path, num_classes: int, palette: Palette | None, unknown: Unknown) -> UInt8:
    ids = {**{label: label for label in range(num_classes)}, IGNORE: IGNORE}
    return map_ids(read_mask(path, palette, unknown), ids, path, unknown)


def _samples(src: Path, read_labels: partial[UInt8]) -> list[FileSample]:
    if not (src / "images").is_dir():
        raise UserError(f"{src / 'images'}: no such folder; expected images/ and masks/ below {src}")
    images, masks = files_by_stem(src / "images", _IMAGES), files_by_stem(src / "masks", (".png",))
    for stem in masks.keys() - images.keys():
        raise UserError(f"{masks[stem]}: there is no image {src / 'images' / stem}.png or .jpg for this mask")
    return [FileSample(stem.replace("/", "__"), image, masks.get(stem), read_labels) for stem, image in images.items()]


def _drawn(samples: list[FileSample], fractions: dict[str, float], seed: int, src: Path) -> dict[str, list[FileSample]]:
    """Take each fraction of the masked images, at least one, and leave the rest for training."""
    for split, fraction in fractions.items():
        if not 0 <= fraction < 1:
            raise UserError(f"{split}_fraction {fraction}: must be at least 0 and below 1")
    masked = [sample.image_id for sample in samples if sample.mask]
    counts = {split: max(1, round(share * len(masked))) for split, share in fractions.items() if share and masked}
    if masked and sum(counts.values()) >= len(masked):
        raise UserError(
            f"{src / 'masks'}: {len(masked)} masks are too few to draw {' and '.join(counts)} from; "
            f"add masks or use folders {src}/train, {src}/val, {src}/test"
        )
    splits: dict[str, list[FileSample]] = {}
    left = {sample.image_id for sample in samples}
    for split, count in counts.items():
        taken = draw([name for name in masked if name in left], count, seed)
        splits[split] = [sample for sample in samples if sample.image_id in taken]
        left -= taken
    return {"train": [sample for sample in samples if sample.image_id in left], **splits}


def _palette(count: int) -> Palette:
    """Hues a golden ratio apart, in alternating brightness, so that neighbours in the list look different."""
    colours = []
    for label in range(count):
        rgb = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.8, (0.95, 0.7, 0.5)[label % 3])
        colours.append(tuple(round(255 * part) for part in rgb))
    return [(red, green, blue) for red, green, blue in colours]
