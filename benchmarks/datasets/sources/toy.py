"""Generated street scenes: no download, known labels, and hard enough that more labels give a better model."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.datasets.files.images import Size
from benchmarks.datasets.sources.source import Checked, Pixels, RawDataset
from benchmarks.datasets.street.canvas import CLASSES
from benchmarks.datasets.street.scene import draw_street
from querying.base.errors import UserError

PALETTE = (
    (70, 130, 180), (128, 0, 0), (128, 64, 128), (244, 35, 232), (107, 142, 35), (0, 0, 142), (220, 20, 60),
    (192, 192, 128), (250, 170, 30), (64, 64, 128), (0, 128, 192),
)  # fmt: skip
SIZE = (96, 128)
MIN_CLASSES = 6
_VERSION = 1
"""Raise it when the same parameters draw other pictures."""


@dataclass(frozen=True, slots=True)
class ToySample:
    """Picture `number` of a split: a function of these fields and nothing else."""

    seed: int
    split: str
    number: int
    size: Size
    num_classes: int

    @property
    def image_id(self) -> str:
        return f"{self.split}_{self.number:05d}"

    def check(self) -> Checked:
        return Checked(self.size, self.image_id, "", self.image_id)

    def read(self) -> Pixels:
        key = hashlib.sha256(f"{self.seed}/{self.split}/{self.number}".encode()).digest()
        height, width = self.size
        return draw_street(np.random.default_rng(int.from_bytes(key, "big")), height, width, self.num_classes)


def load(
    src: Path | None,
    size: Size | None,
    *,
    counts: tuple[int, int, int] = (160, 24, 60),
    num_classes: int = 8,
    seed: int = 0,
) -> RawDataset:
    """`counts` (train, val, test) pictures of `size` (default 96 x 128) with 6 to 11 classes; takes no input folder."""
    if src is not None:
        raise UserError(f"{src}: the toy data set is generated and takes no input folder")
    if not MIN_CLASSES <= num_classes <= len(CLASSES):
        raise UserError(f"num_classes {num_classes}: must be {MIN_CLASSES} to {len(CLASSES)}")
    if min(counts) < 1:
        raise UserError(f"counts {counts}: every split needs at least 1 image")
    size = size or SIZE
    splits = {
        split: [ToySample(seed, split, number, size, num_classes) for number in range(count)]
        for split, count in zip(("train", "val", "test"), counts, strict=True)
    }
    parameters = {"seed": seed, "version": _VERSION}
    return RawDataset("toy", CLASSES[:num_classes], PALETTE[:num_classes], splits, size, parameters)
