"""Bytes in a shard to pixels and back."""

import io
import re
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from querying.dataset.limits import MAX_PIXELS

UInt8 = npt.NDArray[np.uint8]
Size = tuple[int, int]
"""(height, width) in pixels."""
_PPM = re.compile(rb"P6\n([1-9]\d{0,8}) ([1-9]\d{0,8})\n255\n")
ENCODINGS = ("ppm", "png", "jpeg")
_PNG, _IEND = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND\xaeB`\x82"
_AROUND = 8 + 25 + 12 + 12
"""Bytes of a PNG in three parts, but for what is packed in the second."""
_ONE_PART = 65_536
"""From so many packed bytes on, the library writes them in several parts."""
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
    height, width = label_HW.shape
    image = Image.frombuffer("L", (width, height), label_HW.tobytes(), "raw", "L", 0, 1)
    packed = image.tobytes("zip", "L", False, 1, zlib.Z_RLE, b"")
    if len(packed) < _ONE_PART:  # the library's own file around it, which costs a small cell more than its pixels
        return b"".join((_header(height, width), _chunk(b"IDAT", packed), _IEND))
    out = io.BytesIO()
    image.save(out, "png", compress_level=1, compress_type=zlib.Z_RLE)
    return out.getvalue()


@cache
def _header(height: int, width: int) -> bytes:
    return _PNG + _chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 0, 0, 0, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def decode_label(data: bytes | memoryview, size: Size | None = None) -> UInt8:
    """Labels (H, W) of `encode_label`'s bytes; one of UNREADABLE for anything else, or another `size`."""
    label_HW = _plain_label(bytes(data), size)
    if label_HW is not None:
        return label_HW
    with PngImageFile(io.BytesIO(data)) as image:
        _check(image, "L", size)
        return np.array(image)


def _plain_label(data: bytes, size: Size | None) -> UInt8 | None:
    """Labels whose file is in three parts, as `encode_label` makes it of all but large maps: the same decoder without
    the library's search for anything else.  None for any other file, about which the library has the word."""
    if len(data) < _AROUND or data[:8] != _PNG or data[-12:] != _IEND:
        return None
    length, kind, width, height, *form, crc = struct.unpack_from(">I4sII5BI", data, 8)
    packed, idat = struct.unpack_from(">I4s", data, 33)
    if (length, kind, form, idat) != (13, b"IHDR", [8, 0, 0, 0, 0], b"IDAT") or packed != len(data) - _AROUND:
        return None
    if crc != zlib.crc32(data[12:29]) or not (width and height):
        return None
    _check_size((height, width), size)
    try:
        image = Image.frombytes("L", (width, height), data[41:-16], "zip", "L")
    except UNREADABLE:
        return None
    return np.frombuffer(bytearray(image.tobytes()), np.uint8).reshape(height, width)


def _check(image: Image.Image, mode: str, size: Size | None) -> None:
    """Whether the header says: 8 bits a channel, stored in this mode, and the right size."""
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
