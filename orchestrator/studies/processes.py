"""Cells of a grid side by side: each in a process of its own, which runs the grid's command for this cell alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from orchestrator.process.child import child_command
from orchestrator.process.children import Child, end_all
from orchestrator.process.interrupt import PARENT
from orchestrator.process.service_watch import FROZEN_S
from querying.base.errors import DamagedError, InfrastructureError, Interrupted, UserError
from querying.base.files import make_folder
from querying.base.redaction import shortened

if TYPE_CHECKING:
    from orchestrator.process.progress import Progress

POLL_S = 0.2
FROZEN = 1000
"""In place of a status: no process ends with it."""
ERRORS = {kind.exit_status: kind for kind in (UserError, DamagedError, Interrupted, InfrastructureError)}


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    command: Sequence[str]
    """Arguments of `s4al`."""
    log: Path
    """What the process says, from its beginning."""


@dataclass(slots=True)
class _Running:
    task: Task
    process: subprocess.Popen[bytes]
    log: TextIO
    child: Child
    rest: str = ""

    def lines(self) -> list[str]:
        """What it has said since the last call, whole lines only."""
        *whole, self.rest = (self.rest + self.log.read()).split("\n")
        return whole


def run_all(
    tasks: Sequence[Task], at_once: int, progress: Progress, environment: Mapping[str, str] | None = None
) -> None:
    """Run the tasks, so many at once, with these variables beside ours, and show what they say.

    When one fails, no other is begun, those that run are awaited, and its error is raised again.  When this process is
    asked to stop, or dies, all of them are stopped in the same way as by Ctrl-C: they save and leave.
    """
    waiting, running, failed = deque(tasks), list[_Running](), list[tuple[Task, int]]()
    try:
        while running or (waiting and not failed):
            while waiting and not failed and len(running) < at_once:
                running.append(_start(waiting.popleft(), environment or {}))
            time.sleep(POLL_S)
            for one in list(running):
                status = one.process.poll()
                for line in one.lines():
                    progress.say(f"[{one.task.name}] {line}")
                if status is None:
                    if not one.child.frozen(POLL_S):
                        continue
                    one.child.kill()
                    status = FROZEN
                running.remove(one)
                one.log.close()
                if status:
                    failed.append((one.task, status))
    finally:  # signals, above all
        end_all([one.process for one in running])
        for one in running:
            one.log.close()
    if failed:
        task, status = failed[0]
        if status == FROZEN:
            raise InfrastructureError(
                f"{task.name}: stopped (SIGSTOP) for {FROZEN_S:.0f} s and ended: the same command continues"
            )
        how = f"status {status}" if status > 0 else signal.Signals(-status).name
        remedy = "" if status > 0 else "; where it was memory, use a lower --parallel; the same command continues"
        raise ERRORS.get(status, InfrastructureError)(
            f"{task.name}: ended with {how}: {shortened(last_line(task.log), 300)} (all of it: {task.log}){remedy}"
        )


def last_line(log: Path) -> str:
    """The error among the lines that a process has said, where it ended with one."""
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return lines[-1].removeprefix("s4al: ") if lines else "it said nothing"


def _start(task: Task, environment: Mapping[str, str]) -> _Running:
    make_folder(task.log.parent)
    with task.log.open("wb") as out:
        process = subprocess.Popen(
            child_command(task.command),
            stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **environment, PARENT: str(os.getpid())},
            start_new_session=True,  # Ctrl-C on a terminal reaches this process alone, which hands on one signal
        )  # fmt: skip
    return _Running(task, process, task.log.open(encoding="utf-8", errors="replace"), Child(process))
