"""Raw data set in, Arrow shards and their index out: everything is checked first, and all of it appears at once."""

from __future__ import annotations

import errno
import hashlib
import itertools
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.datasets import camvid, cityscapes, folder, toy
from benchmarks.datasets.source import Checked, Pixels, RawDataset, Sample
from benchmarks.images import Size, resize_image, resize_mask
from querying.errors import InfrastructureError, UserError
from querying.files import check_folder, make_folder, sync
from querying.leftovers import folder_beside, remove_beside
from querying.shard_writer import ShardWriter
from querying.shards import ENCODINGS, DataIndex, Shard

KINDS: dict[str, Callable[..., RawDataset]] = {
    "camvid": camvid.load,
    "cityscapes": cityscapes.load,
    "folder": folder.load,
    "toy": toy.load,
}
MIN_SIDE = 8

Progress = Callable[[int, int], None]
T = TypeVar("T")
R = TypeVar("R")
_log = logging.getLogger(__name__)


def ingest(
    kind: str,
    src: Path | None,
    dst: Path,
    *,
    size: Size | None,
    shard_size: int = 64,
    encoding: str = "ppm",
    allow_duplicates: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> DataIndex:
    """Turn the raw data set at `src` into the shards of `dst` (layout: `querying.shards`, `querying.index`).

    `size` is (height, width), None = the data set's own; `options` are those of the kind's `load`.  Every file is
    checked before anything is written, and `dst` appears complete or not at all.  A `dst` that is already the result
    of the same call is left as it is; anything else there is a UserError, and so is bad input.  An image that is, byte
    for byte, one of another split is bad input, too, unless `allow_duplicates`.
    `progress(done, total)` is called after each image that was written.
    """
    _check_arguments(kind, size, shard_size, encoding)
    remove_beside(dst.resolve(), _log.warning)
    before = _existing(dst)
    raw = KINDS[kind](src, size, **options) if kind == "toy" else KINDS[kind](_folder(kind, src), size, **options)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            native, fingerprint = _check(raw, pool, allow_duplicates)
            height, width = raw.size or native
            source = {"kind": kind, **raw.parameters, "shard_size": shard_size, "fingerprint": fingerprint}
            planned = (source, encoding, height, width, tuple(raw.classes), tuple(raw.palette))
            if before is not None:
                return _same(before, planned, dst)
            try:
                return _write(raw, dst, (height, width), source, shard_size, encoding, progress, pool)
            except OSError as error:
                made = _existing(dst) if error.errno in (errno.ENOTEMPTY, errno.EEXIST) else None
                if made is None:
                    raise
                return _same(made, planned, dst)  # another process was faster
        finally:
            pool.shutdown(cancel_futures=True)


def _same(found: DataIndex, planned: tuple[Any, ...], dst: Path) -> DataIndex:
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
    if size is not None and min(size) < MIN_SIDE:
        raise UserError(f"size {size[0]}x{size[1]}: both sides must be at least {MIN_SIDE} pixels")


def _folder(kind: str, src: Path | None) -> Path:
    if src is None:
        raise UserError(f"{kind} needs the folder of the raw data set")
    if not src.is_dir():
        raise UserError(f"{src}: no such folder")
    return src


def _existing(dst: Path) -> DataIndex | None:
    if not (dst.exists() or dst.is_symlink()) or (dst.is_dir() and not any(dst.iterdir())):
        return None
    try:
        return DataIndex.load(dst)
    except UserError as error:
        raise UserError(f"{dst}: exists and is not a complete data set; remove it first ({error})") from error


def _check(raw: RawDataset, pool: ThreadPoolExecutor, allow_duplicates: bool) -> tuple[Size, str]:
    """Common size (of the first image, when they will be resized) and a fingerprint of every file that goes in."""
    ids: dict[str, int] = {}
    images: dict[bytes, int] = {}  # eight bytes of a hash and a place, so that a million images take some 200 MB
    if not raw.name.isprintable():
        raise UserError(f"{raw.name!r}: a folder name with characters that can not be printed")
    first: Checked | None = None
    fingerprint = hashlib.sha256()
    leaks = []
    for split, samples in raw.splits.items():
        if not samples:
            raise UserError(f"{raw.name}: the {split} split has no images")
        start = len(ids)
        for sample, checked in zip(samples, _ordered(pool, _check_one, samples), strict=True):
            name, number = sample.image_id, len(ids)
            if name in ids:
                raise UserError(f"{checked.where}: its id {name!r} is also that of {_at(raw, ids[name])[1].where}")
            ids[name] = number
            twin = images.setdefault(hashlib.sha256(checked.image.encode()).digest()[:8], number)
            if twin < start and (leak := _leak(split, checked, *_at(raw, twin))):
                if not allow_duplicates:
                    raise UserError(f"{leak}; --allow-duplicates takes both")
                leaks.append(leak)
            first = first or checked
            if raw.size is None and checked.size != first.size:
                raise UserError(
                    f"{checked.where}: {_text(checked.size)} pixels, but {first.where} is {_text(first.size)}; "
                    f"give a common size (--size HxW)"
                )
            fingerprint.update(f"{split}\n{name}\n{checked.image}\n{checked.mask}\n".encode())
    if leaks:
        _log.warning("%s%s", leaks[0], f" (and {len(leaks) - 1} more)" if len(leaks) > 1 else "")
    assert first is not None, "a raw data set has splits"
    return first.size, fingerprint.hexdigest()


def _at(raw: RawDataset, number: int) -> tuple[str, Checked]:
    """Split and findings of a sample by its place among all."""
    samples = ((split, sample) for split, samples in raw.splits.items() for sample in samples)
    split, sample = next(itertools.islice(samples, number, None))
    return split, sample.check()


def _leak(split: str, checked: Checked, other_split: str, other: Checked) -> str:
    """What is learned from one would be tested on the other."""
    if checked.image != other.image:
        return ""
    return f"{checked.where}: the {split} image is, byte for byte, {other.where} of {other_split}"


def _check_one(sample: Sample) -> Checked:
    if not sample.image_id.isprintable():
        raise UserError(f"{sample.image_id!r}: a file name with characters that can not be printed")
    checked = sample.check()
    if min(checked.size) < MIN_SIDE:
        raise UserError(f"{checked.where}: {_text(checked.size)} pixels; both sides must be at least {MIN_SIDE}")
    return checked


def _text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def _write(
    raw: RawDataset,
    dst: Path,
    size: Size,
    source: Mapping[str, Any],
    shard_size: int,
    encoding: str,
    progress: Progress | None,
    pool: ThreadPoolExecutor,
) -> DataIndex:
    """Build everything in a folder beside `dst` and rename it."""
    target = dst.resolve()
    check_folder(target.parent)
    total = sum(map(len, raw.splits.values()))
    try:
        make_folder(target.parent)
        with folder_beside(target) as staging:
            if encoding == "ppm":
                _check_space(target.parent, total * size[0] * size[1] * 3)
            done = itertools.count(1)
            splits: dict[str, tuple[Shard, ...]] = {}
            for split, samples in raw.splits.items():
                with ShardWriter(
                    staging, split, num_classes=len(raw.classes), shard_size=shard_size, encoding=encoding
                ) as writer:
                    read = _ordered(pool, lambda sample: _read(sample, size), samples)
                    for sample, (image_HWC, mask_HW) in zip(samples, read, strict=True):
                        writer.add(sample.image_id, image_HWC, mask_HW)
                        if progress:
                            progress(next(done), total)
                splits[split] = writer.close()
            palette = tuple(raw.palette)
            DataIndex(staging, raw.name, tuple(raw.classes), palette, *size, encoding, source, splits).save()
            for folder_ in (staging / "images", staging / "truth", staging):
                sync(folder_)
            os.replace(staging, target)
            sync(target.parent)
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


def _read(sample: Sample, size: Size) -> Pixels:
    image_HWC, mask_HW = sample.read()
    return resize_image(image_HWC, size), None if mask_HW is None else resize_mask(mask_HW, size)


def _ordered(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """`pool.map`, but only a few results ahead of the caller, so that memory does not grow with the data set."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > 16:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
