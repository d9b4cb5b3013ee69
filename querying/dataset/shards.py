"""A data set's Arrow shards: images in one file, the truth in another, so that no reader of images can see it."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from itertools import accumulate, zip_longest
from typing import Any

import pyarrow as pa

from querying.base.arrow_file import ArrowFile
from querying.base.errors import DamagedError
from querying.base.storage.place import Place
from querying.base.storage.verbs import sha256_of
from querying.dataset.codecs import (
    ENCODINGS,
    UNREADABLE,
    UInt8,
    Unexpected,
    decode_image,
    decode_label,
    encode_image,
    encode_label,
)
from querying.dataset.index import DataIndex, Shard, Size
from querying.dataset.label_values import IGNORE
from querying.dataset.limits import is_id
from querying.dataset.schemas import IMAGE, TRUTH

__all__ = [
    "BATCH_ROWS",
    "DataIndex",
    "ENCODINGS",
    "ImageStore",
    "Shard",
    "check_ids",
    "decode_image",
    "decode_label",
    "encode_image",
    "encode_label",
    "image_ids",
    "paired",
    "read_images",
    "read_truth",
    "size_of",
    "verify",
]

BATCH_ROWS = 8
"""Rows of a record batch: what a reader touches at a time and a writer keeps in memory."""
_OPEN_SHARDS = 32


def _rows(file: ArrowFile, column: str, shard: Shard, ids: Collection[str] | None) -> Iterator[tuple[str, Any]]:
    rows = 0
    for batch in file.batches():
        rows += batch.num_rows
        for image_id, cell in zip(_ids(file, batch), batch.column(column), strict=True):
            if ids is None or image_id in ids:
                yield image_id, cell.as_buffer()
    _check_rows(file, rows, shard)


def _ids(file: ArrowFile, batch: pa.RecordBatch) -> list[str]:
    ids: list[str] = batch.column("image_id").to_pylist()
    for image_id in ids:
        if not is_id(image_id):
            raise DamagedError(f"{file.path}: image {image_id[:80]!r}: an id that can not be printed, or is too long")
    return ids


def _check_rows(file: ArrowFile, rows: int, shard: Shard) -> None:
    if rows != shard.rows:
        raise DamagedError(f"{file.path}: {rows} images, the index says {shard.rows}")


def _images(root: Place, shard: Shard) -> ArrowFile:
    return ArrowFile(root / shard.images, IMAGE, shard.images_sha256)


def read_images(root: Place, shard: Shard, ids: Collection[str] | None = None) -> Iterator[tuple[str, UInt8]]:
    """(image_id, read-only pixels (H, W, 3)) in the shard's order, of all images or of those in `ids`.  DamagedError,
    before anything is decoded, for one that is not what the index says."""
    file = _images(root, shard)
    for image_id, data in _rows(file, "image", shard, ids):
        yield image_id, _decoded(partial(_image, shard), data, file, image_id)


def read_truth(root: Place, shard: Shard, ids: Collection[str] | None = None) -> Iterator[tuple[str, UInt8 | None]]:
    """(image_id, labels (H, W) or None) in the shard's order, of all images or of those in `ids`.  DamagedError for one
    that is not what the index says, or has a label that is no class."""
    file = ArrowFile(root / shard.truth, TRUTH, shard.truth_sha256)
    for image_id, data in _rows(file, "mask", shard, ids):
        label_HW = None if data is None else _decoded(partial(_label, shard), data, file, image_id, "the mask of image")
        if label_HW is not None and shard.content:
            classes = shard.content.num_classes
            if label_HW.max() >= classes and len(strange := label_HW[(label_HW >= classes) & (label_HW != IGNORE)]):
                raise DamagedError(
                    f"{file.path}: label {strange.min()} is none of the {classes} classes (image {image_id})"
                )
        yield image_id, label_HW


def paired(
    root: Place, shard: Shard, images: Iterable[tuple[str, UInt8]], truth: Iterable[tuple[str, UInt8 | None]]
) -> Iterator[tuple[str, UInt8, UInt8 | None]]:
    """What was read of a shard's two files, image by image; DamagedError where they are not about the same images."""
    for image, mask in zip_longest(images, truth):
        if image is None or mask is None or image[0] != mask[0]:
            raise DamagedError(f"{root / shard.truth}: its images are not those of {shard.images}")
        yield image[0], image[1], mask[1]


def _image(shard: Shard, data: memoryview) -> UInt8:
    content = shard.content
    return decode_image(data, content.encoding, content[:2]) if content else decode_image(data)


def _label(shard: Shard, data: memoryview) -> UInt8:
    content = shard.content
    return decode_label(data, content[:2]) if content else decode_label(data)


def _decoded(
    decode: Callable[[memoryview], UInt8], data: Any, file: ArrowFile, image_id: str, what: str = "image"
) -> UInt8:
    try:
        return decode(memoryview(data))
    except Unexpected as error:
        raise DamagedError(f"{file.path}: {what} {image_id} {error}") from error
    except UNREADABLE as error:
        raise DamagedError(f"{file.path}: {what} {image_id} can not be decoded: {error}") from error


def image_ids(root: Place, shard: Shard) -> list[str]:
    """The ids of a shard in order; no pixel is read.  DamagedError where they are not as many as the index says."""
    file, found = _images(root, shard), list[str]()
    for batch in file.batches():
        if len(found) % BATCH_ROWS or batch.num_rows > BATCH_ROWS:  # an image's place would not tell where it is
            raise DamagedError(f"{file.path}: not in parts of {BATCH_ROWS} images")
        found += _ids(file, batch)
    _check_rows(file, len(found), shard)
    return found


def size_of(index: DataIndex, split: str) -> Callable[[str], Size]:
    """The (height, width) of an image of a split, by its id.  Reads all ids where images have several sizes."""
    if len(sizes := index.sizes(split)) == 1:
        only = next(iter(sizes))
        return lambda image_id: only
    found = {image_id: shard.size for shard in index.shards(split) for image_id in image_ids(index.root, shard)}
    return found.__getitem__


def check_ids(index: DataIndex) -> None:
    """DamagedError where an image is in a data set twice.  Reads, and so hashes, all images; decodes none."""
    split_of: dict[str, str] = {}
    for split, shards in index.splits.items():
        for shard in shards:
            for image_id in image_ids(index.root, shard):
                if image_id in split_of:
                    raise DamagedError(
                        f"{index.root / shard.images}: image {image_id} is also in split {split_of[image_id]}"
                    )
                split_of[image_id] = split


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

    def size(self, image_id: str) -> Size:
        """Height and width of an image."""
        shard = self._shards[self._shard_number(self._position[image_id])]
        return shard.size

    def image(self, image_id: str) -> UInt8:
        """Pixels (H, W, 3) of an image, read-only; a view of the mapped file where the encoding is ppm."""
        position = self._position[image_id]
        number = self._shard_number(position)
        batch, row = divmod(position - self._starts[number], BATCH_ROWS)
        with self._lock:
            file = self._reader(number)
            data = file.batch(batch).column("image")[row].as_buffer()
        return _decoded(partial(_image, self._shards[number]), data, file, image_id)

    def _shard_number(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

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
                found = sha256_of(path)
                if found is None:
                    yield f"{path}: does not exist"
                elif found != digest:
                    yield f"{path}: differs from what was ingested"
