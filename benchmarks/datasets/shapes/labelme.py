"""LabelMe's and X-AnyLabeling's JSON: a file for each image, with polygons, rectangles, circles and masks.

Drawn with PIL, outline included, as LabelMe itself draws: one polygon after the other, so that the later one wins.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.files.image_files import opened
from benchmarks.datasets.files.images import Size, UInt8
from benchmarks.datasets.shapes.drawing import Bool, check_size, circle, filled, points_of, read_mapping, rectangle
from querying.base.errors import UserError

_KINDS = ("polygon", "rectangle", "oriented_rectangle", "circle", "mask", "rotation")


def draw(path: Path, size: Size, label_of: Callable[[Any, str], int], rest: int) -> UInt8:
    """Labels (H, W) of one file; `rest`: of what lies in no shape."""
    data = read_mapping(path, "a file of LabelMe")
    shapes = data.get("shapes")
    if not isinstance(shapes, list):
        raise UserError(f"{path}: has no list of shapes, so it is not a file of LabelMe")
    check_size((data.get("imageHeight"), data.get("imageWidth")), size, str(path))
    label_HW = np.full(size, rest, np.uint8)
    for number, shape in enumerate(shapes):
        where = f"{path}: shape {number}"
        if not isinstance(shape, dict):
            raise UserError(f"{where}: is no mapping")
        label = label_of(shape.get("label"), where)
        label_HW[_pixels(shape, size, where)] = label
    return label_HW


def _pixels(shape: dict[str, Any], size: Size, where: str) -> Bool:
    kind, points = shape.get("shape_type", "polygon") or "polygon", shape.get("points")
    if kind not in _KINDS:
        raise UserError(f"{where}: is of kind {str(kind)[:40]!r}, which has no area; there are {', '.join(_KINDS)}")
    if kind == "circle":
        centre, *others = points_of(points, where, 2)
        return circle(centre, others[0], size)
    if kind == "mask":
        return _mask(shape, points_of(points, where, 2), size, where)
    if kind == "rectangle" and isinstance(points, list) and len(points) == 2:
        return rectangle(points_of(points, where, 2), size)
    return filled(points_of(points, where, 3), size)


def _mask(shape: dict[str, Any], box: list[tuple[float, float]], size: Size, where: str) -> Bool:
    """A small PNG whose corners are the two points, without their fractions, as LabelMe takes them."""
    text = shape.get("mask")
    if not isinstance(text, str) or len(text) > 8 * size[0] * size[1] + 2**16:
        raise UserError(f"{where}: has no mask in base64, or one that is too long for the image")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{where}: its mask is not base64") from None
    (left, top), (right, bottom) = ((int(x), int(y)) for x, y in box[:2])
    with opened(Path(where), data) as image:
        if (right - left + 1, bottom - top + 1) != image.size:
            raise UserError(f"{where}: its mask has {image.width} x {image.height} pixels, its corners say"
                            f" {right - left + 1} x {bottom - top + 1}")  # fmt: skip
        part_HW = np.array(image.convert("L")) > 0
    if not (0 <= left <= right < size[1] and 0 <= top <= bottom < size[0]):
        raise UserError(f"{where}: its mask lies beside the image")
    out_HW = np.zeros(size, bool)
    out_HW[top : bottom + 1, left : right + 1] = part_HW
    return out_HW
