"""How a run begins, or goes on: its recipe, its first weights, what has changed since, and where it is mirrored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.folder.layout import RunLayout, locked
from orchestrator.folder.manifest import set_aside
from orchestrator.folder.recipe_file import read_recipe, restore_recipe, write_recipe
from orchestrator.folder.record import Mirror, NoMirror
from orchestrator.folder.shapes import read_summary
from orchestrator.process.interrupt import GRACE_S
from orchestrator.recipe.config import RunConfig
from orchestrator.recipe.keys import MACHINE_KEYS, changed_keys
from orchestrator.recipe.provenance import (
    ENVIRONMENT,
    changed_environment,
    latest_environment,
    provenance as _provenance,
)
from orchestrator.run.context import RunContext
from orchestrator.run.next_stage import next_stage
from orchestrator.run.preflight import check_same_run
from orchestrator.tracking.mirror import MlflowMirror, mirrored
from orchestrator.tracking.store import Group
from querying.base.errors import DamagedError
from querying.base.files import sha256
from querying.dataset.shards import DataIndex
from querying.labels.ledger import Ledger

if TYPE_CHECKING:
    from orchestrator.annotation.rounds import Reread
    from orchestrator.backends.backend import Backend
    from orchestrator.process.progress import Progress


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
    if not any(Ledger(part.ledger).has(0) for part in (layout, layout.reference)):
        kept = ("id", "first_weights", "drift", "environments")
        after: dict[str, Any] = {**now, **{str(key): before[key] for key in kept if key in before}}
        changes: list[str] = []
    else:
        last = latest_environment(before)
        changes = [
            f"{key} was {old}, is {new}" for key, old, new in changed_keys(started, config) if key in MACHINE_KEYS
        ]
        changes += changed_environment(last, now)
        entry = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "from": next_stage(layout, config)}
        after = {**now, **before}  # what a run began with is never replaced, and added where it did not say
        if changes:
            after["drift"] = [*before.get("drift", []), {**entry, "changes": changes}]
        if new := _difference(last, now):
            after["environments"] = [*before.get("environments", []), {**entry, **new}]
    if (config, after) != (started, before):
        write_recipe(layout.recipe, config, after)
    return changes


def _difference(last: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """What `now` says otherwise; None is what it does not have any more."""
    found: dict[str, Any] = {}
    for key in ENVIRONMENT:
        if isinstance(now[key], Mapping):
            old = last.get(key) or {}
            changed = {name: now[key].get(name) for name in {**old, **now[key]} if old.get(name) != now[key].get(name)}
            found |= {key: changed} if changed or key not in last else {}
        elif now[key] != "unknown" and now[key] != last.get(key):
            found[key] = now[key]
    return found


def _finished(layout: RunLayout) -> bool:
    try:
        return bool(read_summary(layout.summary)["finished"])
    except DamagedError:
        return False


def carry_out(
    config: RunConfig,
    index: DataIndex,
    layout: RunLayout,
    backend: AbstractContextManager[Backend],
    progress: Progress,
    *,
    uri: str,
    group: Group | None = None,
    patience: float = GRACE_S + 5,
    allow_drift: bool = False,
    part: bool = False,
    reread: Reread | None = None,
    conclude: Callable[[RunContext, dict[str, Any]], Path | None] | None = None,
) -> Path | None:
    """Begin the run, or go on with it, under its lock; the back end is started when the run may begin.

    `part` and `reread`: see `RunContext`.  `patience`: one of the same command that was killed may still be saving.
    `conclude` makes what comes after the cycles and closes the mirror; its result is returned.  Without it, the mirror
    is closed here.
    """
    with locked(layout.root, patience):
        check_same_run(config, index, layout, allow_drift=allow_drift)  # again, now that nobody else can change it
        restore_recipe(layout.recipe)
        _prepare_backbone(config, layout)  # before the recipe, so that wrong weights leave no run behind
        with backend as ready:
            mirror = _settled(config, index, layout, ready, progress, uri, group)
            context = RunContext(
                config=config, index=index, layout=layout, backend=ready, progress=progress, mirror=mirror, part=part,
                reread=reread,
            )  # fmt: skip
            from orchestrator.run.loop import run  # loads torch

            with mirrored(mirror):
                summary = run(context)
                if conclude:
                    return conclude(context, summary)
                mirror.finish(None, None)
                return None


def _settled(
    config: RunConfig,
    index: DataIndex,
    layout: RunLayout,
    backend: Backend,
    progress: Progress,
    uri: str,
    group: Group | None,
) -> Mirror:
    """Write the recipe, or note what has changed since it was written; what mirrors the run then."""
    now = _provenance(
        index, layout.backbone, backend.device, (config.query.acquisition, config.train.method, config.model.backbone)
    )
    for change in settle(layout, config, now):
        progress.say(f"{change}: what follows is not bit for bit what an undisturbed run gives; noted in recipe.yaml")
    if uri == "none":
        return NoMirror()
    data = {"name": index.name, "digest": index.digest, "root": str(index.root.resolve())}
    return MlflowMirror(layout.root, config, data, uri, read_recipe(layout.recipe)[1].get("id"), group)


def _prepare_backbone(config: RunConfig, layout: RunLayout) -> None:
    """The run's copy of the first weights; one that is not what was written is set aside and made again."""
    if config.model.weights == "none":
        return
    wanted = read_recipe(layout.recipe)[1]["first_weights"] if layout.recipe.exists() else None
    if layout.backbone.exists():
        if wanted in (None, sha256(layout.backbone)):
            return
        aside = set_aside(layout.backbone)
        print(f"{layout.backbone}: not what was written: set aside as {aside.name}, making it again", flush=True)
    from training.network.first_weights import store_backbone

    store_backbone(config.model, layout.backbone)
    if wanted not in (None, sha256(layout.backbone)):
        raise DamagedError(f"{layout.backbone}: the run began from other weights than model.weights gives now")
