"""Raw data set in, Arrow shards and their index out: everything is checked first, and all of it appears at once."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.datasets.files.images import Size, resize_image, resize_mask
from benchmarks.datasets.ingest_check import Findings, check, ordered, size_text
from benchmarks.datasets.sources import camvid, cityscapes, folder, toy
from benchmarks.datasets.sources.source import Pixels, RawDataset, RawSample
from querying.base.errors import InfrastructureError, UserError
from querying.base.files import check_folder, make_folder
from querying.base.leftovers import folder_beside, remove_beside
from querying.base.storage.cache import made_cache_folder
from querying.base.storage.place import Place, Remote
from querying.base.storage.verbs import publish, read
from querying.dataset.limits import MAX_PIXELS, MIN_SIDE
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import ENCODINGS, DataIndex, Shard

KINDS: dict[str, Callable[..., RawDataset]] = {
    "camvid": camvid.load,
    "cityscapes": cityscapes.load,
    "folder": folder.load,
    "toy": toy.load,
}

Progress = Callable[[int, int], None]
_log = logging.getLogger(__name__)


def ingest(
    kind: str,
    src: Path | None,
    dst: Place,
    *,
    size: Size | None,
    shard_size: int = 64,
    encoding: str = "ppm",
    allow_duplicates: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DataIndex:
    """Turn the raw data set at `src` into the shards of `dst` (layout: `querying.dataset.shards`,
    `querying.dataset.index`).

    `size` is (height, width), None = the data set's own, of each image where they differ; `options` are those of the
    kind's `load`.  Every file is checked before anything is written, and `dst` appears complete or not at all.  A `dst`
    that is already the result of the same call is left as it is; anything else there is a UserError, and so is bad
    input.  An image that is, byte for byte, one of another split is bad input, too, unless `allow_duplicates`.
    `progress(done, total)` is called after each image that was written.
    """
    _check_arguments(kind, size, shard_size, encoding)
    target = _local(dst)
    remove_beside(target, _log.warning)
    before = _existing(dst)
    raw, found = survey(kind, src, size=size, allow_duplicates=allow_duplicates, **options)
    for line in found.said:
        _log.warning("%s", line)
    height, width = raw.size or tuple(map(max, zip(*found.sizes, strict=True)))
    source = {"kind": kind, **raw.parameters, "shard_size": shard_size, "fingerprint": found.fingerprint}
    planned = (source, encoding, height, width, tuple(raw.classes), tuple(raw.palette))
    if before is not None:
        return _same(before, planned, dst)
    try:
        return _write(raw, dst, target, (height, width), found.size_of, source, shard_size, encoding, progress)
    except OSError as error:
        made = _existing(dst) if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else None
        if made is None:
            raise
        return _same(made, planned, dst)  # another process was faster


def survey(
    kind: str, src: Path | None, *, size: Size | None, allow_duplicates: bool = False, **options: Any
) -> tuple[RawDataset, Findings]:
    """The raw data set as `ingest` would take it, and what its check found; writes nothing."""
    raw = KINDS[kind](src, size, **options) if kind == "toy" else KINDS[kind](_folder(kind, src), size, **options)
    with _threads() as pool:
        return raw, check(raw, pool, allow_duplicates, stretch=size is not None)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads for files; what waits is given up with an error."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _same(found: DataIndex, planned: tuple[Any, ...], dst: Place) -> DataIndex:
    if (found.source, found.encoding, found.height, found.width, found.classes, found.palette) != planned:
        raise UserError(f"{dst}: exists and is another data set, or made with other options; remove it first")
    _log.warning("%s is already this data set: nothing to do", dst)
    return found


def _check_arguments(kind: str, size: Size | None, shard_size: int, encoding: str) -> None:
    if kind not in KINDS:
        raise UserError(f"data set kind {kind!r}: there are {', '.join(KINDS)}")
    if encoding not in ENCODINGS:
        raise UserError(f"encoding {encoding!r}: there are {', '.join(ENCODINGS)}")
    if shard_size < 1:
        raise UserError(f"shard size {shard_size}: must be at least 1")
    if size is not None and (min(size) < MIN_SIDE or size[0] * size[1] > MAX_PIXELS):
        raise UserError(
            f"size {size_text(size)}: both sides must be at least {MIN_SIDE} pixels, the image at most 64 MP"
        )


def _folder(kind: str, src: Path | None) -> Path:
    if src is None:
        raise UserError(f"{kind} needs the folder of the raw data set")
    if not src.is_dir():
        raise UserError(f"{src}: no such folder")
    return src


def _local(dst: Place) -> Path:
    """What the folder with the new data is made beside: for a bucket, a name among this machine's copies."""
    if isinstance(dst, Path):
        return dst.resolve()
    name = hashlib.sha256(str(dst).encode()).hexdigest()[:16]
    return made_cache_folder().resolve() / "ingest" / name


def _existing(dst: Place) -> DataIndex | None:
    if isinstance(dst, Remote):
        return DataIndex.load(dst, shards_too=False) if read(dst / "index.json") is not None else None
    if not (dst.exists() or dst.is_symlink()) or (dst.is_dir() and not any(dst.iterdir())):
        return None
    try:
        return DataIndex.load(dst)
    except UserError as error:
        raise UserError(f"{dst}: exists and is not a complete data set; remove it first ({error})") from error


def _write(
    raw: RawDataset,
    dst: Place,
    target: Path,
    size: Size,
    size_of: Mapping[str, Size],
    source: Mapping[str, Any],
    shard_size: int,
    encoding: str,
    progress: Progress | None,
) -> DataIndex:
    """Build everything in a folder beside `target` and publish it."""
    check_folder(target.parent)
    total = sum(map(len, raw.splits.values()))
    try:
        make_folder(target.parent)
        with folder_beside(target) as staging, _threads() as pool:
            if encoding == "ppm":
                pixels = sum(map(math.prod, size_of.values())) if size_of else total * math.prod(size)
                _check_space(target.parent, pixels * 3)
            done = itertools.count(1)
            splits: dict[str, tuple[Shard, ...]] = {}
            ids: dict[str, str] = {}
            for split, samples in raw.splits.items():
                with ShardWriter(
                    staging, split, num_classes=len(raw.classes), shard_size=shard_size, encoding=encoding
                ) as writer:
                    by_size = sorted(samples, key=lambda sample: size_of.get(sample.image_id, size))  # as shards are
                    read = ordered(pool, lambda sample: _read(sample, size_of.get(sample.image_id, size)), by_size)
                    for sample, (image_HWC, mask_HW) in zip(by_size, read, strict=True):
                        writer.add(sample.image_id, image_HWC, mask_HW)
                        if progress:
                            progress(next(done), total)
                splits[split], ids[split] = writer.close(), writer.ids_sha256
            palette = tuple(raw.palette)
            DataIndex(staging, raw.name, tuple(raw.classes), palette, *size, encoding, source, splits, ids).save()
            publish(staging, dst if isinstance(dst, Remote) else target, "index.json")
    except (PermissionError, NotADirectoryError) as error:
        raise UserError(f"{dst}: can not be written: {error.strerror}") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InfrastructureError(f"{dst}: {error.strerror}: free some, or use another DST") from error
    return DataIndex.load(dst)


def _check_space(folder_: Path, needed: int) -> None:
    free = shutil.disk_usage(folder_).free
    if free < needed:
        raise InfrastructureError(f"{folder_}: needs {needed / 1e9:.1f} GB, has {free / 1e9:.1f}: free some there")


def _read(sample: RawSample, size: Size) -> Pixels:
    image_HWC, mask_HW = sample.read()
    return resize_image(image_HWC, size), None if mask_HW is None else resize_mask(mask_HW, size)
