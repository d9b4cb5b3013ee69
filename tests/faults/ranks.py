"""Trainings of one and of two ranks without Ray: killed at random times, stopped at given steps, resumed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import mkdtemp
from types import SimpleNamespace

from tests.faults.common import LIMIT_S, Process, ended
from tests.faults.runs import at_once
from training.fit.job import TrainJob
from training.fit.progress import TIMINGS

KINDS = {
    "supervised": (0, "query.per_image=2"),
    "self-training": (1, "query.per_image=0"),
    "active learning": (1, "query.per_image=2"),
}
"""Kind of training -> its cycle and what makes it that."""
SHAPE = (
    "train.epochs=2",
    "train.steps_per_epoch=4",
    "train.batch_size=4",
    "train.batch_size_unlabelled=4",
    "teacher.batch_size=4",
)
MEETING_S = 20
STOPPED_AFTER = (1, 3, 4, 5, 6, 7)


def rank(job: TrainJob, number: int, world: int, meeting: str, stop_after: int) -> None:
    """One rank of a training; `stop_after` a step, the first rank is asked to stop."""
    import torch
    import torch.distributed as dist

    import training.fit.loop
    from querying.base.errors import Interrupted
    from training.fit.loop import run_job
    from training.fit.ray_trainer import _distributed, _mean
    from training.fit.worker import Worker

    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    worker = Worker(rank=number, world=world, device=torch.device("cpu"))
    if world > 1:
        # One that is killed before it comes would be waited for; on Ray, that ends the group.
        wait = timedelta(seconds=MEETING_S)
        dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=number, world_size=world, timeout=wait)
        worker = replace(worker, wrap=_distributed, mean=_mean)
    if stop_after and number == 0:
        seen = iter(range(1, 1000))
        training.fit.loop.stop_file = lambda work: SimpleNamespace(exists=lambda: next(seen) == stop_after)
    try:
        run_job(job, worker)
    except Interrupted:
        os._exit(Interrupted.exit_status)


class Trainings:
    """The trainings of one small run each; `clean[kind, world]` are their undisturbed results."""

    def __init__(self, data: Path, scratch: Path) -> None:
        self.scratch = scratch
        self.jobs = {kind: _job(data, scratch / kind, *KINDS[kind]) for kind in KINDS}
        self.clean: dict[tuple[str, int], dict[str, str]] = {}
        self.seconds: dict[int, float] = {}
        for kind in KINDS:
            for world in (1, 2):
                started = time.monotonic()
                root = Path(mkdtemp(dir=scratch))
                assert [ended(process) for process in self.start(kind, world, root)] == [0] * world
                self.seconds[world] = time.monotonic() - started
                self.clean[kind, world] = result(root)

    def start(self, kind: str, world: int, root: Path, stop_after: int = 0) -> list[BaseProcess]:
        job = replace(self.jobs[kind], work=root / "work", out=root / "out")
        job.out.mkdir(exist_ok=True)
        meeting = Path(mkdtemp(dir=self.scratch)) / "meeting"
        group = [Process(target=rank, args=(job, n, world, str(meeting), stop_after)) for n in range(world)]
        for process in group:
            process.start()
        return group

    def stopped_and_resumed(self) -> Iterator[tuple[str, bool]]:
        """Six steps x one and two ranks x every kind: bit for bit the undisturbed result."""

        def trial(case: tuple[str, int, int]) -> tuple[str, bool]:
            kind, world, step = case
            root = Path(mkdtemp(dir=self.scratch))
            stopped = [ended(process) for process in self.start(kind, world, root, step)]
            resumed = [ended(process) for process in self.start(kind, world, root)]
            same = result(root) == self.clean[kind, world]
            shutil.rmtree(root)
            ok = stopped == [130] * world and resumed == [0] * world and same
            return f"{kind}, {world} ranks, stopped after step {step}: {stopped} {resumed} {same}", ok

        cases = [(kind, world, step) for kind in KINDS for world in (1, 2) for step in STOPPED_AFTER]
        yield from at_once(trial, cases)

    def killed(self, world: int, kills: int, seed: int) -> Iterator[tuple[str, bool]]:
        """SIGKILL one rank at a random time, again and again; the other must end by itself.  A trial is a kill."""

        def trial(number: int) -> list[tuple[str, bool]]:
            rng = random.Random(f"{seed}/{world}/{number}")
            kind, root = rng.choice(list(KINDS)), Path(mkdtemp(dir=self.scratch))
            done, hung = 0, False
            while not hung:
                group = self.start(kind, world, root)
                victim = rng.choice(group)
                victim.join(rng.uniform(0, self.seconds[world]) if done < each else LIMIT_S)
                if victim.exitcode is not None:
                    break
                victim.kill()
                done += 1
                hung = None in [ended(process) for process in group]
            statuses = [ended(process) for process in group]
            ok = not hung and statuses == [0] * world and result(root) == self.clean[kind, world]
            shutil.rmtree(root)
            return [
                (f"{kind}, {world} ranks, run {number}, kill {n + 1} of {done}: {statuses}", ok) for n in range(done)
            ]

        each, total, number = 10, 0, 0
        while total < kills:
            for results in at_once(trial, range(number, number + 4)):
                total += len(results)
                yield from results
            number += 4


def result(root: Path) -> dict[str, str]:
    """Hashes of the weights and of the losses; nothing where there is no result."""
    from querying.base.files import read_json

    if not (root / "out/meta.json").exists():
        return {}
    history = [
        {name: value for name, value in epoch.items() if name not in TIMINGS}
        for epoch in read_json(root / "out/meta.json")["history"]
    ]
    weights = hashlib.sha256((root / "out/model.safetensors").read_bytes()).hexdigest()
    return {"weights": weights, "history": repr(history)}


def _job(data: Path, root: Path, cycle: int, override: str) -> TrainJob:
    """The training of this cycle of a small run, with everything that it is made from."""
    from orchestrator.backends.local_backend import LocalBackend
    from tests.small import small_run

    jobs: list[TrainJob] = []

    class Recording(LocalBackend):
        def train(self, job: TrainJob) -> None:
            jobs.append(job)
            super().train(job)

    small_run(data, root, *SHAPE, override, backend=Recording())
    return jobs[cycle]
