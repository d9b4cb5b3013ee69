"""Signs of life: a small file that a worker renews while it works, and how its driver judges what that says.

A thread of a process that renews a file shows only that the process runs.  So the file says how much is done, and how
much processor time the thread that works has used: a shard that is large, on a processor that is slow, moves both.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from querying.base.errors import S4ALError

BEAT_S = 1.0
MOVED_S = 0.05
"""Processor time from which a thread has moved; one that waits uses none."""
START_S = 120.0
"""In so long, at least, a process must have begun: a busy machine takes a minute to import what a worker needs."""
UNFINISHED = 10
"""A worker that computes, and in so many time-outs finishes no image, is lost, too."""
WARN_S = 30.0
_WIDTH = 200

_done = 0


def done(images: int = 1) -> None:
    """Count images that this process has finished; any number, as long as it grows with the work."""
    global _done
    _done += images


class Beat(NamedTuple):
    number: int
    who: str
    pid: int
    done: int
    cpu: float
    """Seconds of the thread that works."""


def write_beat(path: Path, number: int, done: int, cpu: float) -> None:
    """Write a beat of this process, as `put_beat` does."""
    put_beat(path, number, _row(number, done, cpu))


def put_beat(path: Path, number: int, row: bytes) -> None:
    """In place and never flushed: it is read at once or not at all.  Only number 1 makes the file: who writes on after
    the end leaves nothing behind, and a full disk does not stop it."""
    with path.open("wb" if number == 1 else "r+b") as file:
        file.write(row)


def _row(number: int, done: int, cpu: float) -> bytes:
    pid = os.getpid()
    row = json.dumps(Beat(number, f"process {pid} on {socket.gethostname()[:60]}", pid, done, round(cpu, 3)))
    return row.ljust(_WIDTH).encode()


def read_beat(path: Path) -> Beat | None:
    """None where there is none yet, or it is just being written."""
    with suppress(OSError, ValueError, TypeError):
        return Beat(*json.loads(path.read_text()))
    return None


def keep_beating(path: Path, put: Callable[[Path, int, bytes], None] = put_beat) -> None:
    """Renew `path` from a thread of its own, about the thread that calls this, as long as the process lives; `put`
    writes it, wherever it is."""
    clock = _clock_of_this_thread()

    def beat() -> None:
        number = 0
        while True:
            number += 1
            with suppress(OSError, S4ALError):  # the folder is gone: nobody listens any more
                put(path, number, _row(number, _done, clock()))
            time.sleep(BEAT_S)

    threading.Thread(target=beat, daemon=True, name="pulse").start()


def _clock_of_this_thread() -> Callable[[], float]:
    try:
        number = time.pthread_getcpuclockid(threading.get_ident())
    except (AttributeError, OSError):  # not on this system: that of the process says less
        return time.process_time
    return lambda: time.clock_gettime(number)


class Vigil:
    """One worker as its driver sees it, by the beats in `path`.

    Only the time counts in which the driver has listened: that it stood still itself is no fault of the worker's.
    """

    def __init__(self, path: Path, timeout: float, start: float = START_S) -> None:
        self.path, self.timeout, self.start = path, timeout, max(timeout, start)
        self.last: Beat | None = None
        self.rest()

    def rest(self) -> None:
        """What follows is new work."""
        self.silent = self.still = self.unfinished = 0.0
        self.warned = False
        self.anchor = self.last

    @property
    def who(self) -> str:
        return self.last.who if self.last else "a process that has not begun"

    def listen(self, seconds: float) -> str | None:
        """After so many more seconds: what is wrong with the worker; None where nothing is."""
        self.silent, self.still, self.unfinished = (
            self.silent + seconds, self.still + seconds, self.unfinished + seconds,
        )  # fmt: skip
        self._hear(read_beat(self.path))
        if self.last is None:
            return f"not begun in {self.start:g} s" if self.silent > self.start else None
        if self.silent > self.timeout:
            return f"frozen: nothing was heard of it for {self.timeout:g} s"
        if self.still > self.timeout:
            return f"stuck: it has finished nothing and used no processor for {self.timeout:g} s"
        if self.unfinished > UNFINISHED * self.timeout:
            return f"stuck: it has finished nothing for {UNFINISHED * self.timeout:g} s"
        return None

    def warning(self) -> str | None:
        """Once in a while that is quiet: what is waited for, and until when."""
        quiet = self.still if self.last else self.silent
        limit = self.timeout if self.last else self.start
        if self.warned or quiet < min(WARN_S, limit / 2):
            return None
        self.warned = True
        return f"waiting for {self.who}: nothing for {quiet:.0f} s, counts as lost after {limit:g} s"

    def _hear(self, beat: Beat | None) -> None:
        if beat is None or (self.last and beat.number == self.last.number):
            return
        before, self.last, self.silent = self.anchor, beat, 0.0
        if before is None or beat.done != before.done:
            self.still = self.unfinished = 0.0
        elif beat.cpu - before.cpu > MOVED_S:
            self.still = 0.0
        else:
            return
        self.anchor, self.warned = beat, False
