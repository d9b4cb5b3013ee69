"""What a cycle says of itself beside its mIoU: what its pseudo-labels keep of each class, and whether the training had
come to an end."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.folder.manifest import digest
from orchestrator.recipe.config import RunConfig
from querying.base.errors import DamagedError
from querying.base.files import read_json, sealed, write_text
from querying.dataset.shards import DataIndex
from querying.labels.pool_counts import CountTask, PoolCounter, PoolCounts
from training.settings.traits import traits_of

POOL_COUNTS = "pool_counts.json"
"""Beside the pseudo-labels that it counts.  Scores of earlier versions, and those whose pseudo-labels no training
learns, have none."""
FALLING = 0.05
"""So much lower, at least, is the loss of a training that still falls in the last quarter of its epochs."""
LEAST_EPOCHS = 8
"""Of fewer, a quarter says nothing."""

Map = Callable[[Callable[[], PoolCounter], str, Iterable[CountTask], Path], Iterator[dict[str, Any]]]


def count_pool(index: DataIndex, scores: Path, map_: Map) -> None:
    """Write `pool_counts.json` beside the pseudo-labels of every shard; `map_` as `Stages._map`."""
    tasks = [CountTask(n, index.root.resolve(), shard) for n, shard in enumerate(index.shards("train"))]
    counts = PoolCounts.empty(index.num_classes)
    for found in map_(partial(PoolCounter, scores.resolve(), index.num_classes), "count_shard", tasks, scores):
        counts += PoolCounts.from_dict(found)
    write_text(scores / POOL_COUNTS, sealed(counts.to_dict()) + "\n")


def pool_counts(scores: Path) -> PoolCounts | None:
    """None where nothing was counted; DamagedError where the file is not what was written."""
    path = scores / POOL_COUNTS
    if not path.exists():
        return None
    try:
        return PoolCounts.from_dict(read_json(path))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DamagedError(f"{path}: holds what s4al did not write: {error}") from None


def pool_row(scores: Path, classes: Sequence[str]) -> dict[str, Any]:
    """`pseudo_labels` of a cycle's row, where they were counted."""
    counts = pool_counts(scores)
    return {"pseudo_labels": counts.summary(list(classes))} if counts else {}


def scoring_key(scores: Path, name: str, cycle: int) -> dict[str, Any]:
    """What says which pseudo-labels a row of the record is about."""
    return {"run": name, "cycle": cycle, "stage": "score", "from": digest(scores, "pseudo-*")[:16]}


def learning_row(history: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """`learning` of a cycle's row: is the loss still falling?

    `loss` is the mean over the last quarter of the epochs, of the labelled images' cross entropy where the method has
    it by itself, else of the whole loss; `fall` is by what share it is lower than the mean over the quarter before.
    `falling`: that is 5 % or more, and twice what the epochs' scatter explains (standard error of the difference).
    Nothing of fewer than 8 epochs.
    """
    quarter = len(history) // 4
    part = "train/ce" if all("train/ce" in row for row in history) else "train/loss"
    if len(history) < LEAST_EPOCHS or not all(part in row for row in history):
        return {}
    values = [row[part] for row in history]
    before, last = values[-2 * quarter : -quarter], values[-quarter:]
    level, loss = statistics.fmean(before), statistics.fmean(last)
    if level <= 0:
        return {}
    scatter = ((statistics.variance(before) + statistics.variance(last)) / quarter) ** 0.5
    return {
        "learning": {
            "loss": loss,
            "fall": 1 - loss / level,
            "falling": level - loss >= max(FALLING * level, 2 * scatter),
        }
    }


def lost_classes(row: Mapping[str, Any]) -> Iterator[str]:
    """A line where a cycle's pseudo-labels lack a class."""
    if gone := (row.get("pseudo_labels") or {}).get("vanished"):
        them, their = ("it", "its") if len(gone) == 1 else ("them", "their")
        yield (
            f"no pixel of {', '.join(gone)} is pseudo-labelled: the next training learns {them} from people's"
            f" labels alone, and {their} pixels in the pool as other classes or not at all"
        )


def still_falling(row: Mapping[str, Any], config: RunConfig) -> Iterator[str]:
    """A line where a cycle's training ended while its loss still fell, with the key of its length."""
    if (learning := row.get("learning")) and learning["falling"]:
        yield (
            f"the loss was still falling when the training ended, by {100 * learning['fall']:.0f} % over the last"
            f" quarter of its epochs: a longer training would fit its labels better"
            f" ({_length_key(row['cycle'], config)})"
        )


def _length_key(cycle: int, config: RunConfig) -> str:
    """The key that decides how many epochs a cycle trains; see `RunConfig.train_at`."""
    if cycle == 0 and config.teacher.epochs and not traits_of(config.train.method).labels_pool:
        return "teacher.epochs"
    return "train.last_epochs" if cycle and cycle == config.cycles and config.train.last_epochs else "train.epochs"
