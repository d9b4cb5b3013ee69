"""What a data set may say of itself, whoever wrote it: the limits of ingest, for each reader of an index or a shard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from querying.dataset.label_values import IGNORE

MAX_PIXELS = 64 * 2**20
"""Most pixels of an image; a file that claims more is refused from its header, before anything is allocated for it."""
MIN_SIDE = 8
MAX_IMAGES = 2**31
LONGEST_CLASS = 1000
LONGEST_ID = 8192
"""Characters; ids are made from paths."""
MIN_CLASSES, MAX_CLASSES = 2, IGNORE
_SPLIT = re.compile(r"\w[\w.-]{,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def whole(value: Any, what: str, low: int, high: int) -> int:
    """An integer (and no bool, no 3.0) from `low` to `high`; ValueError says `what` it is not."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{what} {_short(value)}: a whole number from {low} to {high} was expected")
    return value


def text(value: Any, what: str, longest: int, shortest: int = 1) -> str:
    """Text that can be shown: no control, escape, or direction mark; ValueError says `what` it is not."""
    if not isinstance(value, str) or not value.isprintable() or not shortest <= len(value) <= longest:
        raise ValueError(f"{what} {_short(value)}: printable text of {shortest} to {longest} characters was expected")
    return value


def items(value: Any, what: str, kind: type = list) -> Any:
    """A list or, by `kind`, a mapping; ValueError says `what` it is not."""
    if not isinstance(value, kind):
        raise ValueError(f"{what} {_short(value)}: a {'mapping' if kind is dict else 'list'} was expected")
    return value


def class_names(value: Any) -> tuple[str, ...]:
    """Names of classes: 2 to 255 different printable texts, none of them blank."""
    names = tuple(text(name, "class", LONGEST_CLASS) for name in items(value, "classes"))
    if not MIN_CLASSES <= len(names) <= MAX_CLASSES:
        raise ValueError(f"{len(names)} classes; {MIN_CLASSES} to {MAX_CLASSES} are possible")
    known: set[str] = set()
    for name in names:
        if name in known or not name.strip():
            raise ValueError(f"class {_short(name)} is {'there twice' if name.strip() else 'blank'}")
        known.add(name)
    return names


def palette(value: Any, classes: Sequence[str]) -> tuple[tuple[int, int, int], ...]:
    """A colour (red, green, blue in 0..255) for each class."""
    colours = []
    for colour in items(value, "palette"):
        parts = [whole(part, "palette: colour", 0, 255) for part in items(colour, "palette: colour")]
        if len(parts) != 3:
            raise ValueError(f"palette: colour {_short(colour)}: red, green and blue were expected")
        colours.append((parts[0], parts[1], parts[2]))
    if len(colours) != len(classes):
        raise ValueError(f"{len(classes)} classes but {len(colours)} colours in the palette")
    return tuple(colours)


def image_size(height: Any, width: Any, where: str = "") -> tuple[int, int]:
    size = (
        whole(height, f"{where}height", MIN_SIDE, MAX_PIXELS),
        whole(width, f"{where}width", MIN_SIDE, MAX_PIXELS),
    )
    if size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f"{where}{height} x {width} pixels are more than {MAX_PIXELS >> 20} megapixels")
    return size


def split_name(value: Any) -> str:
    if not isinstance(value, str) or not _SPLIT.fullmatch(value):
        raise ValueError(f"split {_short(value)}: a name of at most 100 letters, digits, _, - and . was expected")
    return value


def sha256_text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise ValueError(f"{what} {_short(value)}: 64 hexadecimal digits were expected")
    return value


def is_id(value: str) -> bool:
    """May an image be called so?"""
    return 0 < len(value) <= LONGEST_ID and value.isprintable()


def _short(value: Any) -> str:
    """At most 80 characters of what somebody wrote, escaped."""
    found = repr(value) if type(value) is not int or abs(value) < 10**20 else "of more than 20 digits"
    return found if len(found) <= 80 else f"{found[:77]}..."
