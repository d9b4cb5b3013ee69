"""A data set's Arrow shards: images in one file, the truth in another, so that no reader of images can see it."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from querying.arrow_file import ArrowFile
from querying.codecs import ENCODINGS, UNREADABLE, UInt8, decode_image, decode_label, encode_image, encode_label
from querying.errors import DamagedError
from querying.files import sha256
from querying.index import DataIndex, Shard
from querying.schemas import IMAGE, TRUTH

__all__ = [
    "BATCH_ROWS",
    "DataIndex",
    "ENCODINGS",
    "ImageStore",
    "Shard",
    "decode_image",
    "decode_label",
    "encode_image",
    "encode_label",
    "image_ids",
    "read_images",
    "read_truth",
    "verify",
]

BATCH_ROWS = 8
"""Rows of a record batch: what a reader touches at a time and a writer keeps in memory."""
_OPEN_SHARDS = 32


def _rows(file: ArrowFile, column: str, ids: Collection[str] | None) -> Iterator[tuple[str, Any]]:
    for batch in file.batches():
        for image_id, cell in zip(batch.column("image_id").to_pylist(), batch.column(column), strict=True):
            if ids is None or image_id in ids:
                yield image_id, cell.as_buffer()


def _images(root: Path, shard: Shard) -> ArrowFile:
    return ArrowFile(root / shard.images, IMAGE, shard.images_sha256)


def read_images(root: Path, shard: Shard, ids: Collection[str] | None = None) -> Iterator[tuple[str, UInt8]]:
    """(image_id, read-only pixels (H, W, 3)) in the shard's order, of all images or of those in `ids`."""
    file = _images(root, shard)
    for image_id, data in _rows(file, "image", ids):
        yield image_id, _decoded(decode_image, data, file, image_id)


def read_truth(root: Path, shard: Shard, ids: Collection[str] | None = None) -> Iterator[tuple[str, UInt8 | None]]:
    """(image_id, labels (H, W) or None) in the shard's order, of all images or of those in `ids`."""
    file = ArrowFile(root / shard.truth, TRUTH, shard.truth_sha256)
    for image_id, data in _rows(file, "mask", ids):
        yield image_id, None if data is None else _decoded(decode_label, data, file, image_id)


def _decoded(decode: Callable[[memoryview], UInt8], data: Any, file: ArrowFile, image_id: str) -> UInt8:
    try:
        return decode(memoryview(data))
    except UNREADABLE as error:
        raise DamagedError(f"{file.path}: image {image_id} can not be decoded: {error}") from error


def image_ids(root: Path, shard: Shard) -> list[str]:
    """The ids of a shard in order; no pixel is read."""
    batches = _images(root, shard).batches()
    return [image_id for batch in batches for image_id in batch.column("image_id").to_pylist()]


class ImageStore:
    """Random access to a split's images by id, through memory maps; never opens the truth.

    One per process; several threads may read from it.
    """

    def __init__(self, index: DataIndex, split: str) -> None:
        self._root, self._shards = index.root, index.shards(split)
        self._starts = list(accumulate((shard.rows for shard in self._shards), initial=0))
        self._readers: dict[int, ArrowFile] = {}
        self._lock = threading.Lock()
        ids = [image_id for shard in self._shards for image_id in image_ids(self._root, shard)]
        self._position = {image_id: position for position, image_id in enumerate(ids)}
        if not len(ids) == len(self._position) == self._starts[-1]:
            raise DamagedError(f"{self._root}: the {split} shards do not hold the images that the index lists")

    def ids(self) -> list[str]:
        """Every id, in the order of the shards."""
        return list(self._position)

    def image(self, image_id: str) -> UInt8:
        """Pixels (H, W, 3) of an image, read-only; a view of the mapped file where the encoding is ppm."""
        position = self._position[image_id]
        number = bisect_right(self._starts, position) - 1
        batch, row = divmod(position - self._starts[number], BATCH_ROWS)
        with self._lock:
            file = self._reader(number)
            data = file.batch(batch).column("image")[row].as_buffer()
        return _decoded(decode_image, data, file, image_id)

    def _reader(self, number: int) -> ArrowFile:
        if number not in self._readers:
            while len(self._readers) >= _OPEN_SHARDS:  # the first opened; a process may have only so many files open
                del self._readers[next(iter(self._readers))]
            self._readers[number] = _images(self._root, self._shards[number])
        return self._readers[number]


def verify(index: DataIndex) -> Iterator[str]:
    """Hash every shard file and yield a line for each that is missing or is not what was written."""
    for shards in index.splits.values():
        for shard in shards:
            for name, digest in ((shard.images, shard.images_sha256), (shard.truth, shard.truth_sha256)):
                path = index.root / name
                if not path.is_file():
                    yield f"{path}: does not exist"
                elif sha256(path) != digest:
                    yield f"{path}: differs from what was ingested"
