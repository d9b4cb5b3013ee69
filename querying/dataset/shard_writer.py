"""Writes a data set's Arrow shards; readers are in `shards.py`."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa

from querying.base.errors import UserError
from querying.base.files import sha256
from querying.dataset.codecs import UInt8, encode_image, encode_label
from querying.dataset.ids import BATCH_ROWS, ids_sha256
from querying.dataset.index import Content, Listed, Shard, Size, ids_file
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import IDS, IMAGE, TRUTH


class ShardWriter:
    """Streams one split into shards of `shard_size` images: `with ShardWriter(...) as writer: writer.add(...)`.

    An image of another size than the one before begins a shard: images should come by size.  At most BATCH_ROWS images
    are in memory.  Nothing is flushed to the disk: see `querying.base.files.flush_below`.
    """

    def __init__(
        self, root: Path, split: str, *, num_classes: int, shard_size: int = 64, encoding: str = "ppm"
    ) -> None:
        assert shard_size > 0, shard_size
        self._root, self._split = root, split
        self._num_classes, self._shard_size, self._encoding = num_classes, shard_size, encoding
        self._shards: list[Shard] = []
        self._part: _Part | None = None
        for folder in ("images", "truth", "ids"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        self._ids = root / ids_file(split)
        self._ids_file = self._ids.open("xb")
        self._ids_writer = pa.ipc.new_file(self._ids_file, IDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if error is None:
            self.close()
        else:
            self._ids_file.close()
            if self._part:
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
        height, width, _ = image_HWC.shape
        if self._part and self._part.size != (height, width):
            self._finish()
        if self._part is None:
            self._part = _Part(self._root, f"{self._split}-{len(self._shards):05d}.arrow", (height, width))
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
        if not self._ids_file.closed:
            self._ids_writer.close()
            self._ids_file.close()
        return tuple(self._shards)

    @property
    def ids_sha256(self) -> str:
        """Of the file of ids, once it is finished."""
        return sha256(self._ids)

    def _finish(self) -> None:
        if self._part:
            part, self._part = self._part, None
            self._shards.append(part.finish(self._num_classes, self._encoding, ids_file(self._split)))
            self._ids_writer.write_batch(pa.record_batch([pa.array(part.ids, pa.string())], schema=IDS))


class _Part:
    """The two files of the shard that is being written."""

    def __init__(self, root: Path, name: str, size: Size) -> None:
        self.masked, self.size = 0, size
        self.ids: list[str] = []
        self._root, self._names = root, (f"images/{name}", f"truth/{name}")
        self._count_256 = np.zeros(256, np.int64)
        self._pending: tuple[list[dict[str, object]], list[dict[str, object]]] = ([], [])
        self._files: list[BinaryIO] = [(root / name).open("xb") for name in self._names]
        self._writers = [pa.ipc.new_file(*pair) for pair in zip(self._files, (IMAGE, TRUTH), strict=True)]

    @property
    def rows(self) -> int:
        return len(self.ids)

    def append(self, image: dict[str, object], truth: dict[str, object], count_256: np.ndarray) -> None:
        self._pending[0].append(image)
        self._pending[1].append(truth)
        self.ids.append(str(image["image_id"]))
        self.masked += truth["mask"] is not None
        self._count_256 += count_256
        if self.rows % BATCH_ROWS == 0:
            self._flush()

    def finish(self, num_classes: int, encoding: str, ids: str) -> Shard:
        self._flush()
        for writer, file in zip(self._writers, self._files, strict=True):
            writer.close()
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
            content=Content(*self.size, encoding, num_classes),
            ids=Listed(ids, ids_sha256(self.ids)),
        )

    def abandon(self) -> None:
        for file in self._files:
            file.close()

    def _flush(self) -> None:
        for writer, rows, schema in zip(self._writers, self._pending, (IMAGE, TRUTH), strict=True):
            if rows:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
                rows.clear()
