"""What people are asked in one cycle: pixels, boxes and pseudo-labels in plain files, of which every format is made.

`package.json` says what is asked; `images/` and `pre/` hold a PNG for each image; `query.parquet` is the query, byte
for byte, so that a run that has lost its own never asks another one.  The same query gives the same bytes.  An image
says its size where that is not the one that the package says.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from orchestrator.folder.manifest import problems
from orchestrator.folder.shapes import Count, Number, Sha256, Shape, Text, read_shaped
from querying.base.errors import DamagedError
from querying.base.files import make_folder, write_json, written
from querying.dataset.codecs import UInt8, encode_image
from querying.dataset.index import Size

NOTE, IMAGES, PRE, QUERY_FILE = "package.json", "images", "pre", "query.parquet"
ONE_SIZE, SEVERAL_SIZES = 1, 2
"""Formats: the second where an image says its own size, which an earlier version would not look at."""
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
Box = tuple[int, int, int, int, int]
"""Region number, then top, left, bottom, right in pixels, half open."""


@dataclass(frozen=True, slots=True)
class AskedImage:
    image_id: str
    file: str
    """Name below `images/` and `pre/`."""
    sha256: str
    """Of the file below `images/`."""
    boxes: tuple[Box, ...]
    """What is asked of the image; one box with region -1 is all of it."""
    rank: int
    """0 is asked first."""
    uncertainty: float | None
    """From 0 to 1, relative to the other images; None where nothing has scored it."""
    size: Size
    """(height, width) of the image, of its pseudo-label, and of every answer about it."""


@dataclass(frozen=True, slots=True)
class Package:
    """A published package.  `cycle` is that of the ledger that the answers will be; 0 is the round before any run."""

    root: Path
    run: str
    cycle: int
    query_id: str
    model: str | None
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    region_size: int
    images: tuple[AskedImage, ...]

    def image(self, one: AskedImage) -> Path:
        """The shard's pixels, PNG, RGB."""
        return self.root / IMAGES / one.file

    def pre(self, one: AskedImage) -> Path | None:
        """The pseudo-label as class ids, PNG, 255 = not sure; None where there is none."""
        path = self.root / PRE / one.file
        return path if path.is_file() else None

    @property
    def regions(self) -> int:
        return sum(len(one.boxes) for one in self.images)


class About(NamedTuple):
    """What all images of a package have in common; `height` and `width` are the largest of the data set."""

    run: str
    cycle: int
    model: str | None
    data: str
    classes: Sequence[str]
    palette: Sequence[tuple[int, int, int]]
    height: int
    width: int
    region_size: int
    scores: str | None = None
    """Digest of the scores that chose the cells."""


class Asked(NamedTuple):
    """One image to write: its pixels, and the PNG of its pseudo-label."""

    image_id: str
    image_HWC: UInt8
    boxes: Sequence[Box]
    pre: bytes | None = None


class _Class(Shape):
    id: Annotated[int, Field(ge=0, le=254)]
    name: Annotated[Text, Field(min_length=1)]
    color: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]


class _Image(Shape):
    image_id: Annotated[Text, Field(min_length=1)]
    file: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.png$", max_length=200)]
    sha256: Sha256
    boxes: list[Annotated[list[int], Field(min_length=5, max_length=5)]]
    rank: Count
    uncertainty: Number | None
    height: Annotated[int, Field(ge=8)] | None = None
    width: Annotated[int, Field(ge=8)] | None = None


class PackageNote(Shape):
    """`package.json`."""

    format: Literal[1, 2]
    run: Text
    cycle: Count
    query_id: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
    query: Sha256 | None
    model: Text | None
    scores: Text | None
    data: Text
    classes: Annotated[list[_Class], Field(min_length=2)]
    height: Annotated[int, Field(ge=8)]
    width: Annotated[int, Field(ge=8)]
    region_size: Annotated[int, Field(ge=1)]
    images: Annotated[list[_Image], Field(min_length=1)]


def query_id_of(cells: Iterable[tuple[str, int]]) -> str:
    """A query by what it asks, whatever its order: the SHA-256 of its sorted cells."""
    text = "".join(f"{image_id}\t{region}\n" for image_id, region in sorted(cells))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def file_names(image_ids: Collection[str]) -> dict[str, str]:
    """A file name for each image that every file system and tool takes: the id itself where it is one, else its letters
    and a part of its hash."""
    lower = [image_id.lower() for image_id in image_ids]
    twice = {name for name in lower if lower.count(name) > 1} if len(set(lower)) < len(lower) else set()
    names = {}
    for image_id in image_ids:
        plain = _PLAIN.fullmatch(image_id) and image_id.lower() not in twice
        mark = hashlib.sha256(image_id.encode()).hexdigest()[:10]
        slug = re.sub(r"[^A-Za-z0-9._-]+", "_", image_id).strip("._-")[:60] or "image"
        names[image_id] = f"{image_id}.png" if plain else f"{slug}-{mark}.png"
    return names


def write_package(
    out: Path,
    about: About,
    asked: Iterable[Asked],
    uncertainty: dict[str, float | None],
    query: tuple[Path, str] | None = None,
) -> None:
    """Write the package's files into `out`.  `uncertainty` names all images in the order in which they are asked;
    `query`: the file of the query and its SHA-256."""
    names, rows, format_ = file_names(list(uncertainty)), dict[str, dict[str, object]](), ONE_SIZE
    cells: list[tuple[str, int]] = []
    ranks = {image_id: rank for rank, image_id in enumerate(uncertainty)}
    make_folder(out / IMAGES)
    for one in asked:
        file = names[one.image_id]
        content = encode_image(one.image_HWC, "png")
        _write(out / IMAGES / file, content)
        if one.pre is not None:
            _write(out / PRE / file, one.pre)
        rows[one.image_id] = {
            "image_id": one.image_id, "file": file, "sha256": hashlib.sha256(content).hexdigest(),
            "boxes": [list(box) for box in one.boxes], "rank": ranks[one.image_id],
            "uncertainty": uncertainty[one.image_id],
        }  # fmt: skip
        height, width, _ = one.image_HWC.shape
        if (height, width) != (about.height, about.width):
            format_, rows[one.image_id] = SEVERAL_SIZES, rows[one.image_id] | {"height": height, "width": width}
        cells += [(one.image_id, box[0]) for box in one.boxes]
    images = [rows[image_id] for image_id in uncertainty]
    classes = zip(about.classes, about.palette, strict=True)
    note = {
        "format": format_, "run": about.run, "cycle": about.cycle, "query_id": query_id_of(cells),
        "query": query[1] if query else None, "model": about.model, "scores": about.scores,
        "data": about.data,
        "classes": [{"id": k, "name": name, "color": list(colour)} for k, (name, colour) in enumerate(classes)],
        "height": about.height, "width": about.width, "region_size": about.region_size, "images": images,
    }  # fmt: skip
    if query:
        _write(out / QUERY_FILE, query[0].read_bytes())
    write_json(out / NOTE, note)


def read_package(root: Path) -> Package:
    """A published package, every byte of it checked.  DamagedError names the file that is not what was written."""
    if found := problems(root):
        raise DamagedError(found[0])
    return read_note(root)


def read_note(root: Path) -> Package:
    """What a package asks, without a look at its pictures."""
    data = read_shaped(root / NOTE, PackageNote)
    return Package(
        root=root,
        run=data["run"],
        cycle=data["cycle"],
        query_id=data["query_id"],
        model=data["model"],
        classes=tuple(one["name"] for one in data["classes"]),
        palette=tuple((one["color"][0], one["color"][1], one["color"][2]) for one in data["classes"]),
        region_size=data["region_size"],
        images=tuple(_image(row, data["height"], data["width"]) for row in data["images"]),
    )


def _image(row: dict[str, Any], height: int, width: int) -> AskedImage:
    return AskedImage(
        image_id=row["image_id"],
        file=row["file"],
        sha256=row["sha256"],
        boxes=tuple((box[0], box[1], box[2], box[3], box[4]) for box in row["boxes"]),
        rank=row["rank"],
        uncertainty=row["uncertainty"],
        size=(row.get("height") or height, row.get("width") or width),
    )


def _write(path: Path, content: bytes) -> None:
    with written(path, flush=False) as staged:
        staged.write_bytes(content)
