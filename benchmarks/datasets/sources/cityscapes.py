"""Cityscapes, fine annotations, 19 classes, in its official layout."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from benchmarks.datasets.files.images import Size, UInt8, Unknown, map_ids, read_mask
from benchmarks.datasets.files.listing import PNG, list_images, named
from benchmarks.datasets.sources.source import FileSample, RawDataset, draw
from querying.base.errors import UserError
from querying.dataset.label_values import IGNORE

CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
PALETTE = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153), (250, 170, 30),
    (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142),
    (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
)  # fmt: skip
_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
TRAIN_ID_OF_LABEL_ID = {
    **dict.fromkeys((*range(34), IGNORE), IGNORE),  # 255 stands for -1, the licence plates
    **{label_id: train_id for train_id, label_id in enumerate(_LABEL_IDS)},
}
TRAIN_IDS = {**{train_id: train_id for train_id in range(19)}, IGNORE: IGNORE}

_TAIL = "_leftImg8bit.png"

Protocol = Literal["al", "ssl"]
AL_SIZE = (688, 688)
_VAL_SHARE = 300 / 2975


def load(
    src: Path, size: Size | None, *, protocol: Protocol = "al", seed: int = 0, unknown: Unknown = "error"
) -> RawDataset:
    """The official train and val (test has no public labels), split as the protocol says.

    al: as DEAL and S4AL: 300 of the 2,975 train images become val, drawn city by city with `seed`; the official val
    is the test set; 688 x 688 pixels unless `size` says otherwise.  ssl: train and val as they are, full size.
    """
    if protocol not in ("al", "ssl"):
        raise UserError(f"protocol {protocol!r}: there are al and ssl")
    said: list[str] = []
    train, val = (_samples(src, split, unknown, said) for split in ("train", "val"))
    parameters: dict[str, object] = {"protocol": protocol, "unknown": unknown}
    if protocol == "ssl":
        return RawDataset("cityscapes", CLASSES, PALETTE, {"train": train, "val": val}, size, parameters, said)
    held_out = _held_out([sample.image_id for sample in train], seed)
    splits = {
        "train": [sample for sample in train if sample.image_id not in held_out],
        "val": [sample for sample in train if sample.image_id in held_out],
        "test": val,
    }
    return RawDataset("cityscapes", CLASSES, PALETTE, splits, size or AL_SIZE, parameters | {"seed": seed}, said)


def _samples(src: Path, split: str, unknown: Unknown, said: list[str]) -> list[FileSample]:
    images, truth = src / "leftImg8bit" / split, src / "gtFine" / split
    for folder in (images, truth):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder: not the layout of Cityscapes")
    samples = []
    listing = list_images(images, PNG)
    frames = [path for path in listing.images if path.name.endswith(_TAIL) and path.parent.parent == images]
    others = sorted({*listing.images} - {*frames})
    said += listing.notes() + ([f"left out: {named(others, why=f'not CITY/*{_TAIL}')}"] if others else [])
    for image in frames:
        image_id = image.name.removesuffix(_TAIL)
        stem = truth / image.parent.name / f"{image_id}_gtFine"
        train_ids, label_ids = (stem.with_name(f"{stem.name}_{kind}.png") for kind in ("labelTrainIds", "labelIds"))
        if not (train_ids.is_file() or label_ids.is_file()):
            raise UserError(f"{label_ids}: does not exist, nor {train_ids.name}: {image} has no annotation")
        mask, ids = (train_ids, TRAIN_IDS) if train_ids.is_file() else (label_ids, TRAIN_ID_OF_LABEL_ID)
        samples.append(FileSample(image_id, image, mask, partial(_read_labels, ids=ids, unknown=unknown)))
    return samples


def _read_labels(path: Path, ids: Mapping[int, int], unknown: Unknown) -> UInt8:
    return map_ids(read_mask(path), ids, path, unknown)


def _held_out(image_ids: Sequence[str], seed: int) -> set[str]:
    """300 of 2,975 images, or as large a share, at least one; every city gives its share (largest remainders)."""
    cities: dict[str, list[str]] = defaultdict(list)
    for image_id in image_ids:
        cities[image_id.split("_")[0]].append(image_id)
    total = max(1, round(_VAL_SHARE * len(image_ids)))
    quota = {city: total * len(ids) / max(1, len(image_ids)) for city, ids in cities.items()}
    take = {city: int(share) for city, share in quota.items()}
    by_remainder = sorted(quota, key=lambda city: (take[city] - quota[city], city))
    for city in by_remainder[: total - sum(take.values())]:
        take[city] += 1
    return set().union(*(draw(ids, take[city], seed) for city, ids in cities.items()))
