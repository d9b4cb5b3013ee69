"""Room for copies of objects below a bound: the oldest ones that nobody reads go."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from querying.base.errors import UserError
from querying.base.storage import bucket
from querying.base.storage.place import Remote

FOLDER, BOUND = "S4AL_CACHE", "S4AL_CACHE_GB"
"""Variables of the environment: where the copies are, and how many gigabytes of them."""
_BOUND_GB = 50.0
PART = ".part"
"""How the name of a file ends that is being fetched."""
SHORT_S = 10.0
"""Seconds that a lock is waited for which is held for milliseconds, unless its holder is frozen."""


class NotAhead(Exception):
    """An object is not fetched ahead: there is no room for what nobody reads yet, or the program ends."""


def check_room_ahead(folder: Path) -> None:
    """NotAhead where what is being read, and one more of the size of the largest copy, have more than half of the
    bound: so the copies that are fetched ahead are not the oldest ones when others need room."""
    with _alone(folder):
        copies = list(_copies(folder / "objects"))
        largest = max((bytes_ for _, bytes_, _ in copies), default=0)
        half = _bound_now(folder, copies) / 2
        if largest + sum(bytes_ for _, bytes_, _ in copies) <= half:
            return
        if largest + sum(bytes_ for _, bytes_, path in copies if _is_read(path)) > half:
            raise NotAhead


def make_room(file: BinaryIO, size: int, place: Remote, folder: Path, *, ahead: bool) -> None:
    """Take room for `size` bytes below the bound, where need be after those who fetch have done so: what they fetch
    ahead nobody reads yet.  Ahead, NotAhead where there is none."""
    end = time.monotonic() + bucket.patience_s()
    while (held := _held_instead(file, size, folder)) is not None:
        if ahead:
            raise NotAhead
        others = [bytes_ for _, bytes_, path in _copies(folder / "objects") if path.name.endswith(PART)]
        if not any(others) or time.monotonic() > end:
            raise UserError(
                f"{folder}: {place} does not fit beside the {held / 1e9:.3g} GB that are being read: give it"
                f" more ({BOUND}={bound_bytes() / 1e9:g}), or another disk ({FOLDER})"
            )
        time.sleep(0.1)


def _held_instead(file: BinaryIO, size: int, folder: Path) -> int | None:
    """Remove the oldest copies that nobody reads until `size` bytes fit below the bound, and take them: the file has
    that size from now on, so that all who fetch at a time stay below the bound together.  Where there is no room, the
    bytes that take it."""
    with _alone(folder):
        os.ftruncate(file.fileno(), 0)
        copies = sorted(_copies(folder / "objects"))
        held, bound = sum(bytes_ for _, bytes_, _ in copies), _bound_now(folder, copies)
        for _, bytes_, path in copies:
            if held + size <= bound:
                break
            if _removed(path):
                held -= bytes_
        if held + size > bound:
            return held
        os.ftruncate(file.fileno(), size)
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Nobody else makes room meanwhile."""
    with (folder / "room.lock").open("a") as lock:
        locked(lock.fileno(), fcntl.LOCK_EX, SHORT_S)
        yield


def _bound_now(folder: Path, copies: Collection[tuple[float, int, Path]]) -> float:
    return min(bound_bytes(), sum(bytes_ for _, bytes_, _ in copies) + shutil.disk_usage(folder).free)


def _copies(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time, size and path of what is there; first what somebody who was killed has left."""
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found = entry.stat()
            except FileNotFoundError:
                continue
            yield 0.0 if entry.name.endswith(PART) else found.st_mtime, found.st_size, Path(entry.path)


def _removed(path: Path) -> bool:
    """Remove a file that nobody holds."""
    return not _is_read(path, Path.unlink)


def _is_read(path: Path, else_: Callable[[Path], None] = lambda path: None) -> bool:
    """Does anybody hold it?  `else_` is done while nobody can."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else_(path)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def bound_bytes() -> float:
    """The most bytes that copies may have."""
    text = os.environ.get(BOUND, "")
    try:
        bound = float(text) if text else _BOUND_GB
    except ValueError:
        bound = 0.0
    if not bound > 0:
        raise UserError(f"{BOUND}={text}: a number of gigabytes above 0 was expected")
    return bound * 1e9


def locked(descriptor: int, kind: int, seconds: float) -> bool:
    """Lock an open file, waiting at most so many seconds."""
    end = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > end:
                return False
        time.sleep(0.02)
