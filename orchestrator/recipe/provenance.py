"""What a run ran with, and what of it has changed since: such a change may change the last bits of what follows."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from orchestrator.recipe.config import RunConfig
from orchestrator.recipe.keys import HARMLESS_KEYS, MACHINE_KEYS, changed_keys
from querying.base.environment import code, libraries, machine
from querying.base.files import sha256
from querying.base.own_code import read_source
from querying.dataset.shards import DataIndex

ENVIRONMENT = ("commit", "code", "own_code", "device", "machine", "libraries")
"""What of the provenance may change in mid-run.  What a run began with stays; changes are added as `environments`."""
BATCH_KEYS = ("train.batch_size", "train.batch_size_unlabelled", "train.micro_batch", "teacher.batch_size")
"""Those of the machine's keys that make another training: a larger step can be worth more than a query."""
SEED_KEYS = ("seed", "initial.list", "reference", "train.validate_epochs", "evaluate.best_on_val")
"""May differ between seeds of one recipe: what a seed or a list draws, and what changes nothing that is trained."""


def provenance(index: DataIndex, backbone: Path, device: str = "unknown", named: Sequence[str] = ()) -> dict[str, Any]:
    """What decides a run beside its recipe; `own_code` is what is made by the user, of all that its recipe has `named`
    (acquisition, method, encoder)."""
    own = [read_source(name) for name in named if ":" in name]
    return {
        "schema": 1,
        "id": uuid.uuid4().hex,
        "first_weights": sha256(backbone) if backbone.exists() else None,
        "data": {"root": str(index.root.resolve()), "name": index.name, "sha256": index.digest},
        "commit": _commit(),
        "code": code(),
        "own_code": {module: digest for one in own for module, digest in one.hashes.items()},
        "device": device,
        "machine": machine(device),
        "libraries": dict(libraries(frozenset().union(*(one.installed for one in own)))),
    }


def latest_environment(found: Mapping[str, Any]) -> dict[str, Any]:
    """What a run with this provenance was started in last: what it began with and all changes since."""
    known = {key: found[key] for key in ENVIRONMENT if key in found}
    for entry in found.get("environments", []):
        for key in ENVIRONMENT:
            if isinstance(entry.get(key), Mapping):
                merged = {**known.get(key, {}), **entry[key]}
                known[key] = {name: value for name, value in merged.items() if value is not None}
            elif key in entry:
                known[key] = entry[key]
    return known


def drift_lines(found: Mapping[str, Any]) -> list[str]:
    """What a reader of a run with this provenance must know; nothing where all of it was made in the same way."""
    return [
        f"not bit-exact: from {entry['from']} on ({entry['time']}): {'; '.join(entry['changes'])}"
        for entry in found.get("drift", [])
    ]


def recipe_difference(there: RunConfig, here: RunConfig, free: Sequence[str] = SEED_KEYS) -> str:
    """`KEY is VALUE and VALUE` of the first key that makes two runs more than seeds of one recipe; empty where none
    does.  Keys that match one of the `free` patterns do not count, nor do those of a machine but for batch sizes."""
    free = (*free, *HARMLESS_KEYS, *(key for key in MACHINE_KEYS if key not in BATCH_KEYS))
    changed = (one for one in changed_keys(there, here) if not any(fnmatch(one[0], pattern) for pattern in free))
    return next((f"{key} is {old!r} and {new!r}" for key, old, new in changed), "")


def changed_environment(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A line for everything that both know and that differs.  The code counts, not its commit: that may be unknown,
    the tree may have been changed, and a commit may change a document alone."""
    lines = []
    for key in ("code", "device"):
        if before.get(key) not in (None, "unknown", now[key]) and now[key] != "unknown":
            old, new = (_with_commit(one) if key == "code" else one[key] for one in (before, now))
            lines.append(f"{key} was {old}, is {new}")
    for key, title, absent in (
        ("own_code", "code of {}", "not there"),
        ("machine", "{}", "unset"),
        ("libraries", "{}", ""),
    ):
        if key not in before:  # of an earlier version
            continue
        old, new = before[key], now[key]
        for name in {**old, **new}:
            both = name in old and name in new
            if old.get(name) != new.get(name) and (both or key == "own_code" or name.startswith("variable ")):
                was, is_ = (one.get(name, absent)[: 12 if key == "own_code" else None] for one in (old, new))
                lines.append(f"{title.format(name)} was {was}, is {is_}")
    return lines


def _with_commit(found: Mapping[str, Any]) -> str:
    commit = str(found.get("commit", "unknown"))
    return f"{found['code'][:8]} (commit {commit[:12]}{'-dirty' * commit.endswith('-dirty')})"


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
