"""A data set's Arrow shards: images in one file, the truth in another, so that no reader of images can see it."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa

from querying.codecs import ENCODINGS, UInt8, decode_image, decode_label, encode_image, encode_label
from querying.errors import DamagedError, UserError
from querying.files import sha256
from querying.index import DataIndex, Shard
from querying.labels import IGNORE
from querying.schemas import IMAGE, TRUTH

__all__ = [
    "BATCH_ROWS",
    "DataIndex",
    "ENCODINGS",
    "ImageStore",
    "Shard",
    "ShardWriter",
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


class ShardWriter:
    """Streams one split into shards of `shard_size` images: `with ShardWriter(...) as writer: writer.add(...)`.

    At most BATCH_ROWS images are in memory; a full shard is flushed to the disk.
    """

    def __init__(
        self, root: Path, split: str, *, num_classes: int, shard_size: int = 64, encoding: str = "ppm"
    ) -> None:
        assert shard_size > 0, shard_size
        self._root, self._split = root, split
        self._num_classes, self._shard_size, self._encoding = num_classes, shard_size, encoding
        self._shards: list[Shard] = []
        self._part: _Part | None = None
        for folder in ("images", "truth"):
            (root / folder).mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.close()
        elif self._part:
            self._part.abandon()

    def add(self, image_id: str, image_HWC: UInt8, mask_HW: UInt8 | None) -> None:
        """Append one image; a label that is neither a class nor IGNORE is a UserError naming the image."""
        count_256 = np.zeros(256, np.int64)
        if mask_HW is not None:
            assert mask_HW.shape == image_HWC.shape[:2], (image_id, mask_HW.shape, image_HWC.shape)
            count_256 = np.bincount(mask_HW.ravel(), minlength=256)
            bad = np.flatnonzero(count_256[self._num_classes : IGNORE]) + self._num_classes
            if len(bad):
                raise UserError(f"image {image_id}: label {bad[0]} is none of the {self._num_classes} classes")
        if self._part is None:
            self._part = _Part(self._root, f"{self._split}-{len(self._shards):05d}.arrow")
        height, width, _ = image_HWC.shape
        image = encode_image(image_HWC, self._encoding)
        self._part.append(
            {"image_id": image_id, "image": image, "height": height, "width": width},
            {"image_id": image_id, "mask": None if mask_HW is None else encode_label(mask_HW)},
            count_256,
        )
        if self._part.rows == self._shard_size:
            self._finish()

    def close(self) -> tuple[Shard, ...]:
        """Finish the last shard and list them all.  Calling it again changes nothing."""
        self._finish()
        return tuple(self._shards)

    def _finish(self) -> None:
        if self._part:
            part, self._part = self._part, None
            self._shards.append(part.finish(self._num_classes))


class _Part:
    """The two files of the shard that is being written."""

    def __init__(self, root: Path, name: str) -> None:
        self.rows = self.masked = 0
        self._root, self._names = root, (f"images/{name}", f"truth/{name}")
        self._count_256 = np.zeros(256, np.int64)
        self._pending: tuple[list[dict[str, object]], list[dict[str, object]]] = ([], [])
        self._files: list[BinaryIO] = [(root / name).open("xb") for name in self._names]
        self._writers = [pa.ipc.new_file(*pair) for pair in zip(self._files, (IMAGE, TRUTH), strict=True)]

    def append(self, image: dict[str, object], truth: dict[str, object], count_256: np.ndarray) -> None:
        self._pending[0].append(image)
        self._pending[1].append(truth)
        self.rows += 1
        self.masked += truth["mask"] is not None
        self._count_256 += count_256
        if self.rows % BATCH_ROWS == 0:
            self._flush()

    def finish(self, num_classes: int) -> Shard:
        self._flush()
        for writer, file in zip(self._writers, self._files, strict=True):
            writer.close()
            file.flush()
            os.fsync(file.fileno())
            file.close()
        images, truth = self._names
        return Shard(
            images=images,
            truth=truth,
            rows=self.rows,
            masked=self.masked,
            images_sha256=sha256(self._root / images),
            truth_sha256=sha256(self._root / truth),
            class_pixels=tuple(self._count_256[:num_classes].tolist()),
            void_pixels=int(self._count_256[IGNORE]),
        )

    def abandon(self) -> None:
        for file in self._files:
            file.close()

    def _flush(self) -> None:
        for writer, rows, schema in zip(self._writers, self._pending, (IMAGE, TRUTH), strict=True):
            if rows:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
                rows.clear()


class _Reader:
    """One memory-mapped shard file; DamagedError, naming it, when it is not what was written."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path = path
        self._file = self._guard(lambda: pa.ipc.open_file(pa.memory_map(str(path))))
        if not self._file.schema.equals(schema):
            raise DamagedError(f"{path}: its columns are {', '.join(self._file.schema.names)}")

    def batch(self, number: int) -> Any:
        return self._guard(lambda: self._file.get_batch(number))

    def batches(self) -> Iterator[Any]:
        return map(self.batch, range(self._file.num_record_batches))

    def _guard(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pa.ArrowInvalid, OSError) as error:
            raise DamagedError(f"{self.path}: not a readable shard: {error}") from error


def _rows(path: Path, schema: pa.Schema, column: str, ids: Collection[str] | None) -> Iterator[tuple[str, Any]]:
    for batch in _Reader(path, schema).batches():
        for image_id, cell in zip(batch.column("image_id").to_pylist(), batch.column(column), strict=True):
            if ids is None or image_id in ids:
                yield image_id, cell.as_buffer()


def read_images(root: Path, shard: Shard, ids: Collection[str] | None = None) -> Iterator[tuple[str, UInt8]]:
    """(image_id, read-only pixels (H, W, 3)) in the shard's order, of all images or of those in `ids`."""
    for image_id, data in _rows(root / shard.images, IMAGE, "image", ids):
        yield image_id, decode_image(memoryview(data))


def read_truth(root: Path, shard: Shard, ids: Collection[str] | None = None) -> Iterator[tuple[str, UInt8 | None]]:
    """(image_id, labels (H, W) or None) in the shard's order, of all images or of those in `ids`."""
    for image_id, data in _rows(root / shard.truth, TRUTH, "mask", ids):
        yield image_id, None if data is None else decode_label(memoryview(data))


def image_ids(root: Path, shard: Shard) -> list[str]:
    """The ids of a shard in order; no pixel is read."""
    batches = _Reader(root / shard.images, IMAGE).batches()
    return [image_id for batch in batches for image_id in batch.column("image_id").to_pylist()]


class ImageStore:
    """Random access to a split's images by id, through memory maps; never opens the truth.

    One per process; several threads may read from it.
    """

    def __init__(self, index: DataIndex, split: str) -> None:
        self._root, self._shards = index.root, index.shards(split)
        self._starts = list(accumulate((shard.rows for shard in self._shards), initial=0))
        self._readers: dict[int, _Reader] = {}
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
            data = self._reader(number).batch(batch).column("image")[row].as_buffer()
        return decode_image(memoryview(data))

    def _reader(self, number: int) -> _Reader:
        if number not in self._readers:
            while len(self._readers) >= _OPEN_SHARDS:  # the first opened; a process may have only so many files open
                del self._readers[next(iter(self._readers))]
            self._readers[number] = _Reader(self._root / self._shards[number].images, IMAGE)
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
