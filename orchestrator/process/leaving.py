"""A local cluster's processes: one that somebody has stopped (SIGSTOP) is killed, and in the end whatever is left."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from orchestrator.process.children import is_stopped
from orchestrator.process.service_watch import FROZEN_S

LEAVE_S = 30.0
GONE_S = 3.0
LOOK_S = 2.0
_WORKER = (b"ray::",)
_RAY = (b"/ray/", b"ray::", b"raylet")


def leave(shutdown: Callable[[], None], patience: float = LEAVE_S) -> None:
    """Call `shutdown`, for `patience` seconds at most; then kill what is left of Ray's processes that descend from this
    one.  Those of a cluster that was joined do not."""
    ours = ray_descendants(os.getpid())
    thread = threading.Thread(target=shutdown, daemon=True, name="leaving Ray")
    thread.start()
    thread.join(patience)
    deadline = time.monotonic() + GONE_S  # they are on their way
    while time.monotonic() < deadline and any(_started(pid) == begun for pid, begun in ours.items()):
        time.sleep(0.05)
    for pid, begun in ours.items():
        if _started(pid) == begun:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


class FrozenWatch:
    """Kills workers of our own cluster, actors of Train and Tune, too, that have been stopped for `frozen` seconds
    in a row: Ray would wait for some of them for ever, and replaces or reports those that are dead."""

    def __init__(self, say: Callable[[str], None], frozen: float = FROZEN_S) -> None:
        self.say, self.frozen = say, frozen
        self.stopped = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="watch for frozen workers").start()

    def stop(self) -> None:
        self.stopped.set()

    def _watch(self) -> None:
        since: dict[tuple[int, str], float] = {}
        while not self.stopped.wait(LOOK_S):
            still = {(pid, begun) for pid, begun in ray_descendants(os.getpid(), _WORKER).items() if is_stopped(pid)}
            # Time in which this process stood still itself does not count.
            since = {one: since.get(one, 0.0) + LOOK_S for one in still}
            for (pid, _), seconds in since.items():
                if seconds > self.frozen:
                    name = _words(pid).split(b"\0")[0].decode(errors="replace").strip()
                    self.say(f"{name} (process {pid}) has been stopped for {self.frozen:.0f} s: killed")
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


def ray_descendants(pid: int, marks: tuple[bytes, ...] = _RAY) -> dict[int, str]:
    """Process number -> when it began, of Ray's processes below `pid`; empty on a system without /proc."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            children.setdefault(int(_fields(path)[1]), []).append(int(path.parent.name))
    found, todo = dict[int, str](), [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            todo.append(child)
            with suppress(OSError):
                if any(mark in _words(child) for mark in marks) and (begun := _started(child)):
                    found[child] = begun
    return found


def _words(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _started(pid: int) -> str | None:
    """When a process began; None where it has ended."""
    try:
        fields = _fields(Path(f"/proc/{pid}/stat"))
    except (OSError, IndexError):
        return None
    return None if fields[0] == "Z" else fields[19]


def _fields(stat: Path) -> list[str]:
    """After the name, which may have spaces: state, parent, ..., the start at 19."""
    return stat.read_text().rpartition(")")[2].split()
