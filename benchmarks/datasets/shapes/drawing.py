"""Shapes to pixels, and the text files that they come from, which nobody has checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks.datasets.files.images import Size
from benchmarks.datasets.files.strict_json import strict_json
from querying.base.errors import UserError
from querying.base.redaction import one_line

Bool = npt.NDArray[np.bool_]
Point = tuple[float, float]
MOST_BYTES = 512 * 2**20
MOST_POINTS = 100_000
FARTHEST = 100_000.0
"""Pixels that a point may lie beside the image; what is beside it is not drawn."""


def read_text(path: Path) -> str:
    """The text of a regular file of at most MOST_BYTES, UTF-8 with or without a mark."""
    try:
        if not path.is_file():
            raise UserError(f"{path}: {'is no regular file' if path.exists() else 'does not exist'}")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path}: more than {MOST_BYTES >> 20} MB; split it")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: can not be read: {error.strerror}") from None


def read_mapping(path: Path, what: str) -> dict[str, Any]:
    """The JSON mapping of a file; UserError where it is something else, has a key twice, or a number is not finite."""
    try:
        data = strict_json(read_text(path))
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: is not valid JSON: {one_line(str(error))[:120]}") from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: is no mapping, so not {what}")
    return data


def points_of(value: Any, where: str, fewest: int) -> list[Point]:
    """[[x, y], ...] in pixels; UserError says what is wrong with it."""
    if not isinstance(value, list) or not fewest <= len(value) <= MOST_POINTS:
        found = f"{len(value)} points" if isinstance(value, list) else "no list of points"
        raise UserError(f"{where}: {found}, where {fewest} to {MOST_POINTS} were expected")
    found_points = []
    for point in value:
        good = isinstance(point, list) and len(point) == 2 and all(type(part) in (int, float) for part in point)
        if not good or max(map(abs, point)) > FARTHEST:
            raise UserError(f"{where}: a point is {one_line(repr(point)[:60])}, where x and y in pixels were expected")
        found_points.append((float(point[0]), float(point[1])))
    return found_points


def filled(points: Sequence[Point], size: Size) -> Bool:
    """A polygon with its outline, as LabelMe draws it."""
    image = Image.new("L", (size[1], size[0]))
    ImageDraw.Draw(image).polygon([*points], fill=1, outline=1)
    return np.array(image, bool)


def rectangle(points: Sequence[Point], size: Size) -> Bool:
    (left, right), (top, bottom) = (sorted(side) for side in zip(*points, strict=True))
    image = Image.new("L", (size[1], size[0]))
    ImageDraw.Draw(image).rectangle((left, top, right, bottom), fill=1, outline=1)
    return np.array(image, bool)


def circle(centre: Point, edge: Point, size: Size) -> Bool:
    radius = math.dist(centre, edge)
    image = Image.new("L", (size[1], size[0]))
    box = centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius
    ImageDraw.Draw(image).ellipse(box, fill=1, outline=1)
    return np.array(image, bool)


def check_size(found: Any, size: Size, where: str) -> None:
    """UserError unless `found` is (height, width) of the image."""
    if found != size or {type(side) for side in found} != {int}:
        raise UserError(
            f"{where}: was drawn on {found[1]} x {found[0]} pixels, but the image is {size[1]} x {size[0]} (width x"
            " height): put the image there on which it was drawn"
        )
