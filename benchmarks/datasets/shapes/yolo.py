"""YOLO's segmentation labels: a text file for each image, a line for each polygon: class, then x and y from 0 to 1.

The tool itself has no mask of several classes; here a polygon is drawn as LabelMe's are, and the later line wins.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.datasets.files.images import Size, UInt8
from benchmarks.datasets.shapes.drawing import MOST_POINTS, filled, read_text
from querying.base.errors import UserError


def draw(path: Path, size: Size, label_of: Callable[[Any, str], int], rest: int) -> UInt8:
    """Labels (H, W) of one file; `rest`: of what lies in no polygon."""
    label_HW = np.full(size, rest, np.uint8)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields, where = line.split(), f"{path}: line {number}"
        if not fields:
            continue
        if len(fields) == 5:
            raise UserError(f"{where}: a box (class, x, y, width, height), which is no mask: use labels of a"
                            " segmentation")  # fmt: skip
        if len(fields) < 7 or len(fields) % 2 == 0 or len(fields) > 2 * MOST_POINTS:
            raise UserError(f"{where}: {len(fields)} numbers, where a class and x, y of three or more points were"
                            " expected")  # fmt: skip
        if not (fields[0].isascii() and fields[0].isdecimal() and len(fields[0]) < 6):
            raise UserError(f"{where}: {fields[0][:40]!r} is no number of a class")
        label = label_of(int(fields[0]), where)
        numbers = [_number(field, where) for field in fields[1:]]
        points = [(x * size[1], y * size[0]) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
        label_HW[filled(points, size)] = label
    return label_HW


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not -1 <= number <= 2:
        raise UserError(f"{where}: {text[:40]!r}, where a part of the image's side from 0 to 1 was expected")
    return number
