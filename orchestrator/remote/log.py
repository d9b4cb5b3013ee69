"""What a folder in a bucket holds, as a log whose entries are written once and in order.

The protocol, from which all else follows (decision 44):
1. Entry n is the object `log/n`, put only where there is none.  Who puts it has read entries 0 to n - 1.
2. An entry says what the folder holds then: the files that changed since the entry before, every so often all.
3. A driver begins with an entry of its own, its lease; the number of that entry is its token.
4. Files are objects below `objects/TOKEN/`, named by their SHA-256, put before the entry that names them.  So nobody
   ever writes over what another has written, and only who holds the token removes what is below it.
5. A driver whose next entry is there already, and is not its own, has lost the folder: it publishes nothing any more.
   A driver that was frozen or cut off for hours meets the lease of its successor there, whatever the clocks say.
6. A sign of life (`beats/TOKEN`) only spares work: a second driver waits until it has seen none for a while.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from mmap import mmap
from typing import Any, NamedTuple, Protocol, TypeVar

from querying.base.errors import DamagedError, UserError
from querying.base.files import sealed, unsealed
from querying.base.storage import bucket
from querying.base.storage.place import Remote

T = TypeVar("T")
SCHEMA = 1
FULL_EVERY = 32
"""So many entries are read at most to know what a folder holds."""
LEASE, FILES, END = "lease", "files", "end"
"""Kinds of entries: a driver begins, publishes, ends."""


class Stored(NamedTuple):
    """A file as an object: below which token, how large, and its SHA-256 (hex)."""

    token: int
    size: int
    sha256: str


Table = dict[str, Stored]
"""Files of a folder by their path."""


class Objects(Protocol):
    """What is asked of a store; `querying.base.storage.bucket` has it."""

    def create(self, place: Remote, data: bytes | mmap) -> bool: ...
    def read(self, place: Remote) -> bytes: ...
    def replace(self, place: Remote, data: bytes, patience: float | None = None) -> None: ...
    def remove(self, place: Remote) -> None: ...
    def sizes(self, folder: Remote) -> dict[str, int]: ...


@dataclass(frozen=True, slots=True)
class Entry:
    number: int
    kind: str
    token: int
    who: str
    files: Mapping[str, Stored | None] = field(default_factory=dict)
    """None is a file that is gone; of a `full` entry these are all files."""
    full: bool = False
    key: str = field(default_factory=lambda: secrets.token_hex(16))
    """By which its writer knows it again when the answer to its request was lost."""

    def to_bytes(self) -> bytes:
        files = {path: one and list(one) for path, one in self.files.items()}
        row = {"schema": SCHEMA, "number": self.number, "kind": self.kind, "token": self.token, "who": self.who}
        return (sealed({**row, "files": files, "full": self.full, "key": self.key}) + "\n").encode()

    @classmethod
    def of(cls, text: bytes, where: object) -> Entry:
        row: dict[str, Any] = unsealed(text, where, SCHEMA)
        files = {path: one and Stored(*one) for path, one in row["files"].items()}
        for path in files:
            if {"", ".", ".."} & set(path.split("/")):
                raise DamagedError(f"{where}: names a file {path[:80]!r}, which does not lie in the folder")
        return cls(row["number"], row["kind"], row["token"], row["who"], files, row["full"], row["key"])


@dataclass(frozen=True, slots=True)
class State:
    """The log up to an entry."""

    last: Entry | None
    files: Table

    @property
    def next(self) -> int:
        return self.last.number + 1 if self.last else 0

    @property
    def holder(self) -> Entry | None:
        """The last entry of a driver that has not ended."""
        return None if self.last is None or self.last.kind == END else self.last


class RunLog:
    """The log below `root`."""

    def __init__(self, root: Remote, objects: Objects = bucket) -> None:
        self.root, self.objects = root, objects

    def state(self) -> State:
        """What the folder holds now.  UserError where something else lies there, DamagedError where an entry is
        missing or is not what was written."""
        numbers = _read(self._numbers)
        entries: list[Entry] = []
        for number in reversed(numbers):
            entries.append(self.entry(number))
            if entries[-1].full:
                break
        files: Table = {}
        for entry in reversed(entries):
            files = apply(files, entry)
        return State(entries[0] if entries else None, files)

    def is_there(self) -> bool:
        return bool(self.objects.sizes(self.root / "log"))

    def _numbers(self) -> list[int]:
        there = self.objects.sizes(self.root / "log")
        numbers = sorted(int(name) for name in there if name.isdecimal())
        if numbers != list(range(len(numbers))):
            missing = next(number for number, found in enumerate(numbers) if number != found)
            raise DamagedError(f"{self.root / 'log' / _name(missing)}: is missing, and later entries are there")
        if not numbers and self.objects.sizes(self.root):
            raise UserError(f"{self.root}: holds other objects, and no run: name another place")
        return numbers

    def entry(self, number: int) -> Entry:
        """FileNotFoundError where there is none; DamagedError where it is not what was written."""
        place = self.root / "log" / _name(number)
        found = _read(lambda: Entry.of(self.objects.read(place), place))
        if found.number != number:
            raise DamagedError(f"{place}: is entry {found.number}")
        return found

    def append(self, entry: Entry) -> Entry | None:
        """Put it as the next; the entry that is there instead, where another driver was first."""
        if self.objects.create(self.root / "log" / _name(entry.number), entry.to_bytes()):
            return None
        there = self.entry(entry.number)
        return None if there.key == entry.key else there  # ours: the answer to the request was lost

    def place_of(self, one: Stored) -> Remote:
        return self.root / "objects" / _name(one.token) / one.sha256

    def beat(self, token: int) -> Remote:
        return self.root / "beats" / _name(token)


def apply(files: Table, entry: Entry) -> Table:
    """What a folder holds after an entry."""
    if entry.full:
        return {path: one for path, one in entry.files.items() if one}
    kept = {path: one for path, one in files.items() if path not in entry.files}
    return kept | {path: one for path, one in entry.files.items() if one}


def _read(once: Callable[[], T]) -> T:
    for _ in range(bucket.READINGS - 1):
        with suppress(DamagedError):
            return once()
    return once()


def _name(number: int) -> str:
    return f"{number:08d}"
