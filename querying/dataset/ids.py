"""Which images a split has, shard by shard: by a file of ids beside the index, so that nobody reads pixels for them.

Data sets of earlier versions have none: their shards are read.  Whoever reads a shard compares its ids with the digest
that the file's were compared with, so that a file that lists others is found before anything is made by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from querying.base.arrow_file import ArrowFile
from querying.base.errors import DamagedError
from querying.base.storage.place import Place
from querying.dataset.id_digests import id_digests
from querying.dataset.index import DataIndex, Shard, Size, ids_file
from querying.dataset.limits import is_id
from querying.dataset.schemas import IDS, IMAGE

BATCH_ROWS = 8
"""Rows of a record batch: what a reader touches at a time and a writer keeps in memory."""


def ids_sha256(ids: Iterable[str]) -> str:
    """SHA-256 (hex) of ids in their order, a line each."""
    return hashlib.sha256("".join(f"{image_id}\n" for image_id in ids).encode()).hexdigest()


def ids_of(file: ArrowFile, batch: pa.RecordBatch) -> list[str]:
    """The ids of a batch; DamagedError for one that ingest would not have written."""
    ids: list[str] = batch.column("image_id").to_pylist()
    for image_id in ids:
        if not is_id(image_id):
            raise DamagedError(f"{file.path}: image {image_id[:80]!r}: an id that can not be printed, or is too long")
    return ids


def check_rows(file: ArrowFile, rows: int, shard: Shard) -> None:
    """DamagedError where they are not as many as the index says."""
    if rows != shard.rows:
        raise DamagedError(f"{file.path}: {rows} images, the index says {shard.rows}")


def check_listed(file: ArrowFile, ids: Sequence[str], shard: Shard) -> None:
    """DamagedError where the ids that a shard has are not those that were handed out for it."""
    if shard.ids is not None and ids_sha256(ids) != shard.ids.sha256:
        raise DamagedError(f"{file.path}: its images are not those that {shard.ids.file} lists")


def images_file(root: Place, shard: Shard) -> ArrowFile:
    return ArrowFile(root / shard.images, IMAGE, shard.images_sha256)


def image_ids(root: Place, shard: Shard) -> list[str]:
    """The ids of a shard in order, from the shard itself; no pixel is read, but all are hashed.  DamagedError where
    they are not as many as the index says, or others than the file of ids lists."""
    return ids_in_parts(images_file(root, shard), shard)


def ids_in_parts(file: ArrowFile, shard: Shard) -> list[str]:
    """The ids of an open shard of images, whose places tell where they are."""
    found: list[str] = []
    for batch in file.batches():
        if len(found) % BATCH_ROWS or batch.num_rows > BATCH_ROWS:
            raise DamagedError(f"{file.path}: not in parts of {BATCH_ROWS} images")
        found += ids_of(file, batch)
    check_rows(file, len(found), shard)
    check_listed(file, found, shard)
    return found


class SplitIds:
    """The ids of a split as Arrow arrays, which take their bytes and no more; an image's place is its number in the
    order of the shards."""

    def __init__(self, index: DataIndex, split: str) -> None:
        self._root, self._split, self._shards = index.root, split, index.shards(split)
        self._digest = index.ids.get(split)
        self.what = f"{split} split of {index.root}"
        self.starts: np.ndarray = np.cumsum([0, *(shard.rows for shard in self._shards)])
        """The place of each shard's first image, and behind the last one, int64."""

    def __len__(self) -> int:
        """How many parts there are: as many as shards, or else the file is damaged."""
        return len(self._shards) if self._opened is None else self._opened.num_batches

    def __iter__(self) -> Iterator[pa.StringArray]:
        return map(self.of, range(len(self._shards)))

    def of(self, number: int) -> pa.StringArray:
        """Those of a shard.  DamagedError names the file of ids, or else the shard, that is not what was written."""
        shard, file = self._shards[number], self._opened
        if file is None:
            return pa.array(image_ids(self._root, shard), pa.string())
        if len(self) != len(self._shards):
            raise DamagedError(f"{file.path}: has {len(self)} parts for {len(self._shards)} shards")
        batch = file.batch(number)
        check_rows(file, batch.num_rows, shard)
        ids = ids_of(file, batch)
        if shard.ids is None or ids_sha256(ids) != shard.ids.sha256:
            raise DamagedError(f"{file.path}: does not list the images of {shard.images}")
        return pa.array(ids, pa.string())  # a copy: what was compared is what is handed out

    @cached_property
    def _opened(self) -> ArrowFile | None:
        return ArrowFile(self._root / ids_file(self._split), IDS, self._digest) if self._digest else None

    @cached_property
    def column(self) -> pa.ChunkedArray:
        """All of them, a chunk for each shard."""
        return pa.chunked_array(list(self), pa.string())

    def places(self, ids: pa.ChunkedArray) -> np.ndarray:
        """The place of each of some ids (a column of text, or of codes for it), int32; -1 of one that the split has
        not."""
        parts = [np.zeros(0, np.int32)]
        for chunk in ids.chunks:
            coded = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
            parts.append(self._places(coded.dictionary)[coded.indices.to_numpy(zero_copy_only=False)])
        return np.concatenate(parts)

    def _places(self, ids: pa.StringArray) -> np.ndarray:
        digest_N, order_N = self._by_digest
        digest_I = id_digests(ids)
        row_I = np.searchsorted(digest_N, digest_I).clip(max=max(len(digest_N) - 1, 0))
        place_I = np.full(len(ids), -1, np.int32)
        if not len(digest_N):
            return place_I
        there_I = digest_N[row_I] == digest_I
        place_I[there_I] = order_N[row_I[there_I]]
        for number in np.unique(np.searchsorted(self.starts, place_I[there_I], side="right") - 1).tolist():
            first, end = self.starts[number : number + 2].tolist()
            at = np.flatnonzero((place_I >= first) & (place_I < end))
            same = pc.equal(ids.take(pa.array(at)), self.column.chunk(number).take(pa.array(place_I[at] - first)))
            place_I[at[~same.to_numpy(zero_copy_only=False)]] = -2
        if len(strange := np.flatnonzero(place_I == -2)):  # another id has its number
            found = pc.index_in(ids.take(pa.array(strange)), value_set=self.column)
            place_I[strange] = found.fill_null(-1).to_numpy(zero_copy_only=False)
        return place_I

    @cached_property
    def _by_digest(self) -> tuple[np.ndarray, np.ndarray]:
        """The digests of all ids in rising order, uint64, and the place of each, int32."""
        digest_N = np.concatenate([np.zeros(0, np.uint64), *map(id_digests, self.column.chunks)])
        order_N = np.argsort(digest_N, kind="stable").astype(np.int32)
        return digest_N[order_N], order_N


def size_of(index: DataIndex, split: str) -> Callable[[str], Size]:
    """The (height, width) of an image of a split, by its id.  Reads all ids where images have several sizes."""
    if len(sizes := index.sizes(split)) == 1:
        only = next(iter(sizes))
        return lambda image_id: only
    pairs = zip(index.shards(split), SplitIds(index, split), strict=True)
    found = {image_id: shard.size for shard, ids in pairs for image_id in ids.to_pylist()}
    return found.__getitem__


def check_ids(index: DataIndex) -> None:
    """DamagedError where an image is in a data set twice.  Decodes no image; where the data set has no files of ids, it
    reads, and so hashes, all of them."""
    splits = {split: SplitIds(index, split) for split in index.splits}
    parts = [id_digests(part) for ids in splits.values() for part in ids]
    every = np.concatenate([np.zeros(0, np.uint64), *parts])
    every.sort()  # np.unique makes a table of them
    if not (every[1:] == every[:-1]).any():
        return
    split_of: dict[str, str] = {}
    for split, ids in splits.items():
        for shard, part in zip(index.shards(split), ids, strict=True):
            for image_id in part.to_pylist():
                if image_id in split_of:
                    raise DamagedError(
                        f"{index.root / shard.images}: image {image_id} is also in split {split_of[image_id]}"
                    )
                split_of[image_id] = split
