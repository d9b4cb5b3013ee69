"""`s4al run`: every check that can be made without torch or Ray first, then the loop, then the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.backends import check_backend, started
from benchmarks.preflight import (
    check_data,
    check_first_images,
    check_same_run,
    few_images,
    with_local_list,
    with_local_weights,
)
from benchmarks.recipes import resolve
from benchmarks.weights_check import check_weights
from orchestrator.config import RunConfig
from orchestrator.interrupt import handled
from orchestrator.layout import RunLayout, locked
from orchestrator.manifest import set_aside
from orchestrator.mlflow_store import Group
from orchestrator.provenance import provenance as _provenance, settle
from orchestrator.recipe_file import read_recipe, restore_recipe
from orchestrator.record import Mirror, NoMirror, Record
from orchestrator.tracking import MlflowMirror, mirrored
from orchestrator.tracking_uri import chosen_uri
from querying.errors import DamagedError, UserError
from querying.files import sha256
from querying.shards import DataIndex

if TYPE_CHECKING:
    from orchestrator.backend import Backend
    from orchestrator.progress import Progress


def run_command(
    recipe: str,
    overrides: list[str],
    data: Path | None,
    out: Path | None,
    backend: str,
    address: str | None,
    tracking: str | None,
    allow_drift: bool = False,
    quick: bool = False,
) -> None:
    config = resolve(recipe, overrides, quick=quick)
    out = out or Path("runs") / config.name
    check_backend(backend, address)
    config = with_local_list(with_local_weights(config))
    index = DataIndex.load(data or generated(config, out))
    layout = RunLayout(out)
    check_data(config, index, layout.decided)
    if not layout.decided:
        check_first_images([config], index)
    check_same_run(config, index, layout, allow_drift=allow_drift)
    check_weights(config, layout)
    uri = chosen_uri(tracking, out)
    if few := few_images(index, config.data.evaluate_on):
        print(few, flush=True)

    with locked(out), handled():
        begin(config, index, layout, allow_drift=allow_drift)
        _launch(config, index, layout, backend, address, uri)


def begin(config: RunConfig, index: DataIndex, layout: RunLayout, *, allow_drift: bool = False) -> None:
    """First weights of a new run; recipe and weights of one that is there already are checked.  Needs the lock."""
    check_same_run(config, index, layout, allow_drift=allow_drift)  # again, now that no other process can change it
    restore_recipe(layout.recipe)
    _prepare_backbone(config, layout)  # before the recipe, so that wrong weights leave no run behind


def generated(config: RunConfig, out: Path) -> Path:
    if config.data.dataset != "toy":
        raise UserError(f"recipe {config.name} needs --data DST (made by `s4al ingest`)")
    from benchmarks.ingest import ingest

    root = out.parent / "toy-data"
    if not (root / "index.json").exists():
        print(f"generating toy scenes in {root} ...", flush=True)
        ingest("toy", None, root, size=None)
    return root


def _launch(
    config: RunConfig, index: DataIndex, layout: RunLayout, backend: str, address: str | None, uri: str
) -> None:
    from orchestrator.progress import shown

    with shown() as progress, started(backend, address, progress) as ready:
        if not layout.decided:
            from benchmarks.estimate import disk_line

            progress.say(disk_line(config, index, layout.root))
        mirror = settled(config, index, layout, ready, uri, progress)
        with mirrored(mirror):
            report = _run(config, index, layout, ready, mirror, progress)
    from benchmarks.printed import after_run
    from benchmarks.tables import print_outcome

    print_outcome(layout, uri, report)
    after_run(layout.root)


def _run(
    config: RunConfig, index: DataIndex, layout: RunLayout, backend: Backend, mirror: Mirror, progress: Progress
) -> Path | None:
    from orchestrator.loop import run

    summary = run(config, index, layout, backend, Record(layout.metrics), mirror, progress)

    from benchmarks.ending import conclude_run

    return conclude_run(layout, summary, index, mirror, progress)


def settled(
    config: RunConfig,
    index: DataIndex,
    layout: RunLayout,
    backend: Backend,
    uri: str,
    progress: Progress,
    group: Group | None = None,
) -> Mirror:
    """Write the recipe, or note what has changed since it was written; what mirrors the run then."""
    now = _provenance(index, layout.backbone, backend.device, (config.query.acquisition, config.train.method))
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
    from training.weights import store_backbone

    store_backbone(config.model, layout.backbone)
    if wanted not in (None, sha256(layout.backbone)):
        raise DamagedError(f"{layout.backbone}: the run began from other weights than model.weights gives now")
