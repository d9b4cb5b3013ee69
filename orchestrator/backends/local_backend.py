"""The stages in this process: for tests, debugging, and machines without Ray."""

import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from querying.base.errors import UserError
from querying.base.relay.places import Places
from querying.base.storage.ahead import announced
from training.fit.job import TrainJob, device_name
from training.fit.loop import run_job
from training.fit.worker import Worker


class LocalBackend:
    address = None

    def __init__(self) -> None:
        self.device = device_name(torch.cuda.is_available())

    def room(self, processes: int, threads: int) -> int:
        """One process does all; on a GPU there is one of them."""
        return 1 if self.device == "cuda" else (os.cpu_count() or 1) // threads

    def train(self, job: TrainJob) -> None:
        if job.train.workers > 1:
            raise UserError(f"train.workers={job.train.workers} needs --backend ray")
        run_job(job, Worker())

    def map(
        self,
        make_worker: Callable[[], Any],
        method: str,
        items: Iterable[Any],
        *,
        actors: int,
        threads: int,
        timeout: float,
        places: Places,
        say: Callable[[str], None],
    ) -> Iterator[Any]:
        worker = make_worker()
        for item in announced(items):
            yield getattr(worker, method)(item)
