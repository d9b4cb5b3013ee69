"""Cells of a grid side by side: each in a process of its own, which runs the grid's command for this cell alone."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.process.children import FROZEN, Child, end_all, how, last_line
from querying.base.errors import DamagedError, InfrastructureError, Interrupted, UserError

if TYPE_CHECKING:
    from orchestrator.process.progress import Progress

POLL_S = 0.2
ERRORS = {kind.exit_status: kind for kind in (UserError, DamagedError, Interrupted, InfrastructureError)}


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    command: Sequence[str]
    """Arguments of `s4al`."""
    log: Path
    """What the process says, from its beginning."""


class _Running:
    def __init__(self, task: Task, environment: Mapping[str, str]) -> None:
        self.task, self.child, self.rest = task, Child(task.command, task.log, environment), ""
        self.log = task.log.open(encoding="utf-8", errors="replace")

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
                running.append(_Running(waiting.popleft(), environment or {}))
            time.sleep(POLL_S)
            for one in list(running):
                status = one.child.status(POLL_S)
                for line in one.lines():
                    progress.say(f"[{one.task.name}] {line}")
                if status is None:
                    continue
                running.remove(one)
                one.log.close()
                if status:
                    failed.append((one.task, status))
    finally:  # signals, above all
        end_all([one.child.process for one in running])
        for one in running:
            one.log.close()
    if failed:
        task, status = failed[0]
        if status == FROZEN:
            raise InfrastructureError(f"{task.name}: {how(status)}: the same command continues")
        remedy = "" if status > 0 else "; where it was memory, use a lower --parallel; the same command continues"
        raise ERRORS.get(status, InfrastructureError)(
            f"{task.name}: ended with {how(status)}: {last_line(task.log)} (all of it: {task.log}){remedy}"
        )
