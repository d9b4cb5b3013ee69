"""SIGINT (Ctrl-C) and SIGTERM (`ray job stop`, a scheduler): save, leave, continue later; a second one leaves at once.

Most stages have nothing to save beyond their finished files, so they are left by KeyboardInterrupt where they stand.
A training finishes its step and saves: it runs under `deferred`.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from querying.base.errors import Interrupted

GRACE_S = 15.0
"""So long may saving and leaving take."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)
PARENT = "S4AL_PARENT"
"""Names the process that this one works for, and may not outlive."""
PARENT_POLL_S = 0.5

requested = threading.Event()
_active = False
_deferring = False
_watchdog: threading.Timer | None = None
_status = Interrupted.exit_status
"""Of a process that does not leave by itself."""


@contextmanager
def handled() -> Iterator[None]:
    """The first signal raises KeyboardInterrupt or, under `deferred`, sets `requested`; the second ends the process.
    One may lie within another."""
    global _active, _status
    requested.clear()
    _status = Interrupted.exit_status
    before, outer = {number: signal.getsignal(number) for number in SIGNALS}, _active
    _active = True
    take_back()
    try:
        yield
    finally:
        _active = outer
        if _watchdog:
            _watchdog.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def take_back() -> None:
    """Within `handled`, take the signals from a library that has just taken them for itself, as `ray.init` does."""
    if _active:
        for number in SIGNALS:
            signal.signal(number, _on_signal)


def stop_work(status: int) -> None:
    """As a first signal does, from any thread, for a reason that has an exit status of its own.  Within `handled`."""
    global _status
    _status = status
    os.kill(os.getpid(), signal.SIGTERM)


def follow_parent() -> None:
    """Where the environment names a parent: once that is gone, end this process as by a signal.  Within `handled`."""
    parent = os.environ.pop(PARENT, None)  # workers of this process are not children of that one
    if parent:
        threading.Thread(target=_follow, args=(int(parent),), daemon=True, name="parent").start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def deferred() -> Iterator[None]:
    """The body watches `requested` itself; a signal that comes too late for it is a KeyboardInterrupt at its end."""
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False
    if requested.is_set():
        raise KeyboardInterrupt


def _on_signal(number: int, frame: FrameType | None) -> None:
    if requested.is_set():
        os._exit(Interrupted.exit_status)
    requested.set()
    global _watchdog
    _watchdog = threading.Timer(GRACE_S, _give_up)  # where, say, the signal has also ended the local cluster
    _watchdog.daemon = True
    _watchdog.start()
    if _deferring:
        print("stopping after this step; once more to leave at once", file=sys.stderr, flush=True)
    else:
        raise KeyboardInterrupt


def _give_up() -> None:
    print(f"not stopped within {GRACE_S:.0f} s, leaving: the same command continues from the last saved state",
          file=sys.stderr, flush=True)  # fmt: skip
    os._exit(_status)
