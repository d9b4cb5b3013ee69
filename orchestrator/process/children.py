"""Processes that this one has started, and waits for: each bounds its own waiting, unless somebody has stopped it."""

from __future__ import annotations

import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.process.interrupt import GRACE_S
from orchestrator.process.service_watch import FROZEN_S

GRACE_OF_CHILD_S = GRACE_S + 5


class Child:
    """A child process as its parent polls it."""

    def __init__(self, process: subprocess.Popen[Any]) -> None:
        self.process = process
        self.stopped_s = 0.0

    def frozen(self, seconds: float) -> bool:
        """After so many more seconds: has it been stopped (SIGSTOP) for `FROZEN_S` of them in a row?"""
        self.stopped_s = self.stopped_s + seconds if is_stopped(self.process.pid) else 0.0
        return self.stopped_s > FROZEN_S

    def kill(self) -> None:
        """At once; what it has started ends with it, or notices (`interrupt.follow_parent`)."""
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


def end(process: subprocess.Popen[Any]) -> None:
    """As Ctrl-C would: it saves and leaves.  One that does not is killed."""
    end_all([process])


def end_all(processes: list[subprocess.Popen[Any]]) -> None:
    """All of them at the same time."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(GRACE_OF_CHILD_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):  # it has just ended, or this is no Linux
        return False
