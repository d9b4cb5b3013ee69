"""Processes that this one has started, and waits for: each bounds its own waiting, unless somebody has stopped it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.process.child import child_command
from orchestrator.process.interrupt import GRACE_S, PARENT
from orchestrator.process.service_watch import FROZEN_S
from querying.base.files import make_folder
from querying.base.redaction import shortened

GRACE_OF_CHILD_S = GRACE_S + 5
FROZEN = 1000
"""In place of a status: no process ends with it."""


class Child:
    """A process of `s4al WORDS...` as its parent polls it; what it says is in `log`."""

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        folder: Path | None = None,
        append: bool = False,
    ) -> None:
        """With the variables of `environment` beside ours, in `folder`, where that is given; `append` keeps what an
        earlier attempt has said."""
        make_folder(log.parent)
        with log.open("ab" if append else "wb") as out:
            self.process = subprocess.Popen(
                child_command(words),
                stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=folder,
                env={**os.environ, **environment, PARENT: str(os.getpid())},
                start_new_session=True,  # Ctrl-C on a terminal reaches the parent alone, which hands on one signal
            )  # fmt: skip
        self.log = log
        self.stopped_s = 0.0

    def status(self, seconds: float) -> int | None:
        """After so many more seconds: how it has ended, or None.  One that has been stopped (SIGSTOP) for `FROZEN_S` of
        them in a row is killed (FROZEN); what it has started ends with it, or notices (`interrupt.follow_parent`)."""
        status = self.process.poll()
        if status is not None:
            return status
        self.stopped_s = self.stopped_s + seconds if is_stopped(self.process.pid) else 0.0
        if self.stopped_s <= FROZEN_S:
            return None
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        return FROZEN


def end_all(processes: Sequence[subprocess.Popen[Any]]) -> None:
    """All of them at the same time, as Ctrl-C would: they save and leave.  One that does not is killed."""
    for process in processes:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(GRACE_OF_CHILD_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def how(status: int) -> str:
    """In words, how a child has ended."""
    if status == FROZEN:
        return f"stopped (SIGSTOP) for {FROZEN_S:.0f} s and ended"
    return f"status {status}" if status >= 0 else signal.Signals(-status).name


def last_line(log: Path) -> str:
    """The error among the lines that a child has said, where it ended with one."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return shortened(lines[-1].removeprefix("s4al: "), 300) if lines else f"it said nothing in {log}"


def is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "Tt"
    except (OSError, IndexError):  # it has just ended, or this is no Linux
        return False
