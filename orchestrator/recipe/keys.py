"""Which keys of a recipe decide a result, and which may change in mid-run."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from functools import cache

from orchestrator.recipe.config import RunConfig, flatten

HARMLESS_KEYS = ("train.max_failures", "train.checkpoint_epochs", "train.timeout", "query.actors")
"""May change in mid-run: the results are the same bit for bit."""
MACHINE_KEYS = (
    "train.workers", "train.threads", "train.kernels", "train.batch_size", "train.batch_size_unlabelled",
    "train.micro_batch", "train.precision", "teacher.batch_size", "query.threads", "query.batch_size",
    "query.precision",
)  # fmt: skip
"""How much of which machine a run uses; may change in mid-run with `--allow-drift`."""
ELSEWHERE = ("name", "annotator", "reference", "stop_at", "initial.*", "model.weights")
"""Decide no stage by themselves: the first labels and weights are inputs of a stage, by their hashes."""
Value = str | int | float | bool


def deciding(config: RunConfig, cycle: int) -> dict[str, Value]:
    """What of a recipe decides a stage of this cycle: all its keys but those that change nothing, those of the machine,
    whose change is noted, and what counts by its hash."""
    free = (*HARMLESS_KEYS, *MACHINE_KEYS, *ELSEWHERE)
    keys = flatten(config.model_dump(mode="json")).items()
    return {"cycle": cycle, **{key: value for key, value in keys if not any(fnmatch(key, one) for one in free)}}


def differing(there: Mapping[str, Value], here: Mapping[str, Value]) -> list[str]:
    """`KEY VALUE, not VALUE` for every setting of something made that is not the one wanted `here`.  A key that its
    version did not have had its default."""
    had = {**_defaults(), **there}
    return [f"{key} {had[key]!r}, not {value!r}" for key, value in here.items() if key in had and had[key] != value]


@cache
def _defaults() -> Mapping[str, Value]:
    return flatten(RunConfig(name="defaults").model_dump(mode="json"))


def changed_keys(there: RunConfig, here: RunConfig) -> list[tuple[str, object, object]]:
    """Keys of the recipe that differ, with both values."""
    old, new = flatten(there.model_dump(mode="json")), flatten(here.model_dump(mode="json"))
    return [(key, old.get(key), new[key]) for key in new if old.get(key) != new[key]]
