"""Read image files that nobody has checked: whatever is wrong with one is a UserError that names it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from querying.codecs import UNREADABLE
from querying.errors import UserError
from querying.labels import IGNORE

MAX_PIXELS = 64 * 2**20
"""A file that claims more pixels than this is refused from its header, before anything is allocated for it."""

UInt8 = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""(height, width) in pixels."""
Palette = Sequence[tuple[int, int, int]]
Unknown = Literal["error", "ignore"]
"""What to do with a label that the data set does not have."""

# Not Image.open: constructing the reader of the one format that the first bytes show tries no other format, and
# leaves the size check to us instead of to a warning.
_FORMATS: dict[bytes, type[PngImageFile] | type[JpegImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
}
_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ALPHA_MODES = ("LA", "PA", "RGBA", "La", "RGBa")
_GREY_STEP = {"L;2": 85, "L;4": 17}
"""The library stretches grey of 2 and 4 bits to 0..255; ids must come back as they were written."""


def read_rgb(path: Path) -> UInt8:
    """Pixels (H, W, 3) of a JPEG or PNG file, turned upright as its EXIF orientation says.

    Grey, palette and CMYK images are converted to RGB; an alpha channel is dropped; 16-bit grey keeps its high byte.
    """
    with _opened(path) as image:
        turn = _turn(image)
        rgb: Image.Image = image
        if image.mode == "I;16":  # convert() would clip instead
            rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif "transparency" in image.info:
            rgb = image.convert("RGBA")
        rgb = rgb.convert("RGB")
        return np.array(rgb if turn is None else rgb.transpose(turn))


def read_mask(path: Path, palette: Palette | None = None, unknown: Unknown = "error") -> UInt8:
    """Label ids (H, W) of a PNG mask, exactly as written: grey of 1 to 16 bits (ids up to 255) or palette indices.

    With `palette`, an RGB mask is read by colour: `palette[k]` is id k; another colour is an error, or IGNORE.
    """
    with _opened(path) as image:
        _check_mask(path, image, palette)
        raw_mode = _raw_mode(image)
        mask = np.array(image)
        if image.mode == "RGB":
            assert palette is not None
            return _by_colour(mask, palette, path, unknown)
    if raw_mode in _GREY_STEP:
        mask //= _GREY_STEP[raw_mode]
    if mask.dtype != np.bool_ and mask.max() > 255:
        raise UserError(f"{path}: label {mask.max()} of a 16-bit mask is above 255")
    return mask.astype(np.uint8)


def check_image(path: Path) -> Size:
    """Upright size of an image file, from its header.  PNG chunks are checked against their checksums, too."""
    with _opened(path) as image:
        height, width = image.height, image.width
        turn = _turn(image)
        if isinstance(image, PngImageFile):
            image.verify()
        return (width, height) if turn in tuple(_TURNS.values())[3:] else (height, width)


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


@contextmanager
def _opened(path: Path) -> Iterator[PngImageFile | JpegImageFile]:
    """The image behind an allow-listed header of acceptable size; what goes wrong in the body names the file."""
    try:
        if path.exists() and not path.is_file():  # to open a named pipe would wait for ever
            raise UserError(f"{path}: is not a regular file")
        with path.open("rb") as file:
            head = file.read(8)
            file.seek(0)
            reader = next((reader for magic, reader in _FORMATS.items() if head.startswith(magic)), None)
            if reader is None:
                raise UserError(f"{path}: {'empty file' if not head else 'neither a PNG nor a JPEG image'}")
            with reader(file, str(path)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{path}: {image.width} x {image.height} pixels are more than {MAX_PIXELS >> 20} megapixels"
                    )
                yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: damaged or not an image: {error}") from error


def _turn(image: PngImageFile | JpegImageFile) -> Image.Transpose | None:
    """How to turn the pixels upright.  Reads only what stands before the pixels, so that it costs no decoding."""
    return _TURNS.get(Image.Image.getexif(image).get(_ORIENTATION, 1))


def _raw_mode(image: PngImageFile | JpegImageFile) -> str:
    arguments = image.tile[0].args if image.tile else None
    return arguments if isinstance(arguments, str) else ""


def _check_mask(path: Path, image: PngImageFile | JpegImageFile, palette: Palette | None) -> None:
    if not isinstance(image, PngImageFile):
        raise UserError(f"{path}: a mask must be PNG: JPEG changes labels")
    if image.mode in _ALPHA_MODES:
        raise UserError(f"{path}: a mask with an alpha channel; write label ids as grey or palette PNG")
    if image.mode == "RGB" and palette is None:
        raise UserError(f"{path}: a colour mask; write label ids as grey or palette PNG, or give every class a colour")
    if _turn(image) is not None:
        raise UserError(f"{path}: a mask with an EXIF orientation; write it upright")


def _by_colour(mask_HWC: UInt8, palette: Palette, path: Path, unknown: Unknown) -> UInt8:
    codes = [(red << 16) | (green << 8) | blue for red, green, blue in palette]
    code_HW = mask_HWC.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
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
