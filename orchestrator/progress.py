"""Live progress, drawn by the driver alone: bars on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY_S = 15.0


class Progress(Protocol):
    def stage(self, title: str) -> None:
        """Announce what is worked on from now on."""

    def update(self, done: int, total: int, note: str) -> None:
        """So much of the stage is done; `note` is a rate or a loss."""

    def say(self, line: str) -> None:
        """One line that stays."""


class SilentProgress:
    """For tests, and for every process that is not the driver."""

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
        self.say(f"{self.title}: {done}/{total} {note}, about {_clock(left)} left")

    def say(self, line: str) -> None:
        print(line, flush=True)


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
        self.console.print(line, markup=False, highlight=False)


@contextmanager
def shown() -> Iterator[Progress]:
    if not sys.stdout.isatty():
        yield LineProgress()
        return
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        yield BarProgress(console, bars)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
