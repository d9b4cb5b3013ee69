"""`s4al run`: every check that can be made without torch or Ray first, then the loop, then the report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.preflight import check_address, check_data, check_same_run, with_local_weights
from benchmarks.recipes import resolve
from orchestrator.config import RunConfig
from orchestrator.interrupt import handled
from orchestrator.layout import RunLayout, locked
from orchestrator.local_cluster import prepare_local_cluster
from orchestrator.manifest import digest, set_aside
from orchestrator.provenance import provenance as _provenance, settle
from orchestrator.recipe_file import read_recipe, restore_recipe
from orchestrator.record import Record
from orchestrator.tracking import Mirror, MlflowMirror, NoMirror, check_uri, default_uri
from orchestrator.verify import MODEL_NOTE, exported_from
from querying.errors import DamagedError, UserError
from querying.files import sha256, write_json
from querying.shards import DataIndex

if TYPE_CHECKING:
    from orchestrator.progress import Progress
    from orchestrator.stages import Backend


def run_command(
    recipe: str,
    overrides: list[str],
    data: Path | None,
    out: Path | None,
    backend: str,
    address: str | None,
    tracking: str | None,
    allow_drift: bool = False,
) -> None:
    config = resolve(recipe, overrides)
    out = out or Path("runs") / config.name
    if address and backend == "local":
        raise UserError("--address and --backend local exclude each other")
    joined = address or os.environ.get("RAY_ADDRESS")
    if backend == "ray" and joined and joined != "auto":
        check_address(joined)
    config = with_local_weights(config)
    index = DataIndex.load(data or _generated(config, out))
    check_data(config, index)
    layout = RunLayout(out)
    check_same_run(config, index, layout, allow_drift=allow_drift)
    uri = tracking or default_uri(out)
    if uri != "none":
        check_uri(uri)

    with locked(out), handled():
        check_same_run(config, index, layout, allow_drift=allow_drift)  # again, now that no other process can change it
        restore_recipe(layout.recipe)
        _prepare_backbone(config, layout)  # before the recipe, so that wrong weights leave no run behind
        _launch(config, index, layout, backend, address, uri)


def _generated(config: RunConfig, out: Path) -> Path:
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

    with shown() as progress:
        if backend == "local":
            from orchestrator.local_backend import LocalBackend

            _run(config, index, layout, LocalBackend(), uri, progress)
        else:
            if not (address or os.environ.get("RAY_ADDRESS")):
                prepare_local_cluster()
            from orchestrator.ray_backend import connected

            progress.say("starting Ray ..." if not address else f"connecting to Ray at {address} ...")
            with connected(address) as ray_backend:
                _run(config, index, layout, ray_backend, uri, progress)
    from benchmarks.tables import print_outcome

    print_outcome(layout, uri)


def _run(
    config: RunConfig, index: DataIndex, layout: RunLayout, backend: Backend, uri: str, progress: Progress
) -> None:
    from orchestrator.loop import run

    for change in settle(layout, config, _provenance(index, layout.backbone, backend.device)):
        progress.say(f"{change}: what follows is not bit for bit what an undisturbed run gives; noted in recipe.yaml")
    mirror = _mirror(config, index, layout, uri)
    summary = run(config, index, layout, backend, Record(layout.metrics), mirror, progress)

    from benchmarks.deploy import export_onnx
    from benchmarks.report import write_report

    progress.stage("report")
    report = write_report([layout.root], layout.root / "report", index)
    onnx = layout.root / "model.onnx"
    cycle = summary["cycles"][-1]["cycle"]
    model = {"cycle": cycle, "checkpoint": digest(layout.checkpoint(cycle), "*.safetensors")}
    if not exported_from(layout.root, model):
        export_onnx(layout.checkpoint(cycle), onnx)
        write_json(layout.root / MODEL_NOTE, {**model, "sha256": sha256(onnx)})
    mirror.finish(report.parent, onnx)


def _mirror(config: RunConfig, index: DataIndex, layout: RunLayout, uri: str) -> Mirror:
    if uri == "none":
        return NoMirror()
    data = {"name": index.name, "digest": index.digest, "root": str(index.root.resolve())}
    return MlflowMirror(layout.root, config, data, uri, read_recipe(layout.recipe)[1].get("id"))


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
