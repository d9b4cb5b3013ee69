"""Bytes in a shard to pixels and back."""

import io
import struct
import zlib

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8 = npt.NDArray[np.uint8]
ENCODINGS = ("ppm", "png", "jpeg")
_JPEG_QUALITY = 95
UNREADABLE = (
    OSError, SyntaxError, EOFError, ValueError, LookupError, TypeError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What the image library and the decoders here raise for bytes that they can not make sense of."""


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


def decode_image(data: bytes | memoryview) -> UInt8:
    """Pixels (H, W, 3) of one encoded image.  A PPM comes back as a read-only view of `data`, without a copy."""
    if bytes(data[:3]) != b"P6\n":
        return np.array(Image.open(io.BytesIO(data), formats=("PNG", "JPEG")).convert("RGB"))
    width, height, _ = bytes(data[3:32]).split(maxsplit=2)
    pixels = int(height) * int(width) * 3
    return np.frombuffer(data, np.uint8)[-pixels:].reshape(int(height), int(width), 3)


def encode_label(label_HW: UInt8) -> bytes:
    """A label map as PNG, mode L.  The same labels give the same bytes.

    Runs alone (Z_RLE) are as fast as zlib's fastest level, and smaller: what repeats in a label map are its neighbours.
    """
    assert label_HW.dtype == np.uint8, label_HW.dtype
    assert label_HW.ndim == 2, label_HW.shape
    out = io.BytesIO()
    Image.fromarray(label_HW).save(out, "png", compress_level=1, compress_type=zlib.Z_RLE)
    return out.getvalue()


def decode_label(data: bytes | memoryview) -> UInt8:
    """Labels (H, W) of `encode_label`'s bytes."""
    return np.array(Image.open(io.BytesIO(data), formats=("PNG",)))
