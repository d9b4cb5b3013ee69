"""Open image files that nobody has checked: by an allow-list of formats, and from headers of acceptable size alone."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile

from querying.base.errors import UserError
from querying.dataset.codecs import UNREADABLE
from querying.dataset.limits import MAX_PIXELS

# Not Image.open: constructing the reader of the one format that the first bytes show tries no other format, and
# leaves the size check to us instead of to a warning.
_FORMATS: dict[bytes, type[ImageFile]] = {
    b"\x89PNG\r\n\x1a\n": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"BM": BmpImageFile,
    b"P4": PpmImageFile,
    b"P5": PpmImageFile,
    b"P6": PpmImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
}
_OTHERS = {
    b"GIF8": "GIF", b"RIFF": "WebP", b"\0\0\0\x0cjP": "JPEG 2000", b"8BPS": "Photoshop", b"II+\0": "BigTIFF",
    b"MM\0+": "BigTIFF", b"P1": "plain-text PBM", b"P2": "plain-text PGM", b"P3": "plain-text PPM", b"%PDF": "PDF",
}  # fmt: skip
"""What people have besides, named so that they know what to convert."""
_TIFF_CODECS = ("raw", "tiff_lzw", "tiff_deflate", "tiff_adobe_deflate", "packbits")
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # what it logs about a file is in the error that we raise
_ORIENTATION = 0x0112  # EXIF tag
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what turns the stored pixels upright; 5 to 8 swap the sides."""


@contextmanager
def opened(path: Path, data: bytes | None = None) -> Iterator[ImageFile]:
    """The image behind an allow-listed header of acceptable size; what goes wrong in the body names the file.

    With `data` that is read, and `path` only says where it came from.
    """
    try:
        if data is None and path.is_symlink() and not path.exists():
            raise UserError(f"{path}: does not exist: it is a link to {path.readlink()}")
        if data is None and path.exists() and not path.is_file():  # to open a named pipe would wait for ever
            raise UserError(f"{path}: is not a regular file")
        with path.open("rb") if data is None else io.BytesIO(data) as file:
            head = file.read(16)
            file.seek(0)
            reader = next((reader for magic, reader in _FORMATS.items() if head.startswith(magic)), None)
            if reader is None:
                raise UserError(f"{path}: {_what(head)}")
            with reader(file, str(path)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(
                        f"{path}: {image.width} x {image.height} pixels are more than {MAX_PIXELS >> 20} megapixels"
                    )
                if refused := _refused(image):
                    raise UserError(f"{path}: {refused}; convert it to PNG")
                yield image
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist") from None
    except UNREADABLE as error:
        raise UserError(f"{path}: damaged or not an image: {error}") from error


def orientation(image: ImageFile) -> int:
    """EXIF orientation, 1 (upright) where there is none.  Reads only what stands before the pixels: no decoding."""
    if isinstance(image, TiffImageFile):
        return 1  # of another orientation none is opened
    found = Image.Image.getexif(image).get(_ORIENTATION, 1)
    return found if found in TURNS else 1


def raw_mode(image: ImageFile) -> str:
    """How the pixels lie in the file, in the library's words: `RGB;16B`, `L;4`; empty where it does not say."""
    arguments = image.tile[0].args if image.tile else None
    if isinstance(arguments, tuple) and arguments:
        arguments = arguments[0]
    return arguments if isinstance(arguments, str) else ""


def _what(head: bytes) -> str:
    if not head:
        return "empty file"
    name = next((name for magic, name in _OTHERS.items() if head.startswith(magic)), "")
    if head[4:8] == b"ftyp":
        name = "AVIF" if head[8:12] == b"avif" else "HEIC"
    what = f"a {name} file, " if name else ""
    return f"{what}neither a PNG nor a JPEG image (nor BMP, PPM, TIFF){'; convert it to PNG' if name else ''}"


def _refused(image: ImageFile) -> str:
    """Why what the header announces is not read although its format is, or nothing."""
    if isinstance(image, TiffImageFile):
        if image.info.get("compression") not in _TIFF_CODECS:
            return f"TIFF with {image.info.get('compression')} compression"
        if getattr(image, "is_animated", False):
            return "TIFF with several pages"
        if image.tag_v2.get(_ORIENTATION, 1) != 1:
            return f"TIFF with orientation {image.tag_v2[_ORIENTATION]}"
    if isinstance(image, BmpImageFile) and image.tile and image.tile[0].codec_name == "bmp_rle":
        return "run-length coded BMP"
    if image.mode not in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "I;16", "I;16B", "LA", "PA", "RGBA", "La", "RGBa"):
        return f"pixels of kind {image.mode} (floating point, 32-bit or the like)"
    return ""
