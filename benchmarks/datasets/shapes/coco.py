"""COCO's JSON: one file for many images, with polygons and run lengths.

Polygons are drawn by pycocotools, whose pixels are COCO's; it checks nothing, so sizes and counts are checked first,
and run lengths are read here.  Annotations are drawn in the file's order, and the later one wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from benchmarks.datasets.files.images import Size, UInt8
from benchmarks.datasets.shapes.drawing import FARTHEST, MOST_POINTS, Bool, check_size, read_mapping
from querying.base.errors import UserError
from querying.base.files import sha256


@dataclass(frozen=True, slots=True)
class CocoFile:
    """`names`: of the categories; `images`: by the file's name without suffix (and folders) their sizes and number."""

    path: Path
    digest: str
    names: Mapping[int, str]
    sizes: Mapping[str, tuple[Any, Any]]
    numbers: Mapping[str, int]
    shapes: Mapping[int, list[dict[str, Any]]]

    def draw(self, stem: str, size: Size, label_of: Callable[[Any, str], int], rest: int) -> UInt8:
        """Labels (H, W) of one image; `rest`: of what lies in no shape."""
        where = f"{self.path}: image {self.numbers[stem]} ({stem[:80]})"
        check_size(self.sizes[stem], size, where)
        label_HW = np.full(size, rest, np.uint8)
        for shape in self.shapes.get(self.numbers[stem], []):
            here = f"{self.path}: annotation {shape['id']}"
            category = shape.get("category_id")
            if type(category) is not int or category not in self.names:
                raise UserError(f"{here}: category_id {str(category)[:40]} is none of the categories")
            label_HW[_pixels(shape.get("segmentation"), size, here)] = label_of(self.names[category], here)
        return label_HW


def read(path: Path) -> CocoFile:
    """A file of COCO instances.  UserError where it is something else, or names an image or a category twice."""
    data = read_mapping(path, "a file of COCO")
    lists = {key: data.get(key) for key in ("images", "annotations", "categories")}
    for key, rows in lists.items():
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{path}: has no list of {key}, so it is not a file of COCO")
    names: dict[int, str] = {}
    for row in lists["categories"] or []:
        if type(row.get("id")) is not int or not isinstance(row.get("name"), str) or row["id"] in names:
            raise UserError(f"{path}: category {str(row)[:60]} has no number, no name, or that of another")
        names[row["id"]] = row["name"]
    sizes, numbers, known = dict[str, tuple[Any, Any]](), dict[str, int](), set[int]()
    for row in lists["images"] or []:
        if type(row.get("id")) is not int or not isinstance(row.get("file_name"), str):
            raise UserError(f"{path}: image {str(row)[:60]} has no number or no file_name")
        stem = str(PurePosixPath(row["file_name"]).with_suffix("")) if row["file_name"] else ""
        if stem in numbers or row["id"] in known:
            raise UserError(f"{path}: image {row['id']} ({stem[:80]}) is there twice")
        sizes[stem], numbers[stem] = (row.get("height"), row.get("width")), row["id"]
        known.add(row["id"])
    shapes: dict[int, list[dict[str, Any]]] = {}
    for place, row in enumerate(lists["annotations"] or []):
        if row.get("image_id") not in known:
            raise UserError(f"{path}: annotation {place}: image_id {str(row.get('image_id'))[:40]} is no image's")
        shapes.setdefault(row["image_id"], []).append({"id": place, **row})
    return CocoFile(path, sha256(path), names, sizes, numbers, shapes)


def _pixels(shape: Any, size: Size, where: str) -> Bool:
    if isinstance(shape, dict):
        return _run_lengths(shape, size, where)
    if not isinstance(shape, list) or not shape:
        raise UserError(f"{where}: has no segmentation; a box alone is no mask")
    for polygon in shape:
        good = isinstance(polygon, list) and 6 <= len(polygon) <= 2 * MOST_POINTS and len(polygon) % 2 == 0
        if not good or not all(type(part) in (int, float) and abs(part) <= FARTHEST for part in polygon):
            raise UserError(f"{where}: a polygon is no list x, y, x, y, ... of three or more points in pixels")
    try:
        from pycocotools import mask as tool
    except ImportError:
        raise UserError(f"{where}: COCO's polygons need pycocotools: pip install 's4al-plus[coco]'") from None
    return _run_lengths(tool.merge(tool.frPyObjects(shape, *size)), size, where)


def _run_lengths(shape: dict[str, Any], size: Size, where: str) -> Bool:
    """Lengths of runs down the columns, the first of what is not in it; a text is COCO's compressed form of them."""
    if shape.get("size") != list(size):
        raise UserError(
            f"{where}: its run lengths are for {str(shape.get('size'))[:40]}, where {list(size)} was expected"
        )
    counts = shape.get("counts")
    if isinstance(counts, bytes):  # as the tool itself has it
        counts = counts.decode()
    if isinstance(counts, str):
        counts = _unpacked(counts, 2 * size[0] * size[1], where)
    if not isinstance(counts, list) or len(counts) > size[0] * size[1] + 1 or set(map(type, counts)) - {int}:
        raise UserError(f"{where}: its counts are no list of whole numbers, or too many")
    if min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
        raise UserError(f"{where}: its counts do not add up to {size[0]} x {size[1]} pixels")
    runs = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return runs.reshape(size[1], size[0]).T


def _unpacked(text: str, most: int, where: str) -> list[int]:
    """Numbers of 5 bits a character, the lowest first, each after the third less the one two before."""
    if len(text) > 4 * most + 16:
        raise UserError(f"{where}: its counts have {len(text)} characters, too many for the image")
    found: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise UserError(f"{where}: its counts are damaged at {character!r}")
        number |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                number -= 1 << shift
            found.append(number + (found[-2] if len(found) > 2 else 0))
            number = shift = 0
    if shift:
        raise UserError(f"{where}: its counts are cut off")
    return found
