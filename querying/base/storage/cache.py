"""This machine's copies of objects: by content, verified, fetched once for all of its processes, bounded in size."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from querying.base.errors import DamagedError, UserError
from querying.base.failpoints import failpoint
from querying.base.storage import bucket
from querying.base.storage.place import Remote

LOG = logging.getLogger(__name__)
FOLDER, BOUND = "S4AL_CACHE", "S4AL_CACHE_GB"
"""Variables of the environment: where the copies are, and how many gigabytes of them."""
_BOUND_GB = 50.0
_ATTEMPTS = 3
"""Times that an object is fetched whose bytes are not those of its hash: they may have changed on the way."""
_PART = ".part"
_SHORT_S = 10.0
"""Seconds that a lock is waited for which is held for milliseconds, unless its holder is frozen."""
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
        _locked(self._descriptor, fcntl.LOCK_SH, _SHORT_S)
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
    folder = made_cache_folder() / "objects"
    folder.mkdir(exist_ok=True)
    end = time.monotonic() + bucket.patience_s()
    while True:
        if copy := _held(folder / digest):
            return copy
        _fetch(place, digest, folder / digest, end)


def forget(copy: Copy) -> None:
    """Remove a copy that has been altered; those who read it keep what they have."""
    copy.path.unlink(missing_ok=True)
    _fetched.discard(copy.path.name)


def is_copy(path: Path) -> bool:
    return path.parent == cache_folder() / "objects"


def _held(path: Path) -> Copy | None:
    try:
        copy = Copy(path, os.open(path, os.O_RDONLY))
    except FileNotFoundError:
        return None
    return copy if copy.locked() else None


def _fetch(place: Remote, digest: str, path: Path, end: float) -> None:
    """Fetch it into a file of another name, whose lock is that of the object, and rename that."""
    part = path.with_name(digest + _PART)
    with open(part, "r+b", opener=_made) as file:
        _wait_for(file, part)
        if path.exists() or not _is_at(file, part):
            return
        try:
            if not any(_filled(file, place, end) == digest for _ in range(_ATTEMPTS)):
                raise DamagedError(
                    f"{place}: differs from what was published, {_ATTEMPTS} times: publish the data set anew at another"
                    " place"
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
            place, cache_folder(), BOUND, _bound() / 1e9,
        )  # fmt: skip
    _fetched.add(digest)


def _wait_for(file: BinaryIO, part: Path) -> None:
    """Lock a file that is being fetched into, after whoever does that, for as long as it grows; then take it away."""
    seen: tuple[int, int] | None = None
    while not _locked(file.fileno(), fcntl.LOCK_EX, bucket.patience_s() + _FROZEN_S):
        now = os.fstat(file.fileno())
        if seen == (now.st_size, now.st_mtime_ns):
            LOG.warning("%s: who fetches it has written nothing for long: fetching it anew", part)
            if _is_at(file, part):
                part.unlink()
            return
        seen = now.st_size, now.st_mtime_ns


def _locked(descriptor: int, kind: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
        time.sleep(0.02)


def _made(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _filled(file: BinaryIO, place: Remote, end: float) -> str:
    """Fetch the object into the file; the SHA-256 (hex) of what came."""
    total = hashlib.sha256()
    try:
        size, parts = bucket.opened(place, max(0.0, end - time.monotonic()))
        _make_room(file, size, place)
        os.lseek(file.fileno(), 0, os.SEEK_SET)
        for part in parts:
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


def _make_room(file: BinaryIO, size: int, place: Remote) -> None:
    """Remove the oldest copies that nobody reads until `size` bytes fit below the bound, and take them: the file has
    that size from now on, so that all who fetch at a time stay below the bound together."""
    with (cache_folder() / "room.lock").open("a") as lock:
        _locked(lock.fileno(), fcntl.LOCK_EX, _SHORT_S)
        os.ftruncate(file.fileno(), 0)
        copies = sorted(_copies(cache_folder() / "objects"))
        held = sum(bytes_ for _, bytes_, _ in copies)
        bound = min(_bound(), held + shutil.disk_usage(cache_folder()).free)
        for _, bytes_, path in copies:
            if held + size <= bound:
                break
            if _removed(path):
                held -= bytes_
        if held + size > bound:
            raise UserError(
                f"{cache_folder()}: {place} does not fit beside the {held / 1e9:.3g} GB that are being read: give it"
                f" more ({BOUND}={_bound() / 1e9:g}), or another disk ({FOLDER})"
            )
        os.ftruncate(file.fileno(), size)


def _copies(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time, size and path of what is there; first what somebody who was killed has left."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found = entry.stat()
            except FileNotFoundError:
                continue
            yield 0.0 if entry.name.endswith(_PART) else found.st_mtime, found.st_size, Path(entry.path)


def _removed(path: Path) -> bool:
    """Remove a file that nobody holds."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    except BlockingIOError:
        return False
    except FileNotFoundError:
        pass
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _bound() -> float:
    text = os.environ.get(BOUND, "")
    try:
        bound = float(text) if text else _BOUND_GB
    except ValueError:
        bound = 0.0
    if not bound > 0:
        raise UserError(f"{BOUND}={text}: a number of gigabytes above 0 was expected")
    return bound * 1e9
