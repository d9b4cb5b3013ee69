"""What a run ran with, and what of it has changed since: such a change may change the last bits of what follows."""

from __future__ import annotations

import hashlib
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.ahead import next_stage
from orchestrator.config import RunConfig, flatten
from orchestrator.layout import RunLayout
from orchestrator.recipe_file import read_recipe, write_recipe
from querying.errors import DamagedError
from querying.files import read_json, sha256
from querying.ledger import Ledger
from querying.shards import DataIndex

LIBRARIES = ("torch", "torchvision", "timm", "ray", "numpy", "pyarrow", "mlflow", "pillow", "safetensors")
COMPUTING = ("torch", "timm", "numpy")
"""Libraries that compute results; the others move bytes, which are hashed."""
CODE = ("orchestrator", "training", "querying")
"""Packages that make results; `benchmarks` shows them."""
HARMLESS_KEYS = ("train.max_failures", "train.checkpoint_epochs", "train.timeout", "query.actors")
"""May change in mid-run: the results are the same bit for bit."""
MACHINE_KEYS = (
    "train.workers", "train.threads", "train.batch_size", "train.batch_size_unlabelled", "train.precision",
    "teacher.batch_size", "query.threads", "query.batch_size", "query.precision",
)  # fmt: skip
"""How much of which machine a run uses; may change in mid-run with `--allow-drift`."""

BATCH_KEYS = ("train.batch_size", "train.batch_size_unlabelled", "teacher.batch_size")
"""Of the machine's keys, those that make another training: a larger step can be worth more than a query."""
SEED_KEYS = ("seed", "initial.list", "reference", "train.validate_epochs", "evaluate.best_on_val")
"""May differ between seeds of one recipe: what a seed or a list draws, and what changes nothing that is trained."""


def provenance(index: DataIndex, backbone: Path, device: str = "unknown") -> dict[str, Any]:
    """What decides a run beside its recipe."""
    return {
        "schema": 1,
        "id": uuid.uuid4().hex,
        "first_weights": sha256(backbone) if backbone.exists() else None,
        "data": {"root": str(index.root.resolve()), "name": index.name, "sha256": index.digest},
        "commit": _commit(),
        "code": _code(),
        "device": device,
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def settle(layout: RunLayout, config: RunConfig, now: Mapping[str, Any]) -> list[str]:
    """Write the recipe of a new run; in that of one that goes on, note what has changed since, and return that.

    Nothing is noted where nothing has been made yet, or nothing will be made any more.
    """
    if not layout.recipe.exists():
        write_recipe(layout.recipe, config, now)
        return []
    started, before = read_recipe(layout.recipe)
    if _finished(layout):
        return []
    changes = [f"{key} was {old}, is {new}" for key, old, new in changed_keys(started, config) if key in MACHINE_KEYS]
    changes += _changed_environment(before, now)
    after = {**now, **{str(key): before[key] for key in ("id", "first_weights", "drift") if key in before}}
    noted = bool(changes) and Ledger(layout.ledger).has(0)
    if noted:
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "from": next_stage(layout, config)}
        after["drift"] = [*before.get("drift", []), {**entry, "changes": changes}]
    if (config, after) != (started, before):
        write_recipe(layout.recipe, config, after)
    return changes if noted else []


def drift_lines(found: Mapping[str, Any]) -> list[str]:
    """What a reader of a run with this provenance must know; nothing where all of it was made in the same way."""
    return [
        f"not bit-exact: from {entry['from']} on ({entry['time']}): {'; '.join(entry['changes'])}"
        for entry in found.get("drift", [])
    ]


def changed_keys(there: RunConfig, here: RunConfig) -> list[tuple[str, object, object]]:
    """Keys of the recipe that differ, with both values."""
    old, new = flatten(there.model_dump(mode="json")), flatten(here.model_dump(mode="json"))
    return [(key, old.get(key), new[key]) for key in new if old.get(key) != new[key]]


def recipe_difference(there: RunConfig, here: RunConfig, free: Sequence[str] = SEED_KEYS) -> str:
    """`KEY is VALUE and VALUE` of the first key that makes two runs more than seeds of one recipe; empty where none
    does.  Keys that match one of the `free` patterns do not count, nor do those of a machine but for batch sizes."""
    free = (*free, *HARMLESS_KEYS, *(key for key in MACHINE_KEYS if key not in BATCH_KEYS))
    changed = (one for one in changed_keys(there, here) if not any(fnmatch(one[0], pattern) for pattern in free))
    return next((f"{key} is {old!r} and {new!r}" for key, old, new in changed), "")


def _changed_environment(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for everything that both know and that differs.  The code counts, not its commit: that may be unknown,
    the tree may have been changed, and a commit may change a document alone."""
    old: dict[str, Any] = {**before.get("libraries", {}), **before}
    new: dict[str, Any] = {**now["libraries"], **now}
    changed = [
        key for key in ("code", "device", *COMPUTING)
        if old.get(key) not in (None, "unknown", new[key]) and new[key] != "unknown"
    ]  # fmt: skip
    if "code" in changed:
        for side, found in ((old, before), (new, now)):
            commit = str(found.get("commit", "unknown"))
            side["code"] = f"{side['code'][:8]} (commit {commit[:12]}{'-dirty' * commit.endswith('-dirty')})"
    return [f"{key} was {old[key]}, is {new[key]}" for key in changed]


def _finished(layout: RunLayout) -> bool:
    try:
        return bool(read_json(layout.summary)["finished"])
    except DamagedError:
        return False


def _code() -> str:
    """SHA-256 (hex) over the source of the packages that make results."""
    root, total = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(path for package in CODE for path in (root / package).rglob("*.py")):
        total.update(f"{path.relative_to(root)} {sha256(path)}\n".encode())
    return total.hexdigest()


def _commit() -> str:
    """The commit of the source tree, `-dirty` where it was changed; `unknown` where git or the tree is not there."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=5,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return described.stdout.strip()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
