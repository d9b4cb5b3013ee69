"""`index.json`: what a data set is called, its classes and size, and every shard with its counts and hashes."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from querying.base.errors import DamagedError, UserError
from querying.base.files import json_text, unsealed, write_json
from querying.base.storage.place import Place
from querying.base.storage.verbs import first_missing, read
from querying.dataset.codecs import ENCODINGS
from querying.dataset.limits import (
    MAX_IMAGES,
    class_names,
    image_size,
    items,
    palette,
    sha256_text,
    split_name,
    text,
    whole,
)

ONE_SIZE, SEVERAL_SIZES = 1, 2
"""Schemas: where images have several sizes, each shard says the one that its images have."""


Size = tuple[int, int]
"""(height, width) in pixels."""


class Content(NamedTuple):
    """What each image of a shard is, as the index says; a shard that holds anything else is refused."""

    height: int
    width: int
    encoding: str
    num_classes: int


class Listed(NamedTuple):
    """The ids of a shard, in a file with those of its split: its name, and `ids_sha256` of the shard's own."""

    file: str
    sha256: str


def ids_file(split: str) -> str:
    """Where the ids of a split's images are, relative to the data set."""
    return f"ids/{split}.arrow"


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
    content: Content | None = None
    """In the file only where the images of a data set have several sizes; None where nothing is known of them."""
    ids: Listed | None = None
    """None in data sets of earlier versions, whose ids are in the shards alone."""

    @property
    def size(self) -> Size:
        """Height and width of each of its images."""
        assert self.content is not None, self.images
        return self.content.height, self.content.width


@dataclass(frozen=True, slots=True)
class DataIndex:
    """A data set; class k is `classes[k]`, drawn in `palette[k]`.  Every image is `height` x `width` pixels, or at most
    as high and as wide where the shards hold `several_sizes`; all images of a shard have the same size.

    `source` says how it was made: the kind, its parameters, and a fingerprint of the files it was made from.
    """

    root: Place
    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    height: int
    width: int
    encoding: str
    source: Mapping[str, Any]
    splits: Mapping[str, tuple[Shard, ...]]
    ids: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 (hex) of the file of ids of each split; of none in data sets of earlier versions."""

    @classmethod
    def load(cls, root: Place, *, shards_too: bool = True) -> DataIndex:
        """Read ROOT/index.json.  UserError: no index or (`shards_too`) no shard; DamagedError: an altered index."""
        path = root / "index.json"
        written = read(path, _sealed)
        if written is None:
            raise UserError(f"{path}: does not exist, so {root} is not a data set{_hint(root)}")
        try:
            index = _parse(root, _sealed(written, path))
        except UserError:
            raise
        except KeyError as missing:
            raise UserError(f"{path}: key {missing} is missing") from missing
        except ValueError as error:
            raise UserError(f"{path}: not the index of a data set: {error}") from error
        if shards_too and (name := first_missing(root, index.files())):
            raise UserError(f"{root / name}: does not exist, although {path} lists it")
        return index

    def save(self) -> None:
        """Write ROOT/index.json; the same content gives the same bytes.  A version that knows no files of ids passes
        over what it says of them, so that they are no other schema."""
        several = self.several_sizes
        data = {"schema": SEVERAL_SIZES if several else ONE_SIZE} | asdict(self)
        del data["root"]
        if not self.ids:
            del data["ids"]
        for split, shards in self.splits.items():
            for shard, written in zip(shards, data["splits"][split], strict=True):
                del written["content"], written["ids"]
                if shard.ids and split in self.ids:
                    written["ids_sha256"] = shard.ids.sha256
                if several:
                    written |= {"height": shard.size[0], "width": shard.size[1]}
        assert isinstance(self.root, Path), f"{self.root}: a data set is written in a folder, and then published"
        write_json(self.root / "index.json", data)

    def files(self) -> Iterator[str]:
        """Every shard's two files, then those of ids, relative to the data set."""
        for shard in (shard for shards in self.splits.values() for shard in shards):
            yield from (shard.images, shard.truth)
        yield from map(ids_file, self.ids)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of index.json: through the hashes in it, of every byte of the data set.  DamagedError where it
        is not there any more, or is not what was written."""
        return hashlib.sha256(self._written()).hexdigest()

    def _written(self) -> bytes:
        path = self.root / "index.json"
        written = read(path, _sealed)
        if written is None:
            raise DamagedError(f"{path}: does not exist any more")
        _sealed(written, path)
        return written

    def is_that(self, digest: str) -> bool:
        """Is it the data set of which this was the `digest`?  Of one that an earlier version made, and that was made
        again, every byte but what is said of ids is the same."""
        written = self._written()
        if hashlib.sha256(written).hexdigest() == digest:
            return True
        if not self.ids:
            return False
        data = _sealed(written)
        del data["ids"]
        for shard in (shard for shards in data["splits"].values() for shard in shards):
            shard.pop("ids_sha256", None)
        return hashlib.sha256(json_text(data).encode()).hexdigest() == digest

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def shards(self, split: str) -> tuple[Shard, ...]:
        """The shards of a split, in order; UserError when there is no such split."""
        if split not in self.splits:
            raise UserError(f"{self.root}: no split {split!r}; there are {', '.join(self.splits)}")
        return self.splits[split]

    @property
    def several_sizes(self) -> bool:
        shards = (shard for shards in self.splits.values() for shard in shards)
        return any(shard.content and shard.size != (self.height, self.width) for shard in shards)

    def sizes(self, split: str) -> Counter[Size]:
        """How many images of a split have each size, in the order of its shards."""
        found: Counter[Size] = Counter()
        for shard in self.shards(split):
            found[shard.size if shard.content else (self.height, self.width)] += shard.rows
        return found

    def shard_sizes(self, split: str) -> list[Size]:
        """The size of the images of each shard of a split; nothing where all images have the same."""
        return [shard.size for shard in self.shards(split)] if self.several_sizes else []

    def num_images(self, split: str) -> int:
        return sum(shard.rows for shard in self.shards(split))

    def num_pixels(self, split: str) -> int:
        return sum(rows * height * width for (height, width), rows in self.sizes(split).items())


def _sealed(written: bytes, path: object = "index.json") -> dict[str, Any]:
    return unsealed(written, path, reads=(ONE_SIZE, SEVERAL_SIZES))


def _parse(root: Place, data: dict[str, Any]) -> DataIndex:
    """What `save` wrote; ValueError or KeyError where it is anything that ingest would not have written."""
    classes = class_names(data["classes"])
    height, width = image_size(data["height"], data["width"])
    encoding = text(data["encoding"], "encoding", 10)
    if encoding not in ENCODINGS:
        raise ValueError(f"encoding {encoding!r}: there are {', '.join(ENCODINGS)}")
    colours = palette(data["palette"], classes)
    content, several = Content(height, width, encoding, len(classes)), data.get("schema") == SEVERAL_SIZES
    ids = items(data.get("ids", {}), "ids", dict)
    splits = {
        split_name(split): tuple(
            _parse_shard(items(shard, "shard", dict), content, several, ids_file(split) if split in ids else None)
            for shard in items(shards, split)
        )
        for split, shards in items(data["splits"], "splits", dict).items()
    }
    if strange := ids.keys() - splits.keys():
        raise ValueError(f"ids of {min(strange)[:80]!r}: there is no such split")
    sizes = [shard.size for shards in splits.values() for shard in shards]
    if several and (height, width) != tuple(map(max, zip(*sizes, strict=True))):
        raise ValueError(f"{height}x{width} pixels are not the largest height and width of its shards")
    names = [name for shards in splits.values() for shard in shards for name in (shard.images, shard.truth)]
    names += map(ids_file, ids)
    if len(set(names)) < len(names):
        raise ValueError(f"shard {Counter(names).most_common(1)[0][0]!r} is there twice")
    whole(sum(shard.rows for shards in splits.values() for shard in shards), "images:", 0, MAX_IMAGES)
    return DataIndex(
        root=root,
        name=text(data["name"], "name", 255, shortest=0),
        classes=classes,
        palette=colours,
        height=height,
        width=width,
        encoding=encoding,
        source=items(data["source"], "source", dict),
        splits=splits,
        ids={split: sha256_text(digest, f"ids of {split}:") for split, digest in ids.items()},
    )


def _parse_shard(data: dict[str, Any], content: Content, several: bool, ids: str | None) -> Shard:
    images, truth = data["images"], data["truth"]
    for name in (images, truth):
        inside = isinstance(name, str) and re.fullmatch(r"\w[\w./-]{,200}", name) and ".." not in Path(name).parts
        if not inside:
            raise ValueError(f"shard {repr(name)[:80]}: a file in the folder of the data set was expected")
    if several:
        content = Content(*image_size(data["height"], data["width"], f"{images}: "), *content[2:])
    rows = whole(data["rows"], f"{images}: rows", 1, MAX_IMAGES)
    pixels = rows * content.height * content.width
    counts = tuple(whole(n, f"{images}: class_pixels", 0, pixels) for n in items(data["class_pixels"], "class_pixels"))
    void = whole(data["void_pixels"], f"{images}: void_pixels", 0, pixels)
    if len(counts) != content.num_classes:
        raise ValueError(f"{images}: {len(counts)} counts of pixels for {content.num_classes} classes")
    if sum(counts) + void > pixels:
        raise ValueError(f"{images}: {sum(counts) + void} pixels in masks of {rows} images, which have {pixels}")
    return Shard(
        images=images,
        truth=truth,
        rows=rows,
        masked=whole(data["masked"], f"{images}: masked", 0, rows),
        images_sha256=sha256_text(data["images_sha256"], f"{images}: images_sha256"),
        truth_sha256=sha256_text(data["truth_sha256"], f"{images}: truth_sha256"),
        class_pixels=counts,
        void_pixels=void,
        content=content,
        ids=Listed(ids, sha256_text(data["ids_sha256"], f"{images}: ids_sha256")) if ids else None,
    )


def _hint(root: Place) -> str:
    if not isinstance(root, Path):
        return ""
    marks = {"camvid": "trainannot", "cityscapes": "leftImg8bit", "folder": "images"}
    kind = next((kind for kind, mark in marks.items() if (root / mark).is_dir()), None)
    return f"; it looks like raw images: run: s4al ingest {kind} {shlex.quote(str(root))} DST" if kind else ""
