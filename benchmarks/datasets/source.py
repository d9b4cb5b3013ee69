"""What a raw data set is to `ingest`: named classes and, per split, samples that are read one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from benchmarks.images import Palette, Size, UInt8, check_image, read_rgb
from querying.errors import UserError
from querying.files import sha256

Pixels = tuple[UInt8, UInt8 | None]
"""An image (H, W, 3) and its mask (H, W), or None."""

_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a cheap look at a sample found.  `image` tells equal images apart from others; `where` names the sample."""

    size: Size
    image: str
    mask: str
    where: str


class Sample(Protocol):
    @property
    def image_id(self) -> str: ...

    def check(self) -> Checked:
        """Look for whatever can be wrong, short of decoding the image; UserError names the file."""

    def read(self) -> Pixels:
        """Decode both."""


@dataclass(frozen=True, slots=True)
class FileSample:
    """An image file and perhaps a mask file, which `read_labels` turns into class ids and IGNORE."""

    image_id: str
    image: Path
    mask: Path | None
    read_labels: Callable[[Path], UInt8]

    def check(self) -> Checked:
        size = check_image(self.image)
        self._labels(size)
        return Checked(size, sha256(self.image), sha256(self.mask) if self.mask else "", str(self.image))

    def read(self) -> Pixels:
        image_HWC = read_rgb(self.image)
        height, width, _ = image_HWC.shape
        return image_HWC, self._labels((height, width))

    def _labels(self, size: Size) -> UInt8 | None:
        if self.mask is None:
            return None
        labels_HW = self.read_labels(self.mask)
        if labels_HW.shape != size:
            height, width = labels_HW.shape
            raise UserError(
                f"{self.mask}: {width} x {height} pixels, but the image {self.image} is {size[1]} x {size[0]} "
                f"(upright, width x height)"
            )
        return labels_HW


@dataclass(frozen=True, slots=True)
class RawDataset:
    """`size` = (height, width) to resize to, None = leave; `parameters` = all else that shapes the result."""

    name: str
    classes: Sequence[str]
    palette: Palette
    splits: Mapping[str, Sequence[Sample]]
    size: Size | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def draw(names: Sequence[str], count: int, seed: int) -> set[str]:
    """`count` of the names, by the hash of seed and name: the same on every machine and in every order."""

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()

    return set(sorted(names, key=key)[:count])


def files_by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Every image below `folder` by its relative path without suffix, sorted.

    Two files with one stem, or an image in a format other than `suffixes`, are a UserError: skipping would hide it.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        suffix = path.suffix.lower()
        if suffix not in _IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if suffix not in suffixes:
            raise UserError(f"{path}: must be one of {', '.join(suffixes)}")
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise UserError(f"{path}: {found[stem]} has the same name without suffix")
        found[stem] = path
    return found
