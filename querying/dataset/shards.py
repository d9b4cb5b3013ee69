"""A data set's Arrow shards: images in one file, the truth in another, so that no reader of images can see it."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from functools import partial
from itertools import accumulate, zip_longest
from typing import Any

from querying.base.arrow_file import ArrowFile, as_written
from querying.base.errors import DamagedError
from querying.base.storage.place import Place
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
from querying.dataset.ids import (
    BATCH_ROWS,
    SplitIds,
    check_ids,
    check_listed,
    check_rows,
    ids_in_parts,
    ids_of,
    image_ids,
    images_file,
    size_of,
)
from querying.dataset.index import DataIndex, Shard, Size, ids_file
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import TRUTH

__all__ = [
    "BATCH_ROWS",
    "DataIndex",
    "ENCODINGS",
    "ImageStore",
    "Shard",
    "SplitIds",
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

_OPEN_SHARDS = 32


def _rows(file: ArrowFile, column: str, shard: Shard, ids: Collection[str] | None) -> Iterator[tuple[str, Any]]:
    there: list[str] = []
    for batch in file.batches():
        of_batch = ids_of(file, batch)
        there += of_batch
        for image_id, cell in zip(of_batch, batch.column(column), strict=True):
            if ids is None or image_id in ids:
                yield image_id, cell.as_buffer()
    check_rows(file, len(there), shard)
    check_listed(file, there, shard)


def read_images(root: Place, shard: Shard, ids: Collection[str] | None = None) -> Iterator[tuple[str, UInt8]]:
    """(image_id, read-only pixels (H, W, 3)) in the shard's order, of all images or of those in `ids`.  DamagedError,
    before anything is decoded, for one that is not what the index says."""
    file = images_file(root, shard)
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


class ImageStore:
    """Random access to a split's images by id, through memory maps; never opens the truth.

    One per process; several threads may read from it.
    """

    def __init__(self, index: DataIndex, split: str) -> None:
        self._root, self._shards = index.root, index.shards(split)
        self._starts = list(accumulate((shard.rows for shard in self._shards), initial=0))
        self._readers: dict[int, ArrowFile] = {}
        self._compared: set[int] = set()
        self._lock = threading.Lock()
        ids = [image_id for part in SplitIds(index, split) for image_id in part.to_pylist()]
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
        file = self._reader(number)
        with self._lock:
            data = file.batch(batch).column("image")[row].as_buffer()
        return _decoded(partial(_image, self._shards[number]), data, file, image_id)

    def _shard_number(self, position: int) -> int:
        return bisect_right(self._starts, position) - 1

    def _reader(self, number: int) -> ArrowFile:
        """A shard, opened without the lock: from a bucket it may take seconds, and others read what they have."""
        with self._lock:
            if number in self._readers:
                return self._readers[number]
        file = images_file(self._root, self._shards[number])
        if number not in self._compared:
            ids_in_parts(file, self._shards[number])
        with self._lock:
            self._compared.add(number)
            while len(self._readers) >= _OPEN_SHARDS:  # the first opened; a process may have only so many files open
                del self._readers[next(iter(self._readers))]
            return self._readers.setdefault(number, file)


def verify(index: DataIndex) -> Iterator[str]:
    """Hash every shard file and every file of ids, and yield a line for each that is missing or is not what was
    written, or lists other images than the shards have."""
    for split, shards in index.splits.items():
        ids = SplitIds(index, split)
        listed = split in index.ids and (yield from _as_ingested(index.root / ids_file(split), index.ids[split]))
        for number, shard in enumerate(shards):
            intact = yield from _as_ingested(index.root / shard.images, shard.images_sha256)
            yield from _as_ingested(index.root / shard.truth, shard.truth_sha256)
            if listed and intact:
                try:
                    ids.of(number)
                    image_ids(index.root, shard)
                except DamagedError as error:
                    yield str(error)
                    listed = len(ids) == len(shards)  # else each of them would say the same


def _as_ingested(path: Place, digest: str) -> Generator[str, None, bool]:
    found = as_written(path, digest)
    if not found:
        yield f"{path}: {'does not exist' if found is None else 'differs from what was ingested'}"
    return bool(found)
