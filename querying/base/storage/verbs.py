"""What is done with places, alike for both kinds: a folder is published whole, a file is read or hashed."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

from querying.base.errors import DamagedError, UserError
from querying.base.failpoints import failpoint
from querying.base.files import flush_below, sha256, sync
from querying.base.storage import bucket
from querying.base.storage.place import Place, Remote

_UPLOADS = 4
"""Files that are uploaded at a time; each is mapped, not read into memory."""


def publish(folder: Path, place: Place, manifest: str) -> None:
    """Make the whole folder appear at a place, where nothing is.  FileExistsError where another was there first.

    On a file system it is flushed and renamed.  In a bucket every file is an object; the `manifest`, without which a
    reader takes nothing, comes last, and what is there is never written over.  A claim, the hash of the manifest, comes
    first: of two that publish different folders one loses there, and an attempt that was killed can be made again.
    """
    if isinstance(place, Path):
        flush_below(folder)
        os.replace(folder, place)
        sync(place.parent)
        return
    claim, ours = place / f"{manifest}.claim", sha256(folder / manifest).encode()
    if not bucket.create(claim, ours) and read(claim, partial(_same, ours)) != ours:
        if read(place / manifest) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
        raise UserError(
            f"{place}: another data set is being published there, or was not finished: use another place, or remove all"
            f" of {place} first"
        )
    failpoint("publish:claimed")
    there = bucket.sizes(place)  # by an attempt that was killed
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(_UPLOADS) as threads:
        try:
            for _ in threads.map(
                lambda name: _upload(folder / name, place / name, name in there), (n for n in names if n != manifest)
            ):
                pass
        finally:
            threads.shutdown(cancel_futures=True)
    failpoint("publish:files")
    _upload(folder / manifest, place / manifest)
    failpoint("publish:manifest")


def _upload(path: Path, target: Remote, there: bool = False) -> None:
    """Write an object; one that is the same was written by an attempt before this, or by somebody with the same."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if (there or not bucket.create(target, data)) and not is_there(target, sha256(path)):
            raise UserError(f"{target}: is there and is another file: use another place, or remove it first")
    failpoint("publish:file")


def read(place: Place, check: Callable[[bytes], object] = lambda written: None) -> bytes | None:
    """The bytes of a small file; None where there is none.  Of a bucket they are asked for again where `check` raises
    DamagedError, since a bit may have changed on the way; the last time they are what is there."""
    if isinstance(place, Path):
        return place.read_bytes() if place.is_file() else None
    try:
        for _ in range(bucket.READINGS - 1):
            written = bucket.read(place)
            with suppress(DamagedError):
                check(written)
                return written
        return bucket.read(place)
    except FileNotFoundError:
        return None


def is_there(place: Remote, digest: str) -> bool | None:
    """Has the object itself, and not a copy of it, this SHA-256 (hex)?  None where there is none.  It is read again
    where it has not, since a bit may have changed on the way."""
    try:
        return any(_sha256(bucket.opened(place)[1]) == digest for _ in range(bucket.READINGS))
    except FileNotFoundError:
        return None


def _sha256(parts: Iterable[bytes]) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def _same(expected: bytes, found: bytes) -> None:
    if found != expected:
        raise DamagedError("differs")


def first_missing(folder: Place, names: Iterable[str]) -> str | None:
    """The first of these files that is not below the folder; None where all are."""
    if isinstance(folder, Path):
        return next((name for name in names if not (folder / name).is_file()), None)
    return next(iter(_listed(folder, names)[1]), None)


def total_size(folder: Place, names: Iterable[str]) -> int:
    """Bytes of files below a folder."""
    if isinstance(folder, Path):
        return sum((folder / name).stat().st_size for name in names)
    there, missing = _listed(folder, names)
    if missing:
        raise DamagedError(f"{folder / missing[0]}: does not exist, although the index lists it")
    return sum(there.values())


def _listed(folder: Remote, names: Iterable[str]) -> tuple[dict[str, int], list[str]]:
    """Bytes of these files, and which are missing.  The bucket is asked again where one is, since a bit of its name may
    have changed on the way."""
    wanted, there = list(names), bucket.sizes(folder)
    for _ in range(bucket.READINGS - 1):
        if there.keys() >= set(wanted):
            break
        there = bucket.sizes(folder)
    return {name: there[name] for name in wanted if name in there}, [name for name in wanted if name not in there]
