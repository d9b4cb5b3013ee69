"""`index.json`: what a data set is called, its classes and size, and every shard with its counts and hashes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from querying.errors import UserError
from querying.files import read_json, write_json

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class Shard:
    """A pair of files, relative to the data folder, and what they hold.

    `masked` rows have a mask; `class_pixels[k]` and `void_pixels` count the pixels of these masks.
    """

    images: str
    truth: str
    rows: int
    masked: int
    images_sha256: str
    truth_sha256: str
    class_pixels: tuple[int, ...]
    void_pixels: int


@dataclass(frozen=True, slots=True)
class DataIndex:
    """A data set.  Every image is `height` x `width` pixels; class k is `classes[k]`, drawn in `palette[k]`.

    `source` says how it was made: the kind, its parameters, and a fingerprint of the files it was made from.
    """

    root: Path
    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    height: int
    width: int
    encoding: str
    source: Mapping[str, Any]
    splits: Mapping[str, tuple[Shard, ...]]

    @classmethod
    def load(cls, root: Path, *, shards_too: bool = True) -> DataIndex:
        """Read ROOT/index.json.  UserError: no index or (`shards_too`) no shard; DamagedError: an altered index."""
        path = root / "index.json"
        if not path.is_file():
            raise UserError(f"{path}: does not exist, so {root} is not a data set{_hint(root)}")
        try:
            index = _parse(root, read_json(path, reads=SCHEMA_VERSION))
        except UserError:
            raise
        except KeyError as missing:
            raise UserError(f"{path}: key {missing} is missing") from missing
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise UserError(f"{path}: not the index of a data set: {error}") from error
        for shard in (shard for shards in index.splits.values() for shard in shards if shards_too):
            for name in (shard.images, shard.truth):
                if not (root / name).is_file():
                    raise UserError(f"{root / name}: does not exist, although {path} lists it")
        return index

    def save(self) -> None:
        """Write ROOT/index.json; the same content gives the same bytes."""
        data = {"schema": SCHEMA_VERSION} | asdict(self)
        del data["root"]
        write_json(self.root / "index.json", data)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of index.json: through the hashes in it, of every byte of the data set."""
        return hashlib.sha256((self.root / "index.json").read_bytes()).hexdigest()

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split, in order; UserError when there is no such split."""
        if split not in self.splits:
            raise UserError(f"{self.root}: no split {split!r}; there are {', '.join(self.splits)}")
        return self.splits[split]

    def num_images(self, split: str) -> int:
        return sum(shard.rows for shard in self.shards(split))


def _parse(root: Path, data: dict[str, Any]) -> DataIndex:
    classes = tuple(str(name) for name in data["classes"])
    palette = tuple((int(red), int(green), int(blue)) for red, green, blue in data["palette"])
    if len(classes) != len(palette):
        raise ValueError(f"{len(classes)} classes but {len(palette)} colours in the palette")
    return DataIndex(
        root=root,
        name=str(data["name"]),
        classes=classes,
        palette=palette,
        height=int(data["height"]),
        width=int(data["width"]),
        encoding=str(data["encoding"]),
        source=dict(data["source"]),
        splits={split: tuple(map(_parse_shard, shards)) for split, shards in data["splits"].items()},
    )


def _parse_shard(data: dict[str, Any]) -> Shard:
    images, truth = str(data["images"]), str(data["truth"])
    for name in (images, truth):
        if not re.fullmatch(r"\w[\w./-]{,200}", name) or ".." in Path(name).parts:
            raise ValueError(f"shard {name[:80]!r}: a file in the folder of the data set was expected")
    return Shard(
        images=images,
        truth=truth,
        rows=int(data["rows"]),
        masked=int(data["masked"]),
        images_sha256=str(data["images_sha256"]),
        truth_sha256=str(data["truth_sha256"]),
        class_pixels=tuple(int(count) for count in data["class_pixels"]),
        void_pixels=int(data["void_pixels"]),
    )


def _hint(root: Path) -> str:
    marks = {"camvid": "trainannot", "cityscapes": "leftImg8bit", "folder": "images"}
    kind = next((kind for kind, mark in marks.items() if (root / mark).is_dir()), None)
    return f"; it looks like raw images: run: s4al ingest {kind} {root} DST" if kind else ""
