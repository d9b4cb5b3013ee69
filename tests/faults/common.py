"""What every part of the harness shares: processes, figures, and what must not depend on how a run came to its end."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
"""Starts a process in milliseconds, from one that has torch loaded and nothing else in it."""
SERVER.set_forkserver_preload(["tests.small"])


class Process(ForkServerProcess):
    """One of them, for threads: starting a process asks all others for their status, which the forkserver says once,
    so that of two threads that ask at a time one would find 255."""

    _asks = threading.Lock()

    def start(self) -> None:
        with self._asks:
            super().start()

    def join(self, timeout: float | None = None) -> None:
        wait([self.sentinel], timeout)
        with self._asks:
            super().join(0)

    @property
    def exitcode(self) -> int | None:
        with self._asks:
            return super().exitcode


LIMIT_S = 120
JOBS = os.cpu_count() or 1
"""Trials at a time: each is a process of one thread."""


@dataclass
class Figure:
    """One row of the table."""

    what: str
    trials: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, trial: str, *, ok: bool) -> None:
        self.trials += 1
        if not ok:
            self.failures.append(trial)
            print(f"  FAILED {self.what}: {trial}", flush=True)

    @classmethod
    def of(cls, what: str, results: Iterable[tuple[str, bool]]) -> Figure:
        figure = cls(what)
        for trial, ok in results:
            figure.add(trial, ok=ok)
        return figure


def ended(process: BaseProcess, limit_s: float = LIMIT_S) -> int | None:
    """Exit status; None (and the end) for a process that hangs."""
    process.join(limit_s)
    status = process.exitcode
    if status is None:
        process.kill()
        process.join()
    return status


def contents(root: Path) -> dict[str, str]:
    """What must not depend on how a run came to its end, by file."""
    from querying.base.files import read_json

    wanted = ("ledger/cycle-*.parquet", "*/checkpoint/*.safetensors", "*/scores/*.arrow", "*/query/*.parquet")
    files = [path for pattern in (*wanted, "*/evaluation/confusion.json") for path in root.glob(pattern)]
    found = {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    if (root / "summary.json").exists():
        summary = read_json(root / "summary.json")
        found["summary"] = repr([{**row, "seconds": None} for row in summary["cycles"]])
    return found


def leftovers(root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*") if ".tmp" in path.name or path.name == "training"]
