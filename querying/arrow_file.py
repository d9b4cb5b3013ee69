"""Arrow files are hashed before they are mapped, and checked before a cell is read: Arrow itself trusts its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from querying.errors import DamagedError
from querying.files import read_json, sha256

_intact: set[tuple[str, int, int, str]] = set()
"""Path, size, time of change and hash of the files that this process has hashed already."""


class ArrowFile:
    """One memory-mapped file; DamagedError, naming it, when it is not what was written.

    It is hashed before it is mapped, once in a process: Arrow would follow an altered offset out of the file.
    """

    def __init__(self, path: Path, schema: pa.Schema, digest: str) -> None:
        self.path = path
        status = path.stat() if path.exists() else None
        if status is None:
            raise DamagedError(f"{path}: does not exist")
        key = (str(path), status.st_size, status.st_mtime_ns, digest)
        if key not in _intact:
            if sha256(path) != digest:
                raise DamagedError(f"{path}: differs from what was written")
            _intact.add(key)
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(path)))
        except Exception as error:  # whatever: Ray registers types of columns, whose code then reads a forged one
            raise self._unreadable(error) from error
        if not self._file.schema.equals(schema):
            raise DamagedError(f"{path}: its columns are not {', '.join(schema.names)}")

    def batch(self, number: int) -> Any:
        """One record batch, whose offsets stay inside it even where a hash was made for a forged file."""
        batch = self.guard(lambda: self._file.get_batch(number))
        self.guard(lambda: batch.validate(full=True))
        return batch

    def batches(self) -> Iterator[Any]:
        return map(self.batch, range(self._file.num_record_batches))

    def table(self) -> pa.Table:
        return pa.Table.from_batches(self.batches(), self._file.schema)

    def guard(self, read: Callable[[], Any]) -> Any:
        try:
            return read()
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> DamagedError:
        return DamagedError(f"{self.path}: not a readable Arrow file: {' '.join(str(error).split())}")


def scored_file(path: Path, schema: pa.Schema) -> ArrowFile:
    """A file of scores or pseudo-labels, by the hash that its scorer wrote beside it (`shard-<number>.json`)."""
    note = path.with_name(f"shard-{path.stem.rpartition('-')[2]}.json")
    digests = read_json(note)
    if path.name not in digests:
        raise DamagedError(f"{note}: says nothing of {path.name}")
    return ArrowFile(path, schema, digests[path.name])
