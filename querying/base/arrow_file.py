"""Arrow files are hashed before they are mapped, and checked before a cell is read: Arrow itself trusts its input."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from querying.base.errors import DamagedError
from querying.base.files import read_json, sha256
from querying.base.storage import ahead
from querying.base.storage.cache import Copy, copy_of, forget, is_copy
from querying.base.storage.place import Place, Remote
from querying.base.storage.verbs import is_there

_MAGIC = b"ARROW1\0\0"


class _State(NamedTuple):
    """The state of a file on the disk: a write changes `changed`, which, unlike the time of modification, nobody can
    set back."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


_intact: set[tuple[str, _State, str]] = set()
"""Path, state and hash of the files that this process has hashed already."""
_watching: list[dict[Path, tuple[_State, str]]] = []
"""The files that were mapped in every `unaltered` that has not ended."""


@contextmanager
def unaltered() -> Iterator[Callable[[], None]]:
    """At the end, DamagedError names a file that was mapped in the block and has been altered since it was hashed; the
    function that it gives looks earlier.

    One whose state on the disk has changed is hashed again, so that a new link or owner is no alteration.  What is
    altered and put back before anybody looks is not seen, nor are writes where a file system keeps no time of change.
    """
    files: dict[Path, tuple[_State, str]] = {}
    _watching.append(files)
    try:
        yield partial(_check, files)
        _check(files)
    finally:
        _watching[:] = [other for other in _watching if other is not files]


def _check(files: dict[Path, tuple[_State, str]]) -> None:
    for path, (hashed, digest) in list(files.items()):
        state = _state(path)
        if state == hashed:
            continue
        if state is None and is_copy(path):  # to make room for others; who has mapped it keeps what he has
            del files[path]
            continue
        if state is None or sha256(path) != digest:
            raise DamagedError(
                f"{path}: was altered or removed while it was read; what was made from it is not kept: put it back"
            )
        files[path] = (state, digest)


def _hashed(path: Path, digest: str) -> _State:
    """The state of a file with this hash; DamagedError for another, or none."""
    state = _state(path)
    if state is None:
        raise DamagedError(f"{path}: does not exist")
    key = (str(path), state, digest)
    if key not in _intact:
        if sha256(path) != digest:
            raise DamagedError(f"{path}: differs from what was written")
        _intact.add(key)
    return state


def as_written(place: Place, digest: str) -> bool | None:
    """Has what lies at the place itself, and not a copy of it, this hash?  None where there is nothing."""
    if not isinstance(place, Path):
        return is_there(place, digest)
    if not place.is_file():
        return None
    try:
        _hashed(place, digest)
    except DamagedError:
        return False
    return True


def _state(path: Path) -> _State | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return _State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class ArrowFile:
    """One memory-mapped file; DamagedError, naming it, when it is not what was written.

    It is hashed before it is mapped, once in a process and again where its state on the disk has changed: Arrow would
    follow an altered offset out of the file.  See `unaltered` for what is altered later.  Of an object in a bucket the
    copy on this machine is mapped; one that has been altered is fetched again.
    """

    def __init__(self, path: Place, schema: pa.Schema, digest: str) -> None:
        self.path = path
        self._copy: Copy | None = None
        if isinstance(path, Path):
            local = path
            state = _hashed(path, digest)
        else:
            local, state = self._fetched(path, digest)
            ahead.begin()
        for files in _watching:
            files.setdefault(local, (state, digest))
        try:
            # Message by message, not by `open_file`, which unpacks what is compressed, before one can look.
            messages = list(pa.ipc.MessageReader.open_stream(pa.memory_map(str(local)).read_buffer()[len(_MAGIC) :]))
            self._schema = pa.ipc.read_schema(messages[0])
        except Exception as error:  # whatever: Ray registers types of columns, whose code then reads a forged one
            raise self._unreadable(error) from error
        if not self._schema.equals(schema):
            raise DamagedError(f"{path}: its columns are not {', '.join(schema.names)}")
        self._batches = messages[1:]

    def _fetched(self, place: Remote, digest: str) -> tuple[Path, _State]:
        self._copy = copy_of(place, digest)
        try:
            return self._copy.path, _hashed(self._copy.path, digest)
        except DamagedError:
            forget(self._copy)
        self._copy = copy_of(place, digest)
        return self._copy.path, _hashed(self._copy.path, digest)

    @property
    def num_batches(self) -> int:
        return len(self._batches)

    def batch(self, number: int) -> Any:
        """One record batch, whose offsets stay inside it even where a hash was made for a forged file."""
        batch = self.guard(lambda: self._plain(self._batches[number]))
        self.guard(lambda: batch.validate(full=True))
        return batch

    def batches(self) -> Iterator[Any]:
        return map(self.batch, range(len(self._batches)))

    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches(), self._schema)

    def _plain(self, message: pa.Message) -> pa.RecordBatch:
        if message.type != "record batch" or _is_compressed(bytes(message.metadata)):
            raise pa.ArrowInvalid("a compressed part, or one that is no record batch")
        return pa.ipc.read_record_batch(message, self._schema)

    def guard(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pa.ArrowException, OSError, struct.error) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DamagedError:
        return DamagedError(f"{self.path}: not a readable Arrow file: {' '.join(str(error).split())}")


def _is_compressed(metadata: bytes) -> bool:
    """Has a message's record batch the field `compression`?  It is the fourth of table RecordBatch, which is the third
    of table Message (Message.fbs of Arrow); struct.error where the bytes are not such tables."""
    (message,) = struct.unpack_from("<I", metadata)
    header = message + _field(metadata, message, 2)
    (batch,) = struct.unpack_from("<I", metadata, header)
    return bool(_field(metadata, header + batch, 3))


def _field(metadata: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table lies, from its beginning; 0 where it is not there."""
    (back,) = struct.unpack_from("<i", metadata, table)
    if not 0 <= table - back < len(metadata):
        raise struct.error("an offset out of the message")
    (size,) = struct.unpack_from("<H", metadata, table - back)
    place = 4 + 2 * number
    return int(struct.unpack_from("<H", metadata, table - back + place)[0]) if place < size else 0


def scored_file(path: Path, schema: pa.Schema) -> ArrowFile:
    """A file of scores or pseudo-labels, by the hash that its scorer wrote beside it (`shard-<number>.json`)."""
    note = path.with_name(f"shard-{path.stem.rpartition('-')[2]}.json")
    digests = read_json(note)
    if path.name not in digests:
        raise DamagedError(f"{note}: says nothing of {path.name}")
    return ArrowFile(path, schema, digests[path.name])
