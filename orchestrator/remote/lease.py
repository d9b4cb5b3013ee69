"""The right to write a folder in a bucket, as long as nobody has taken it over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from orchestrator.folder.lock_file import alive
from orchestrator.remote.log import END, FILES, FULL_EVERY, LEASE, Entry, RunLog, State, Stored, Table, apply
from querying.base.errors import InfrastructureError, S4ALError, UserError

LOG = logging.getLogger(__name__)
BEAT_S = 10.0
SILENT_S = 60.0
"""A driver that has given no sign of life for so long is taken for dead; that it may be wrong costs work, not data."""


class Clock(Protocol):
    """What is asked of the module `time`."""

    def monotonic(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


class Lost(InfrastructureError):
    """Another driver has taken the folder over: what this one has not published, it never will."""


class Lease:
    """The log as its holder sees it.  Not for two threads at a time."""

    def __init__(self, log: RunLog, begun: Entry, files: Table) -> None:
        self.log, self.begun, self.files = log, begun, files
        self.last = begun
        self._lacking: set[str] = set()

    @property
    def token(self) -> int:
        return self.begun.number

    def publish(self, files: Mapping[str, Stored], note: Callable[[Entry], None] = lambda entry: None) -> bool:
        """These are the folder's files now, and all of them, all objects there already; False where nothing differs.
        `note` is told of the entry before it is put.  Lost where another driver has taken over."""
        changed: dict[str, Stored | None] = {path: one for path, one in files.items() if self.files.get(path) != one}
        changed |= {path: None for path in self._lacking.union(self.files) if path not in files}
        if changed:
            number = self.last.number + 1
            full = number % FULL_EVERY == 0
            self._put(FILES, dict(files) if full else changed, full, note)
            self._lacking.clear()
        return bool(changed)

    def lack(self, path: str) -> None:
        """The object of a file is lost or damaged: it is none of the folder's any more, nor taken for one of the same
        bytes that are made again."""
        del self.files[path]
        self._lacking.add(path)

    def check(self) -> None:
        """Lost where another driver has taken over."""
        try:
            other = self.log.entry(self.last.number + 1)
        except FileNotFoundError:
            return
        raise self._lost(other)

    def end(self, note: Callable[[Entry], None] = lambda entry: None) -> None:
        """Say that the next may begin at once."""
        self._put(END, {}, False, note)

    def _put(
        self,
        kind: str,
        files: Mapping[str, Stored | None],
        full: bool,
        note: Callable[[Entry], None] = lambda entry: None,
    ) -> None:
        entry = Entry(self.last.number + 1, kind, self.token, self.begun.who, files, full)
        note(entry)
        if other := self.log.append(entry):
            raise self._lost(other)
        before, self.last, self.files = self.files, entry, apply(self.files, entry)
        self._remove(set(before.values()) - set(self.files.values()))

    def _lost(self, other: Entry) -> Lost:
        return Lost(
            f"{self.log.root}: {other.who} has taken over while this process stood still or was cut off: nothing more"
            " of this one is published; the same command goes on from what is there once that one has ended"
        )

    def _remove(self, gone: Iterable[Stored]) -> None:
        """Objects that no file is any more.  Those of earlier drivers, too: none of them can publish any more."""
        for one in gone:
            try:
                self.log.objects.remove(self.log.place_of(one))
            except (InfrastructureError, UserError) as error:  # no right to delete, for example: they stay
                LOG.warning("%s", error)
                return

    def beat(self, count: int, now: str) -> None:
        """Give a sign of life; one that does not arrive is not tried again."""
        with suppress(S4ALError):  # what is wrong with the store is said by what is published
            self.log.objects.replace(self.log.beat(self.token), f"{count} {now}".encode(), 0.0)


def sign_of_life(log: RunLog, token: int) -> bytes:
    """The last one of a driver; empty where there is none."""
    try:
        return log.objects.read(log.beat(token))
    except FileNotFoundError:
        return b""


def at_work(log: RunLog) -> tuple[str, str]:
    """Who works on it, or nothing; and what is to be said of one that has fallen silent, by this machine's clock."""
    holder = log.state().holder
    if holder is None:
        return "", ""
    heard = sign_of_life(log, holder.token).partition(b" ")[2].decode(errors="replace")
    try:
        age = (datetime.now(UTC) - datetime.fromisoformat(heard)).total_seconds()
    except (ValueError, TypeError):  # none yet, or none of ours
        age, heard = SILENT_S, "never"
    if age < SILENT_S:
        return holder.who, ""
    return "", f"{holder.who} has not ended its work on it, and was last heard of {heard}"


def acquire(
    log: RunLog,
    who: str,
    *,
    say: Callable[[str], None] = lambda line: None,
    clock: Clock = time,
) -> tuple[Lease, State]:
    """Begin to write: the lease, and what was there before.  UserError where another driver is alive; of one that is
    not, and ran on another machine, it takes `SILENT_S` seconds to know."""
    while True:
        state = log.state()
        holder = state.holder
        if holder and alive(holder.who):  # as far as can be told from here
            say(f"{log.root}: {holder.who} has not ended its work on it: waiting for a sign of life of it ...")
            if _moves(log, holder, clock):
                raise UserError(f"{log.root}: another process works on it ({holder.who})")
        begun = Entry(state.next, LEASE, state.next, who, state.files, True)
        if log.append(begun) is None:
            return Lease(log, begun, dict(state.files)), state


def _moves(log: RunLog, holder: Entry, clock: Clock) -> bool:
    """Does the holder publish, end, or give a sign of life within the time?"""
    before, end = sign_of_life(log, holder.token), clock.monotonic() + SILENT_S
    while clock.monotonic() < end:
        clock.sleep(BEAT_S / 2)
        if sign_of_life(log, holder.token) != before or log.state().next != holder.number + 1:
            return True
    return False
