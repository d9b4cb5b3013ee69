"""Anybody's images in folders, with masks for all, some or none of them.  docs/use/ingest.md is the page on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.datasets.classes.choice import choose_classes
from benchmarks.datasets.classes.class_file import read_classes
from benchmarks.datasets.classes.mask_values import Found, Values, decide, look_at_mask, read_labels
from benchmarks.datasets.files.images import Size, Unknown
from benchmarks.datasets.files.layout import Splits, find_layout
from benchmarks.datasets.files.listing import named
from benchmarks.datasets.files.pairs import Pairs, find_pairs
from benchmarks.datasets.sources import project
from benchmarks.datasets.sources.drawn import ShapeSample, samples_of
from benchmarks.datasets.sources.source import Exif, FileSample, RawDataset, draw
from orchestrator.annotation.rounds import is_project
from querying.base.errors import UserError


def load(
    src: Path,
    size: Size | None,
    *,
    classes_file: Path,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    unknown: Unknown = "error",
    images: str | None = None,
    masks: str | None = None,
    mask_suffix: str | None = None,
    image_suffix: str = "",
    splits: Splits = "auto",
    ignore: Sequence[str] = (),
    maps: Sequence[str] = (),
    values: Values = "auto",
    exif: Exif = "auto",
    bits: int | None = None,
    no_masks: bool = False,
    shapes: str | None = None,
) -> RawDataset:
    """The data set of a folder that `s4al init` has made (`project.load`), else images and masks below SRC, paired by
    name (layouts: `find_layout`, names: `find_pairs`), classes of `classes_file` (`read_classes`, `choose_classes`),
    labels by value or by colour (`mask_values.decide`).

    Without split folders, val and test are drawn with `seed` from the images that have a mask; when no image has
    one, which `no_masks` must allow, all are train.  The image id is the path below the images' folder, without
    suffix, with __ for /.  `exif` and `bits`: of `FileSample`.  `shapes`: where masks are shapes in text files
    (`drawn.samples_of`).
    """
    if is_project(src):
        options: dict[str, tuple[object, object]] = {
            "images": (images, None), "masks": (masks, None), "mask_suffix": (mask_suffix, None),
            "image_suffix": (image_suffix, ""), "splits": (splits, "auto"), "ignore": (list(ignore), []),
            "map": (list(maps), []), "values": (values, "auto"), "exif": (exif, "auto"), "bits": (bits, None),
            "no_masks": (no_masks, False), "shapes": (shapes, None),
        }  # fmt: skip
        return project.load(src, size, classes_file, options)
    file = read_classes(classes_file)
    choice = choose_classes(file, ignore, maps)
    layout = find_layout(src, images, masks, splits)
    pairs = {split: find_pairs(part, mask_suffix, image_suffix) for split, part in layout.parts.items()}
    said = [*choice.said, *layout.said, *(line for pair in pairs.values() for line in pair.said)]
    samples: dict[str, list[FileSample | ShapeSample]]
    by_colour: list[str] = []
    if shapes is None:
        found = look_at_masks(pairs)
        if not found.pixels and not no_masks:
            folders = [part.masks for part in layout.parts.values()]
            raise _no_masks(src, pairs, folders, [part.images for part in layout.parts.values()])
        reading = decide(found, choice, values, unknown, classes_file)
        labels, more = partial(read_labels, reading=reading), reading.said
        by_colour = sorted(reading.kinds - {"colour"})
        samples = {
            split: [FileSample(stem.replace("/", "__"), *both, labels, exif, bits) for stem, both in pair.of.items()]
            for split, pair in pairs.items()
        }
    else:
        outlined, lines = samples_of(src, pairs, shapes, file, choice, exif, bits)
        samples, more = {split: [*here] for split, here in outlined.items()}, tuple(lines)
    parameters: dict[str, object] = {"unknown": unknown}
    if "" in samples:
        fractions = {"val": val_fraction, "test": test_fraction}
        samples = _drawn(samples[""], fractions, seed, src)
        parameters |= {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": seed}
        drawn = ", ".join(f"{len(here)} {split}" for split, here in samples.items())
        said.append(f"no split folders: drawn with seed {seed} from the images with a mask: {drawn}")
    for sample in (sample for split in samples if split != "train" for sample in samples[split]):
        if sample.mask is None:
            raise UserError(f"{sample.image}: no mask; an image of val or test needs one")
    bare = [sample.image for sample in samples["train"] if sample.mask is None]
    if bare:
        said.append(f"without a mask, so pool only: {named(bare, 'train image')}")
    own = {"ignore": list(ignore), "map": list(maps), "ids": list(choice.ids), "by_colour": by_colour, "bits": bits}
    own["shapes"] = shapes
    own["exif"] = exif if exif == "ignore" else None
    parameters |= {key: value for key, value in own.items() if value}  # what was made without options stays as it is
    said += more
    return RawDataset(src.resolve().name, choice.names, choice.palette, samples, size, parameters, said)


def look_at_masks(pairs: dict[str, Pairs]) -> Found:
    """Decode every mask once, so that what they all hold decides how each is read."""
    found = Found()
    paths = [mask for pair in pairs.values() for _, mask in pair.of.values() if mask is not None]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for path, pixels in zip(paths, pool.map(look_at_mask, paths), strict=True):
            found.add(path, pixels)
    return found


def _no_masks(
    src: Path, pairs: dict[str, Pairs], folders: Sequence[Path | None], searched: Sequence[Path]
) -> UserError:
    images = [image for pair in pairs.values() for image, _ in pair.of.values()]
    if not images:
        return UserError(f"{src}: no image in {', '.join(map(str, searched))}")
    looked = ", ".join(str(folder) for folder in folders if folder) or f"{src / 'masks'} or a folder of the like"
    return UserError(
        f"{looked}: no mask of any image is there ({named(images, 'image')}): this data set alone teaches nothing;"
        " --masks FOLDER and --mask-suffix say where masks are, --shapes where COCO's, LabelMe's or YOLO's files,"
        " --no-masks takes the images as a pool without labels"
    )


def _drawn(
    samples: list[FileSample | ShapeSample], fractions: dict[str, float], seed: int, src: Path
) -> dict[str, list[FileSample | ShapeSample]]:
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
    splits: dict[str, list[FileSample | ShapeSample]] = {}
    left = {sample.image_id for sample in samples}
    for split, count in counts.items():
        taken = draw([name for name in masked if name in left], count, seed)
        splits[split] = [sample for sample in samples if sample.image_id in taken]
        left -= taken
    return {"train": [sample for sample in samples if sample.image_id in left], **splits}
