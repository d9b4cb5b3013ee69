"""Shards that are read next are fetched while this one is computed: by one thread of a process, and only from a bucket.

Who goes through items says what the next one reads (`expect`).  Nothing is fetched for that before an object is opened:
where all that was expected is done already, as in a run that goes on, nobody reads it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Protocol, TypeVar, runtime_checkable

from querying.base.errors import S4ALError
from querying.base.storage.cache import bring
from querying.base.storage.place import Place, Remote
from querying.base.storage.room import NotAhead

T = TypeVar("T")
File = tuple[Place, str]
"""Where it lies, and its SHA-256 (hex)."""
_lock = threading.Lock()
_expected: list[tuple[Remote, str]] = []
_waiting: deque[tuple[Remote, str]] = deque()
_thread: threading.Thread | None = None


@runtime_checkable
class Reads(Protocol):
    """An item of work that says what it reads."""

    def files(self) -> Iterable[File]: ...


def far_files(item: object) -> list[tuple[Remote, str]]:
    """What an item reads from a bucket."""
    files = item.files() if isinstance(item, Reads) else ()
    return [(place, digest) for place, digest in files if isinstance(place, Remote)]


def announced(items: Iterable[T], files: Callable[[T], list[tuple[Remote, str]]] = far_files) -> Iterator[T]:
    """The items in their order; while one of them is worked on, what the next one reads is fetched.  The next one is
    not asked for before its time where an item reads nothing from a bucket."""
    todo, looked_at = iter(items), deque[T]()
    while True:
        try:
            item = looked_at.popleft() if looked_at else next(todo)
        except StopIteration:
            return
        if files(item):
            with suppress(StopIteration):
                looked_at.append(next(todo))
            expect(files(looked_at[0]) if looked_at else [])
        yield item


def expect(files: Iterable[tuple[Remote, str]]) -> None:
    """What will be read after what is read now, in place of what was expected before."""
    with _lock:
        _expected[:] = files


def begin() -> None:
    """An object has been opened: fetch what is expected after it."""
    global _thread
    if not _expected:
        return
    with _lock:
        _waiting.clear()  # what was expected before is being read by now, or never
        _waiting.extend(_expected)
        _expected.clear()
        if _waiting and _thread is None:
            _thread = threading.Thread(target=_fetch, name="fetches ahead")
            _thread.start()


def _fetch() -> None:
    """Until nothing waits.  Whoever reads what could not be fetched does it himself, with patience, and has the
    error."""
    global _thread
    while True:
        with _lock:
            if not _waiting or not _wanted():
                _thread = None
                return
            place, digest = _waiting.popleft()
        with suppress(NotAhead, S4ALError, OSError):
            bring(place, digest, _wanted)


def _wanted() -> bool:
    """Does the program go on?  Its end waits for this thread."""
    return threading.main_thread().is_alive()
