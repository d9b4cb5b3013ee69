"""The smallest run that still has every stage, for tests; also a program, so that tests can kill it.

python -m tests.small DATA RUN [FAULT]  runs it in-process; FAULT names where it kills itself (SIGKILL).
"""

import os
import signal
import sys
from pathlib import Path

from benchmarks.recipes import find
from orchestrator.config import override
from orchestrator.layout import RunLayout
from orchestrator.local_backend import LocalBackend
from orchestrator.loop import run
from orchestrator.progress import SilentProgress
from orchestrator.tracking import NoMirror, Record
from querying.shards import DataIndex

SMALL = [
    "cycles=1", "reference=false", "initial.fraction=0.2", "train.epochs=3", "train.steps_per_epoch=2",
    "train.batch_size=2", "train.batch_size_unlabelled=2", "teacher.batch_size=2", "train.threads=1", "query.threads=1",
    "query.batch_size=4", "query.per_image=2", "query.exclude_border=false", "model.aspp_channels=8",
    "model.decoder_channels=8", "model.low_level_channels=8", "model.embedding_dim=8", "reco.queries=8",
    "reco.negatives=8",
]  # fmt: skip


def small_config(*overrides):
    return override(find("toy_s4al_plus"), [*SMALL, *overrides])


def small_run(data, root, *overrides, backend=None):
    root.mkdir(parents=True, exist_ok=True)
    record = Record(root / "metrics.jsonl")
    index = DataIndex.load(data)
    return run(
        small_config(*overrides),
        index,
        RunLayout(root),
        backend or LocalBackend(),
        record,
        NoMirror(),
        SilentProgress(),
    )


def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def arm(fault):
    """Make one place of the program fatal."""
    if fault == "training":  # after the first epoch's checkpoint, in the middle of the second
        import training.loop as module
        from training.loop import set_lr as original

        calls = []
        module.set_lr = lambda *a: die() if len(calls) == 2 else (calls.append(1), original(*a))
    elif fault == "scoring":  # when a shard is done and the next one is under way
        from querying.scorer import ShardScorer

        score, calls = ShardScorer.score, []
        ShardScorer.score = lambda self, *a: die() if len(calls) == 3 else (calls.append(1), score(self, *a))[1]
    elif fault == "ledger":  # the query is published, the ledger is half-written
        import pyarrow.parquet as pq

        write, calls = pq.ParquetWriter.write_batch, []
        pq.ParquetWriter.write_batch = lambda self, batch: (
            die() if batch["cycle"][0].as_py() == 1 and calls else (calls.append(1), write(self, batch))
        )
    elif fault == "selection":  # scores are published, the query is not
        from orchestrator.stages import Stages

        Stages.select = die
    elif fault == "publish":  # everything of the checkpoint is written, its folder is not renamed
        import orchestrator.layout as module

        module.write_text = die


if __name__ == "__main__":
    arm(sys.argv[3] if len(sys.argv) > 3 else None)
    small_run(Path(sys.argv[1]), Path(sys.argv[2]))
