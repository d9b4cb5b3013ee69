"""Pixels and labels of image files that nobody has checked: whatever is wrong with one is a UserError that names it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from benchmarks.datasets.files.image_files import TURNS, opened, orientation, raw_mode
from querying.base.errors import UserError
from querying.dataset.label_values import IGNORE

UInt8 = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""(height, width) in pixels."""
Palette = Sequence[tuple[int, int, int]]
Unknown = Literal["error", "ignore"]
"""What to do with a label that the data set does not have."""

_ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
_GREY_STEP = {"L;2": 85, "L;4": 17}
"""The library stretches grey of 2 and 4 bits to 0..255; ids must come back as they were written."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an image file's header says.  `size`: upright; `stored`: as the pixels lie in the file; `orientation`: of
    EXIF, 1 to 8; `traits`: what of it is reinterpreted when it is read, such as "CMYK"."""

    size: Size
    stored: Size
    orientation: int
    traits: tuple[str, ...]


def read_rgb(path: Path, bits: int | None = None, upright: bool = True) -> UInt8:
    """Pixels (H, W, 3) of an image file; `upright` turns them as its EXIF orientation says.

    Grey, palette and CMYK images are converted to RGB; an alpha channel is dropped.  Of 16 bits the highest 8 of the
    lowest `bits` are kept.  Without `bits` that is the high byte, and an image that would then be dark all over, as
    cameras of 10 to 14 bits write them, is a UserError; so is a value above `bits` bits.
    """
    with opened(path) as image:
        turn = TURNS.get(orientation(image)) if upright else None
        rgb: Image.Image = image
        if _is_deep(image):
            rgb = _shallow(path, image, bits)
        elif "transparency" in image.info:
            rgb = image.convert("RGBA")
        rgb = rgb.convert("RGB")
        return np.array(rgb if turn is None else rgb.transpose(turn))


def read_mask(
    path: Path, palette: Palette | None = None, unknown: Unknown = "error", data: bytes | None = None
) -> UInt8:
    """Label ids (H, W) of a lossless mask, exactly as written: grey of 1 to 16 bits (ids up to 255) or palette indices.

    With `palette`, an RGB mask is read by colour: `palette[k]` is id k; another colour is an error, or IGNORE.
    With `data` that is read, and `path` only says where it came from.
    """
    with opened(path, data) as image:
        check_mask(path, image)
        if image.mode == "RGB" and palette is None:
            raise UserError(
                f"{path}: a colour mask; write label ids as grey or palette PNG, or give every class a colour"
            )
        mask = mask_values(path, image)
    if mask.ndim == 3:
        assert palette is not None
        return _by_colour(mask, palette, path, unknown)
    return mask


def mask_values(path: Path, image: ImageFile) -> UInt8:
    """The ids (H, W) of a grey or palette mask, or the colours (H, W, 3), as they were written."""
    raw = raw_mode(image)
    mask = np.array(image)
    if raw in _GREY_STEP:
        mask //= _GREY_STEP[raw]
    if mask.dtype != np.bool_ and mask.max() > 255:
        raise UserError(f"{path}: label {mask.max()} of a 16-bit mask is above 255")
    return mask.astype(np.uint8)


def check_mask(path: Path, image: ImageFile) -> None:
    """UserError where what the file holds are not labels for certain."""
    if isinstance(image, JpegImageFile):
        raise UserError(f"{path}: a mask must be PNG: JPEG changes labels")
    if image.mode in _ALPHA_MODES:
        raise UserError(f"{path}: a mask with an alpha channel; write label ids as grey or palette PNG")
    if orientation(image) != 1:
        raise UserError(f"{path}: a mask with an EXIF orientation; write it upright")
    raw = raw_mode(image)
    if (
        raw.endswith(("I", "IR"))
        or image.mode in ("CMYK", "YCbCr")
        or (image.tile and "ppm" in image.tile[0].codec_name)
    ):
        raise UserError(f"{path}: a mask whose values are not stored as they are ({raw or image.mode}); write a PNG")
    if ";16" in raw and image.mode == "RGB":
        raise UserError(f"{path}: a colour mask of 16 bits; write it with 8 bits")


def look(path: Path, bits: int | None = None) -> Look:
    """What the header says.  PNG chunks are checked against their checksums; 16-bit pixels are decoded, to see whether
    `bits` fits."""
    with opened(path) as image:
        stored, turned = (image.height, image.width), orientation(image)
        traits = []
        if image.mode == "CMYK":
            traits.append("CMYK")
        if image.mode in _ALPHA_MODES or "transparency" in image.info:
            traits.append("alpha")
        if getattr(image, "is_animated", False) and not isinstance(image, JpegImageFile):
            traits.append("animated")
        if _is_deep(image):
            traits.append("16 bits")
            _shallow(path, image, bits)
        elif isinstance(image, PngImageFile):
            image.verify()
        return Look(stored[::-1] if turned > 4 else stored, stored, turned, tuple(traits))


def is_turned(path: Path) -> bool:
    """Does EXIF say that the stored pixels are not upright?"""
    with opened(path) as image:
        return orientation(image) != 1


def check_image(path: Path) -> Size:
    """Upright size of an image file, from its header.  PNG chunks are checked against their checksums, too."""
    return look(path).size


def map_ids(mask_HW: UInt8, mapping: Mapping[int, int], path: Path, unknown: Unknown = "error") -> UInt8:
    """Replace every id by `mapping[id]`.

    An id outside `mapping` is a UserError naming the file, the ids and their pixels, or IGNORE; never a class.
    """
    table_256 = np.full(256, IGNORE, np.uint8)
    table_256[list(mapping)] = list(mapping.values())
    count_256 = np.bincount(mask_HW.ravel(), minlength=256)
    strange = [value for value in np.flatnonzero(count_256).tolist() if value not in mapping]
    if strange and unknown == "error":
        found = ", ".join(f"{value} ({count_256[value]} pixels)" for value in strange[:8])
        raise UserError(f"{path}: label ids that the data set does not have: {found}")
    return table_256[mask_HW]


def resize_image(image_HWC: UInt8, size: Size) -> UInt8:
    """Resample with a triangle filter as wide as a new pixel (antialiased bilinear); the aspect may change."""
    if image_HWC.shape[:2] == size:
        return image_HWC
    return np.array(Image.fromarray(image_HWC).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def resize_mask(mask_HW: UInt8, size: Size) -> UInt8:
    """Nearest label by pixel centres: new pixel i takes old pixel floor((i + 1/2) old / new).  Mixes no labels."""
    if mask_HW.shape == size:
        return mask_HW
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, mask_HW.shape, strict=True))
    return mask_HW[np.ix_(rows, columns)]


def colour_codes(image_HWC: UInt8) -> npt.NDArray[np.int32]:
    """Each pixel's colour as one number, red * 65536 + green * 256 + blue (H, W)."""
    return image_HWC.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)


def _is_deep(image: ImageFile) -> bool:
    return image.mode.startswith("I;16") or ";16" in raw_mode(image)


def _shallow(path: Path, image: ImageFile, bits: int | None) -> Image.Image:
    """Eight of sixteen bits.  Of a colour image the library has kept the high bytes alone, so it takes no `bits`."""
    colour = not image.mode.startswith("I;16")
    values = np.array(image.convert("RGB") if colour else image)
    top = int(values.max()) * (257 if colour else 1)
    if bits is None and top < 2**15:
        raise UserError(
            f"{path}: 16-bit pixels, but none is above {top} of 65535, so that the picture would be dark or black: "
            f"convert it to 8 bits, or say how many bits count (--bits {16 if colour else max(9, top.bit_length())})"
        )
    if colour and bits not in (None, 16):
        raise UserError(f"{path}: 16-bit colour of which {bits} bits count can not be scaled; convert it to 8 bits")
    if colour:
        return Image.fromarray(values)
    if top >= 1 << (bits or 16):
        raise UserError(f"{path}: value {top} has more than --bits {bits}")
    return Image.fromarray((values >> ((bits or 16) - 8)).astype(np.uint8))


def _by_colour(mask_HWC: UInt8, palette: Palette, path: Path, unknown: Unknown) -> UInt8:
    codes = [(red << 16) | (green << 8) | blue for red, green, blue in palette]
    code_HW = colour_codes(mask_HWC)
    out_HW = np.full(code_HW.shape, IGNORE, np.uint8)
    known_HW = np.zeros(code_HW.shape, bool)
    for label, code in enumerate(codes):
        here_HW = code_HW == code
        out_HW[here_HW] = label
        known_HW |= here_HW
    if unknown == "error" and not known_HW.all():
        code = int(code_HW[~known_HW][0])
        colour = (code >> 16, (code >> 8) & 255, code & 255)
        raise UserError(f"{path}: colour {colour} ({int((code_HW == code).sum())} pixels) belongs to no class")
    return out_HW
