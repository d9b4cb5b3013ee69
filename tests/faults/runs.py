"""Whole runs, broken at named places and at random times, continued, and compared with an undisturbed one."""

from __future__ import annotations

import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import mkdtemp
from typing import TypeVar

from tests.faults.common import JOBS, LIMIT_S, Process, contents, ended, leftovers

FULL = 5
"""Exit status of a run that can not write."""


def child(data: str, root: str, failpoint: str, trace: str, plant: str) -> None:
    """One run of the smallest configuration, in a process of its own."""
    os.environ.update({"S4AL_FAILPOINT": failpoint, "S4AL_FAILPOINT_TRACE": trace})
    import torch

    torch.set_num_threads(1)
    if plant:
        _plant(plant)
    from tests.small import small_run

    try:
        small_run(Path(data), Path(root))
    except OSError:
        os._exit(FULL)


def _plant(defect: str) -> None:
    if defect == "momentum":
        from training.fit import states

        restore = states.TrainingStates.restore

        def forgetful(self, model, optimizer):  # type: ignore[no-untyped-def]
            progress = restore(self, model, optimizer)
            optimizer.state.clear()
            return progress

        states.TrainingStates.restore = forgetful
    elif defect == "in-place":
        import querying.labels.ledger
        import querying.scoring.scorer
        from orchestrator.folder import layout
        from querying.base.failpoints import failpoint

        @contextmanager
        def in_place(path: Path, *, flush: bool = True) -> Iterator[Path]:
            path.parent.mkdir(parents=True, exist_ok=True)
            failpoint(f"{path.name}:opened")
            yield path
            failpoint(f"{path.name}:written")

        querying.labels.ledger.written = querying.scoring.scorer.written = in_place
        querying.labels.ledger.Ledger.problems = lambda self, cycle: []
        querying.labels.ledger.Ledger.chain = lambda self, cycle: ""
        querying.scoring.scorer._intact = lambda done: all(
            done.with_name(done.name.replace("shard", kind)).with_suffix(".arrow").exists()
            for kind in ("regions", "pseudo")
        )
        layout.problems = lambda folder, inputs=None: []
    else:
        raise SystemExit(f"unknown defect {defect!r}")


class Trials:
    """Makes the undisturbed run; `names` are the places that it passes, in order."""

    def __init__(self, data: Path, scratch: Path, plant: str = "") -> None:
        self.data, self.scratch, self.plant = data, scratch, plant
        self.clean = scratch / "clean"
        trace = scratch / "trace"
        assert self.run(self.clean, trace=str(trace)) == 0
        self.expected = contents(self.clean)
        names = [name for name in trace.read_text().split() if not name.startswith("progress.json")]
        passed: Counter[str] = Counter()
        self.places: list[str] = []
        """NAME@N of every passing, before and after a rename or a transition."""
        self.opened: list[str] = []
        """Of every file, before its first byte."""
        for name in names:
            passed[name] += 1
            (self.opened if name.endswith(":opened") else self.places).append(f"{name}@{passed[name]}")

    def start(self, root: Path, failpoint: str = "", trace: str = "") -> BaseProcess:
        process = Process(target=child, args=(str(self.data), str(root), failpoint, trace, self.plant))
        process.start()
        return process

    def run(self, root: Path, failpoint: str = "", trace: str = "") -> int | None:
        return ended(self.start(root, failpoint, trace))

    def differences(self, root: Path, status: int | None) -> list[str]:
        """Of a run that has ended with `status`, from the undisturbed one."""
        found = contents(root)
        names = [name for name in found | self.expected if found.get(name) != self.expected.get(name)]
        return [f"status {status}"] * (status != 0) + names + leftovers(root)

    def ends_the_same(self, root: Path) -> list[str]:
        """Continue a run to its end: what differs."""
        return self.differences(root, self.run(root))

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """A run folder that is gone afterwards."""
        parent = Path(mkdtemp(dir=self.scratch))
        try:
            yield parent / "run"
        finally:
            shutil.rmtree(parent)

    def broken(self, failpoints: Iterable[str], status: int) -> Iterator[tuple[str, bool]]:
        """Break a run at each of them (it must end with `status`), continue it, compare."""

        def trial(failpoint: str) -> tuple[str, bool]:
            with self.folder() as root:
                broke = self.run(root, failpoint)
                if broke != status:
                    return f"{failpoint} ended with {broke}", False
                found = self.ends_the_same(root)
                return f"{failpoint} {found}", not found

        yield from at_once(trial, failpoints)

    def at_every_place(self, action: str, status: int) -> Iterator[tuple[str, bool]]:
        yield from self.broken((f"{place}={action}" for place in self.places), status)

    def inside_every_file(self, action: str, status: int, rng: random.Random) -> Iterator[tuple[str, bool]]:
        """Break the write of every file at a byte of it."""
        yield from self.broken((f"{place}={action}:{self._byte(place, rng)}" for place in self.opened), status)

    def inside_states(self, number: int, rng: random.Random) -> Iterator[tuple[str, bool]]:
        """Kill while the tensors of a training state or of a checkpoint are written, at `number` bytes."""
        tensors = [place for place in self.opened if place.startswith("model.safetensors")]
        picked = [rng.choice(tensors) for _ in range(number)]
        yield from self.broken((f"{p}=cut:{self._byte(p, rng)}" for p in picked), -signal.SIGXFSZ)

    def _byte(self, place: str, rng: random.Random) -> int:
        sizes = [path.stat().st_size for path in self.clean.rglob(place.partition(":")[0])]
        return rng.randrange(min(sizes, default=100))

    def at_random_times(self, kills: int, seed: int) -> Iterator[tuple[str, bool]]:
        """SIGKILL after a random time, again and again until the run is through; a trial is a kill."""
        killed, lock = 0, threading.Lock()
        started = time.monotonic()
        with self.folder() as root:  # the first run of all has waited for the server to load torch
            assert self.run(root) == 0
        whole = time.monotonic() - started

        def trial(number: int) -> list[tuple[str, bool]]:
            nonlocal killed
            rng, waits = random.Random(f"{seed}/{number}"), 0
            with self.folder() as root:
                while True:
                    process = self.start(root)
                    process.join(rng.uniform(0, whole) if killed < kills else LIMIT_S)
                    if process.exitcode is not None:
                        break
                    process.kill()
                    process.join()
                    waits += 1
                    with lock:
                        killed += 1
                found = self.differences(root, process.exitcode)
            return [(f"run {number}, kill {n + 1} of {waits} {found}", not found) for n in range(waits)]

        number = 0
        while killed < kills:
            for results in at_once(trial, range(number, number + JOBS)):
                yield from results
            number += JOBS


T = TypeVar("T")
R = TypeVar("R")


def at_once(trial: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """A few trials at a time, each with processes of its own; results in the order of `items`."""
    with ThreadPoolExecutor(JOBS) as pool:
        yield from pool.map(trial, items)
