"""The copy of a folder in a bucket in which this machine works: made equal to it, and published as it changes."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath

from orchestrator.folder.layout import LOCK
from orchestrator.remote.log import Entry, RunLog, Stored, Table
from querying.base.errors import DamagedError
from querying.base.files import read_json, sha256, write_json, written
from querying.base.storage import bucket

NOTE = "copy.json"
"""Beside the copy: which entry of the log it holds, so that what is there beside it is known to go on from that."""
WORK, STATES = "training", "states"
"""A training's scratch, and in it what another machine goes on from (`training.fit.states`, which loads torch)."""
_AT_ONCE = 8
_SMALL = 2**26
"""Bytes up to which a file is read at once: it may grow meanwhile."""


def published(path: PurePosixPath) -> bool:
    """Is this file of a folder to be in the bucket?  Not what is being written, scratch and locks; of a training that
    goes on its states are."""
    scratch = any(part.startswith(".tmp") or part.endswith(".tmp") for part in path.parts)
    if scratch or path.name == LOCK or path.name.endswith((".lock", "-journal", "-wal", "-shm")):
        return False
    return WORK not in path.parts or (WORK, STATES) in pairwise(path.parts)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What tells whether a file has changed, and its SHA-256."""

    stamp: tuple[int, int, int]
    sha256: str


@dataclass(slots=True)
class WorkingCopy:
    root: Path
    log: RunLog
    seen: dict[str, _Seen] = field(default_factory=dict)
    """Files that have been hashed, by their path."""

    # Towards the machine.

    def make_equal(
        self,
        files: Mapping[str, Stored],
        *,
        keep_others: bool = False,
        lacking: Callable[[str, Exception], None] | None = None,
    ) -> int:
        """Fetch what is missing or differs, remove what is not in the bucket; how many were to be fetched.

        `keep_others`: what is there beside, and scratch, goes on from these files.  `lacking` is told of a file that
        the bucket has lost or that is damaged there; without it, DamagedError and FileNotFoundError are raised.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        there = {path for path in self._paths() if not path.is_symlink()}
        if not keep_others:
            for path in there:
                if path.relative_to(self.root).as_posix() not in files and path.name != LOCK:
                    path.unlink()
            _remove_empty(self.root)
        wrong = [path for path, one in files.items() if self._hash(path) != one.sha256]
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            try:
                tried = threads.map(lambda name: self._tried(name, files[name]), wrong)
                for name, error in zip(wrong, tried, strict=True):
                    if error and not lacking:
                        raise error
                    if error and lacking:
                        (self.root / name).unlink(missing_ok=True)
                        lacking(name, error)
            finally:
                threads.shutdown(cancel_futures=True)
        return len(wrong)

    def _tried(self, path: str, one: Stored) -> Exception | None:
        try:
            self.fetch(path, one)
        except (DamagedError, FileNotFoundError) as error:
            return error
        return None

    def fetch(self, path: str, one: Stored) -> None:
        """FileNotFoundError where the object has been removed: the folder has changed meanwhile."""
        place = self.log.place_of(one)
        with written(self.root / path, flush=False) as staged:
            for _ in range(bucket.READINGS):
                total = hashlib.sha256()
                with staged.open("wb") as file:
                    for part in bucket.opened(place)[1]:
                        total.update(part)
                        file.write(part)
                if total.hexdigest() == one.sha256:
                    break
            else:
                raise DamagedError(f"{place}: differs from what was published as {path}, {bucket.READINGS} times")
        self._note_hash(path, one.sha256)

    # Towards the bucket.

    def files(self, lease_token: int, known: Mapping[str, Stored]) -> Table:
        """All files that are to be published, their objects put where they were not there yet."""
        names = sorted(path.relative_to(self.root).as_posix() for path in self._paths())
        names = [name for name in names if published(PurePosixPath(name))]
        sent = {one.sha256: one for one in known.values()}
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            try:
                found = list(threads.map(lambda name: self._put(name, lease_token, sent), names))
            finally:
                threads.shutdown(cancel_futures=True)
        return {name: one for name, one in zip(names, found, strict=True) if one}

    def _put(self, name: str, token: int, sent: Mapping[str, Stored]) -> Stored | None:
        """None where the file has gone meanwhile."""
        path = self.root / name
        try:
            digest = self._hash(name)
            if digest in sent:
                return sent[digest]
            size = path.stat().st_size
            if size <= _SMALL:
                data = path.read_bytes()
                digest, size = hashlib.sha256(data).hexdigest(), len(data)
                one = Stored(token, size, digest)
                self.log.objects.create(self.log.place_of(one), data)
                return one
            one = Stored(token, size, digest)
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                self.log.objects.create(self.log.place_of(one), view)
            return one
        except FileNotFoundError:
            return None

    # What was hashed is not hashed again.

    def _hash(self, name: str) -> str:
        """SHA-256 of a file; empty where it is not there."""
        try:
            found = os.stat(self.root / name)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        stamp = found.st_size, found.st_mtime_ns, found.st_ino
        seen = self.seen.get(name)
        if seen is None or seen.stamp != stamp:
            self.seen[name] = seen = _Seen(stamp, sha256(self.root / name))
        return seen.sha256

    def _note_hash(self, name: str, digest: str) -> None:
        found = os.stat(self.root / name)
        self.seen[name] = _Seen((found.st_size, found.st_mtime_ns, found.st_ino), digest)

    def _paths(self) -> Iterator[Path]:
        for folder, _, names in os.walk(self.root):
            yield from (Path(folder) / name for name in names)

    # Which entry it holds.

    def note(self, entry: Entry) -> None:
        """What is here goes on from this entry of ours, once that is in the log."""
        write_json(self.root.with_name(NOTE), {"schema": 1, "at": [*self._noted(), entry.key][-2:]})

    def _noted(self) -> list[str]:
        try:
            return [str(key) for key in read_json(self.root.with_name(NOTE))["at"]]
        except (DamagedError, FileNotFoundError):
            return []

    def goes_on_from(self, last: Entry | None) -> bool:
        """Is the last entry of the log one of this copy?"""
        return last is not None and last.key in self._noted()


def _remove_empty(root: Path) -> None:
    for folder, _, _ in os.walk(root, topdown=False):
        if Path(folder) != root and not os.listdir(folder):
            os.rmdir(folder)
