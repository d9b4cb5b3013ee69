"""The smallest run that still has every stage, for tests; also a program, so that tests can kill it (S4AL_FAILPOINT).

python -m tests.small DATA RUN [KEY=VALUE]...  runs it in-process.
"""

import sys
from pathlib import Path

from benchmarks.recipes.catalogue import find
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout
from orchestrator.process.progress import SilentProgress
from orchestrator.recipe.config import override
from orchestrator.run.context import RunContext
from orchestrator.run.loop import run
from querying.dataset.shards import DataIndex

SMALL = [
    "cycles=1", "reference=false", "initial.fraction=0.2", "train.epochs=3", "train.steps_per_epoch=2",
    "train.batch_size=2", "train.batch_size_unlabelled=2", "teacher.batch_size=2", "train.threads=1", "query.threads=1",
    "query.batch_size=4", "query.per_image=2", "query.exclude_border=false", "model.aspp_channels=8",
    "model.decoder_channels=8", "model.low_level_channels=8", "model.embedding_dim=8", "reco.queries=8",
    "reco.negatives=8",
]  # fmt: skip


FINISHED = {
    "recipe": "small", "seed": 0, "evaluated_on": "test", "cycles": [], "supervised_miou": None, "finished": True
}  # fmt: skip
"""A summary that says nothing."""


def small_config(*overrides):
    return override(find("toy_s4al_plus"), [*SMALL, *overrides])


def small_run(data, root, *overrides, backend=None):
    root.mkdir(parents=True, exist_ok=True)
    return run(
        RunContext(
            config=small_config(*overrides),
            index=DataIndex.load(data),
            layout=RunLayout(root),
            backend=backend or LocalBackend(),
            progress=SilentProgress(),
        )
    )


if __name__ == "__main__":
    small_run(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
