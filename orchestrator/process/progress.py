"""Live progress, drawn by the driver alone: bars on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress as Bars, ProgressColumn, Task
from rich.table import Column
from rich.text import Text

from orchestrator.process.guard import guarded
from orchestrator.process.terminal import console
from querying.base.redaction import one_line

LINE_EVERY_S = 15.0
WORDS, SHORTEST_BAR = 72, 8
"""Columns of a terminal: for the words beside a bar, and of a bar that still shows something."""


class Progress(Protocol):
    def stage(self, title: str) -> None:
        """Announce what is worked on from now on."""

    def update(self, done: int, total: int, note: str) -> None:
        """So much of the stage is done; `note` is a rate or a loss."""

    def say(self, line: str) -> None:
        """One line that stays."""


class SilentProgress:
    """The display of tests, and of every process that is not the driver: it shows nothing."""

    def stage(self, title: str) -> None: ...
    def update(self, done: int, total: int, note: str) -> None: ...
    def say(self, line: str) -> None: ...


class LineProgress:
    """Plain lines, for logs and `ray job submit`."""

    def __init__(self) -> None:
        self.title = ""
        self.last = time.monotonic()
        self.first: tuple[float, int] | None = None
        """When the first progress was seen, and how far it was: start-up says nothing about the rate."""

    def stage(self, title: str) -> None:
        self.title, self.first, self.last = title, None, time.monotonic()
        self.say(f"{title} ...")

    def update(self, done: int, total: int, note: str) -> None:
        now = time.monotonic()
        self.first = self.first or (now, done)
        since, already = self.first
        if now - self.last < LINE_EVERY_S or done == already:
            return
        self.last = now
        left = (now - since) / (done - already) * (total - done)
        self.say(f"{self.title}: {done}/{total} {note}, stage: about {clock(left)} left")

    def say(self, line: str) -> None:
        print(one_line(line), flush=True)


class BarProgress:
    """One bar per stage on a terminal."""

    def __init__(self, console: Console, bars: Bars) -> None:
        self.console, self.bars = console, bars
        self.task = bars.add_task("start", total=None, note="")

    def stage(self, title: str) -> None:
        self.bars.remove_task(self.task)
        self.task = self.bars.add_task(title, total=None, note="")

    def update(self, done: int, total: int, note: str) -> None:
        self.bars.update(self.task, completed=done, total=total, note=note)

    def say(self, line: str) -> None:
        self.console.print(one_line(line))


class _Words(ProgressColumn):
    """What is worked on, and below it how far it is; a narrow terminal folds it, and cuts nothing."""

    def __init__(self, width: int) -> None:
        super().__init__(Column(overflow="fold", max_width=width))

    def render(self, task: Task) -> Text:
        elapsed = f"{clock(task.elapsed or 0)} elapsed"
        if task.total is None:
            return Text(f"{task.description}\nstarting, {elapsed}")
        left = "" if task.time_remaining is None else f", {clock(task.time_remaining)} left"
        done = f"{task.completed:.0f}/{task.total:.0f} {task.fields['note']}"
        return Text(f"{task.description}: {elapsed}{left}\n{done}")


def bars_on(console: Console) -> Bars:
    """The bar has what a line of words leaves of the terminal, and none where that is nothing."""
    room = min(40, console.width - WORDS)
    bar = [BarColumn(bar_width=room)] if room >= SHORTEST_BAR else []
    return Bars(_Words(console.width - (room + 1 if bar else 0)), *bar, console=console, transient=True)


@contextmanager
def shown() -> Iterator[Progress]:
    if not sys.stdout.isatty():
        yield LineProgress()
        return
    out = console()
    with bars_on(out) as bars, guarded():  # the bars take what others print, and would obey it
        yield BarProgress(out, bars)


def clock(seconds: float) -> str:
    """1:05 (minutes and seconds), or 2:03:00 from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
