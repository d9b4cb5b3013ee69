"""What a raw data set is to `ingest`: named classes and, per split, samples that are read one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.datasets.files.images import Look, Palette, Size, UInt8, look, read_rgb
from querying.base.errors import UserError
from querying.base.files import sha256

Pixels = tuple[UInt8, UInt8 | None]
"""An image (H, W, 3) and its mask (H, W), or None."""


Exif = Literal["auto", "apply", "ignore"]
"""What EXIF's orientation does to an image: turn it upright, nothing, or (auto) what its mask's size shows."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What a cheap look at a sample found.  `image` tells equal images apart from others; `where` names the sample.

    `traits`: what of it is reinterpreted when it is read, keys of `TRAITS`.  `pixels`: of each label of the mask, int64
    (256,), None where there is no mask or it is not known before it is drawn.
    """

    size: Size
    image: str
    mask: str
    where: str
    traits: tuple[str, ...] = ()
    pixels: npt.NDArray[np.int64] | None = None


UNCLEAR = "EXIF unclear"
TRAITS = {
    "CMYK": "CMYK, turned to RGB without a colour profile",
    "alpha": "with an alpha channel, which is dropped",
    "animated": "animated, of which the first picture is taken",
    "16 bits": "of 16 bits, of which 8 are kept",
    "EXIF applied": "turned upright as EXIF says; --exif ignore takes them as stored",
    "EXIF ignored": "taken as stored, whatever EXIF says; --exif apply turns them upright",
    "EXIF by mask": "taken as stored, not as EXIF says, because the mask has the stored size; --exif apply turns them",
}
"""Every reinterpretation that is said, with the count and the first names."""


class RawSample(Protocol):
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
    exif: Exif = "apply"
    bits: int | None = None

    def check(self) -> Checked:
        seen = look(self.image, self.bits)
        labels_HW = None if self.mask is None else self.read_labels(self.mask)
        upright, traits = self._upright(seen, labels_HW), seen.traits
        if seen.orientation > 1:
            traits += (self._turned(seen, labels_HW, upright),)
        size = seen.size if upright else seen.stored
        self._check_size(labels_HW, size)
        pixels = None if labels_HW is None else np.bincount(labels_HW.ravel(), minlength=256)
        mask = sha256(self.mask) if self.mask else ""
        return Checked(size, sha256(self.image), mask, str(self.image), traits, pixels)

    def read(self) -> Pixels:
        labels_HW = None if self.mask is None else self.read_labels(self.mask)
        upright = self.exif == "apply" or self._upright(look(self.image, self.bits), labels_HW)
        image_HWC = read_rgb(self.image, self.bits, upright)
        self._check_size(labels_HW, (image_HWC.shape[0], image_HWC.shape[1]))
        return image_HWC, labels_HW

    def _upright(self, seen: Look, labels_HW: UInt8 | None) -> bool:
        """Whether the image is turned; a mask of the stored size, which is another one, was drawn on the stored one."""
        if self.exif != "auto" or labels_HW is None:
            return self.exif != "ignore"
        return seen.size == seen.stored or labels_HW.shape != seen.stored

    def _turned(self, seen: Look, labels_HW: UInt8 | None, upright: bool) -> str:
        if self.exif == "auto" and labels_HW is not None and seen.size == seen.stored:
            return UNCLEAR
        return "EXIF applied" if upright else "EXIF ignored" if self.exif == "ignore" else "EXIF by mask"

    def _check_size(self, labels_HW: UInt8 | None, size: Size) -> None:
        if labels_HW is not None and labels_HW.shape != size:
            height, width = labels_HW.shape
            raise UserError(
                f"{self.mask}: {width} x {height} pixels, but the image {self.image} is {size[1]} x {size[0]} "
                f"({'as stored' if self.exif == 'ignore' else 'upright'}, width x height)"
            )


@dataclass(frozen=True, slots=True)
class RawDataset:
    """`size` = (height, width) to resize to, None = leave; `parameters` = all else that shapes the result; `said` = a
    line for each thing that was recognised, left out or reinterpreted; `kept` = what becomes of images of several
    sizes."""

    name: str
    classes: Sequence[str]
    palette: Palette
    splits: Mapping[str, Sequence[RawSample]]
    size: Size | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    said: Sequence[str] = ()
    kept: str = "kept as they are (--size HxW makes all one)"


def draw(names: Sequence[str], count: int, seed: int) -> set[str]:
    """`count` of the names, by the hash of seed and name: the same on every machine and in every order."""

    def key(name: str) -> bytes:
        return hashlib.sha256(f"{seed}:{name}".encode(errors="surrogateescape")).digest()

    return set(sorted(names, key=key)[:count])
