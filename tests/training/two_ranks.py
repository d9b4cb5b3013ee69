"""A back end that trains in two processes joined by gloo, and can stop them after a given step."""

import itertools
import multiprocessing
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

from orchestrator.backends.local_backend import LocalBackend
from querying.base.errors import Interrupted

STOPPED = 3


class TwoRanks(LocalBackend):
    def __init__(self, stop_after=None):
        super().__init__()
        self.stop_after = stop_after

    def train(self, job):
        context = multiprocessing.get_context("spawn")
        with tempfile.TemporaryDirectory() as folder:
            arguments = [(rank, job, Path(folder) / "meet", self.stop_after) for rank in range(2)]
            ranks = [context.Process(target=train_as, args=one) for one in arguments]
            for rank in ranks:
                rank.start()
            for rank in ranks:
                rank.join(120)
            codes = {rank.exitcode for rank in ranks}
        if codes == {STOPPED}:
            raise Interrupted("stopped")
        assert codes == {0}, codes


def train_as(rank, job, meet, stop_after):
    import torch
    import torch.distributed as dist

    import training.fit.loop
    import training.fit.worker
    from training.fit.ray_trainer import _broadcast, _distributed, _mean

    if stop_after:
        asked = itertools.count(1)
        training.fit.loop.stop_file = lambda work: SimpleNamespace(exists=lambda: next(asked) == stop_after)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=2)
    parts = {"wrap": _distributed, "mean": _mean, "broadcast": _broadcast}
    worker = training.fit.worker.Worker(rank=rank, world=2, device=torch.device("cpu"), **parts)
    try:
        training.fit.loop.run_job(job, worker)
    except Interrupted:
        sys.exit(STOPPED)
    finally:
        dist.destroy_process_group()
