"""Bytes in a shard to pixels and back."""

import io
import re
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from querying.limits import MAX_PIXELS

UInt8 = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""(height, width) in pixels."""
_PPM = re.compile(rb"P6\n([1-9]\d{0,8}) ([1-9]\d{0,8})\n255\n")
ENCODINGS = ("ppm", "png", "jpeg")
_JPEG_QUALITY = 95
UNREADABLE = (
    OSError, SyntaxError, EOFError, ValueError, LookupError, TypeError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What the image library and the decoders here raise for bytes that they can not make sense of."""


class Unexpected(ValueError):
    """Readable, but not what `encode_image` or `encode_label` make; the message goes on after the name of the image."""


def encode_image(image_HWC: UInt8, encoding: str) -> bytes:
    """RGB pixels as PPM (raw behind a header of a few bytes), PNG or JPEG (quality 95)."""
    height, width, channels = image_HWC.shape
    assert channels == 3, image_HWC.shape
    assert image_HWC.dtype == np.uint8, image_HWC.dtype
    if encoding == "ppm":
        return b"P6\n%d %d\n255\n" % (width, height) + image_HWC.tobytes()
    assert encoding in ENCODINGS, encoding
    out = io.BytesIO()
    Image.fromarray(image_HWC).save(out, encoding, **({"quality": _JPEG_QUALITY} if encoding == "jpeg" else {}))
    return out.getvalue()


def decode_image(data: bytes | memoryview, encoding: str = "", size: Size | None = None) -> UInt8:
    """Pixels (H, W, 3) of one encoded image.  A PPM comes back as a read-only view of `data`, without a copy.

    One of UNREADABLE for anything that `encode_image` does not make: another `encoding` or `size` (height, width) than
    is said, more than MAX_PIXELS, more than 8 bits.  The header tells, before memory is taken for the pixels.
    """
    if bytes(data[:2]) == b"P6":
        _expect("ppm", encoding)
        header = _PPM.match(bytes(data[:32]))
        if header is None:
            raise Unexpected("is a PPM with another header than P6, width, height, 255")
        found = int(header[2]), int(header[1])
        _check_size(found, size)
        pixels = np.frombuffer(data, np.uint8)[header.end() :]
        if len(pixels) != found[0] * found[1] * 3:
            raise Unexpected(f"is a PPM of {found[0]}x{found[1]} pixels with {len(pixels)} bytes of them")
        return pixels.reshape(*found, 3)
    reader = JpegImageFile if bytes(data[:2]) == b"\xff\xd8" else PngImageFile
    with reader(io.BytesIO(data)) as image:  # no `Image.open`, which only warns of too many pixels
        _expect("jpeg" if reader is JpegImageFile else "png", encoding)
        _check(image, "RGB", size)
        return np.array(image)


def encode_label(label_HW: UInt8) -> bytes:
    """A label map as PNG, mode L.  The same labels give the same bytes.

    Runs alone (Z_RLE) are as fast as zlib's fastest level, and smaller: what repeats in a label map are its neighbours.
    """
    assert label_HW.dtype == np.uint8, label_HW.dtype
    assert label_HW.ndim == 2, label_HW.shape
    out = io.BytesIO()
    Image.fromarray(label_HW).save(out, "png", compress_level=1, compress_type=zlib.Z_RLE)
    return out.getvalue()


def decode_label(data: bytes | memoryview, size: Size | None = None) -> UInt8:
    """Labels (H, W) of `encode_label`'s bytes; one of UNREADABLE for anything else, or another `size`."""
    with PngImageFile(io.BytesIO(data)) as image:
        _check(image, "L", size)
        return np.array(image)


def _check(image: Image.Image, mode: str, size: Size | None) -> None:
    """By the header: 8 bits a channel, stored in this mode, and the right size."""
    tile: Any = getattr(image, "tile", None)
    stored = tile[0].args if tile else None
    stored = stored if isinstance(stored, str) else stored[0] if stored else None
    if image.mode != mode or stored != mode:
        raise Unexpected(f"is stored as {stored}, where {mode} of 8 bits was expected")
    _check_size((image.height, image.width), size)


def _check_size(found: Size, wanted: Size | None) -> None:
    if wanted is not None and found != wanted:
        raise Unexpected(f"has shape {found}, where {tuple(wanted)} was expected")
    if found[0] * found[1] > MAX_PIXELS:
        raise Unexpected(f"has shape {found}, more than {MAX_PIXELS >> 20} megapixels")


def _expect(found: str, wanted: str) -> None:
    if wanted not in ("", found):
        raise Unexpected(f"is {found}, where {wanted} was expected")
