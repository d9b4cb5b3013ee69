"""This machine's copies of objects: by content, verified, fetched once for all of its processes, bounded in size."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from querying.base.errors import DamagedError, UserError
from querying.base.failpoints import failpoint
from querying.base.storage import bucket
from querying.base.storage.place import Remote
from querying.base.storage.room import (
    BOUND,
    FOLDER,
    PART,
    SHORT_S,
    NotAhead,
    bound_bytes,
    check_room_ahead,
    locked,
    make_room,
)

LOG = logging.getLogger(__name__)
_FROZEN_S = 60.0
"""Seconds, beyond those for which a store may fail, in which a process that fetches writes something."""
_fetched: set[str] = set()
_said: set[str] = set()


class Copy:
    """A local file, which is not removed for as long as this object lives."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor

    def locked(self) -> bool:
        """Hold it; False where it had been removed before.  Where somebody who is frozen keeps it, it is read all the
        same: what is mapped stays, even if they remove it."""
        locked(self._descriptor, fcntl.LOCK_SH, SHORT_S)
        return os.fstat(self._descriptor).st_nlink > 0

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self._descriptor)


def cache_folder() -> Path:
    """Where this machine keeps copies; made by whoever needs it."""
    given, usual = os.environ.get(FOLDER), os.environ.get("XDG_CACHE_HOME")
    return Path(given) if given else Path(usual or Path.home() / ".cache") / "s4al"


def made_cache_folder() -> Path:
    """The folder, made where it was not there."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: no place for copies of the data: {error.strerror}: name one by {FOLDER}") from error
    return folder


def copy_of(place: Remote, digest: str) -> Copy:
    """The object with this SHA-256 (hex) as a local file, fetched where it is not there; the other processes of this
    machine wait for whoever fetches it.  DamagedError for an object that is missing or is not what was published."""
    path = _objects() / digest
    end = time.monotonic() + bucket.patience_s()
    while True:
        if copy := _held(path):
            return copy
        _fetch(place, digest, path, end)


def bring(place: Remote, digest: str, wanted: Callable[[], bool]) -> None:
    """Fetch an object that will be read, for as long as it is `wanted`, with no patience for the store; not one that is
    there, or is being fetched.  NotAhead where more than half of the bound would be in use."""
    path = _objects() / digest
    if not path.exists():
        _fetch(place, digest, path, time.monotonic(), wanted)


def forget(copy: Copy) -> None:
    """Remove a copy that has been altered; those who read it keep what they have."""
    copy.path.unlink(missing_ok=True)
    _fetched.discard(copy.path.name)


def _objects() -> Path:
    folder = made_cache_folder() / "objects"
    folder.mkdir(exist_ok=True)
    return folder


def is_copy(path: Path) -> bool:
    return path.parent == cache_folder() / "objects"


def _held(path: Path) -> Copy | None:
    try:
        copy = Copy(path, os.open(path, os.O_RDONLY))
    except FileNotFoundError:
        return None
    return copy if copy.locked() else None


def _fetch(place: Remote, digest: str, path: Path, end: float, wanted: Callable[[], bool] | None = None) -> None:
    """Fetch it into a file of another name, whose lock is that of the object, and rename that.  With `wanted`, ahead:
    nobody waits for it, and it is given up where somebody else fetches it."""
    part = path.with_name(digest + PART)
    with open(part, "r+b", opener=_made) as file:
        if wanted is None:
            _wait_for(file, part)
        elif not locked(file.fileno(), fcntl.LOCK_EX, 0):
            return
        if not _is_at(file, part):
            return
        try:
            if path.exists():
                return
            if not any(_filled(file, place, end, wanted) == digest for _ in range(bucket.READINGS)):
                raise DamagedError(
                    f"{place}: differs from what was published, {bucket.READINGS} times: publish the data set anew at"
                    " another place"
                )
            failpoint("copy:fetched")
            if not _is_at(file, part):  # taken from us, who were frozen
                return
            os.replace(part, path)
        finally:
            if _is_at(file, part):
                part.unlink()
    if digest in _fetched and BOUND not in _said:
        _said.add(BOUND)
        LOG.warning(
            "%s: fetched again, since the copies of %s have more than %s=%g GB: with more, it stays",
            place, cache_folder(), BOUND, bound_bytes() / 1e9,
        )  # fmt: skip
    _fetched.add(digest)


def _wait_for(file: BinaryIO, part: Path) -> None:
    """Lock a file that is being fetched into, after whoever does that, for as long as it grows; then take it away."""
    seen: tuple[int, int] | None = None
    while not locked(file.fileno(), fcntl.LOCK_EX, bucket.patience_s() + _FROZEN_S):
        now = os.fstat(file.fileno())
        if seen == (now.st_size, now.st_mtime_ns):
            LOG.warning("%s: who fetches it has written nothing for long: fetching it anew", part)
            if _is_at(file, part):
                part.unlink()
            return
        seen = now.st_size, now.st_mtime_ns


def _made(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _filled(file: BinaryIO, place: Remote, end: float, wanted: Callable[[], bool] | None) -> str:
    """Fetch the object into the file; the SHA-256 (hex) of what came."""
    total = hashlib.sha256()
    try:
        if wanted is not None:
            check_room_ahead(cache_folder())  # before anything is asked for
        size, parts = bucket.opened(place, max(0.0, end - time.monotonic()), None if wanted is None else 0.0)
        make_room(file, size, place, cache_folder(), ahead=wanted is not None)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        for part in parts:
            if wanted and not wanted():
                raise NotAhead
            total.update(part)
            _write(file.fileno(), part)
    except FileNotFoundError:
        raise DamagedError(f"{place}: does not exist, although the index lists it") from None
    except OSError as error:
        error.filename = error.filename or str(cache_folder())
        raise
    return total.hexdigest()


def _write(descriptor: int, part: bytes) -> None:
    left = memoryview(part)
    while left:
        left = left[os.write(descriptor, left) :]


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
