"""`s4al sweep`: trials of a recipe over a space of its keys, under Ray Tune; again to continue."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.commands.run import generated
from benchmarks.recipes.catalogue import resolve
from benchmarks.report.terminal_tables import print_tracking
from orchestrator.backends.open import check_backend, started
from orchestrator.folder.layout import locked
from orchestrator.process.interrupt import handled
from orchestrator.run.preflight import (
    check_data,
    check_first_images,
    check_unattended,
    with_local_list,
    with_local_weights,
)
from orchestrator.run.weights_check import check_weights
from orchestrator.studies.samplers import new_sampler
from orchestrator.studies.space import load_space
from orchestrator.studies.sweep import SOURCE, SweepRecord
from orchestrator.studies.trials import all_recipes, base_of, run_sweep, single_changes
from orchestrator.tracking.grids import grid_run
from orchestrator.tracking.store import Group
from orchestrator.tracking.uri import absolute, chosen_uri
from querying.base.errors import UserError
from querying.base.leftovers import remove_written
from querying.base.storage.place import Place
from querying.dataset.shards import DataIndex

OBJECTIVES = ("miou", "pixel_accuracy", "labelled_fraction", "labelled_pixels", "cells", "void_pixels", "seconds")
"""Numbers of a run's last cycle, besides each class's IoU."""
STEPS = "Steps of `best/...` are trials."


def sweep_command(
    recipe: str,
    overrides: Sequence[str],
    *,
    space: str,
    samples: int | None,
    scheduler: str,
    search: str,
    objective: str,
    mode: str,
    seed: int,
    data: Place | None,
    out: Path | None,
    address: str | None,
    tracking: str | None,
    parallel: int | None,
    retries: int,
    quick: bool = False,
) -> None:
    resolved = with_local_list(with_local_weights(resolve(recipe, overrides, quick=quick)))
    check_unattended(resolved)
    base = base_of(resolved, overrides, scheduler, objective)
    out = out or Path("runs") / f"{base.name}.sweep"
    check_backend("ray", address)
    points = load_space(space, base)
    sampler = new_sampler(search, points, samples, seed, mode)
    check_weights(base)
    uri = absolute(chosen_uri(tracking, out))  # a trial works in a folder of its own
    data = data or generated(base, out)
    index = DataIndex.load(data)
    known = [*OBJECTIVES, *(f"class_iou/{name}" for name in index.classes)]
    if objective not in known:
        raise UserError(f"--objective {objective}: there are {', '.join(known)}")
    check_data(base, index)
    configs = single_changes(points, base) if search == "optuna" else all_recipes(sampler, base, index)
    check_first_images([base] if search == "optuna" else configs, index)  # singles may never go together
    settings = {
        "recipe": base.model_dump(mode="json"),
        "space": [[p.key, p.kind, list(p.values), {k: list(v) for k, v in p.when.items()}] for p in points.parameters],
        "search": search,
        "scheduler": scheduler,
        "objective": objective,
        "mode": mode,
        "seed": seed,
        "data": index.digest,
        "samples": sampler.total,
    }

    from benchmarks.commands.sweep_end import end_sweep
    from orchestrator.process.progress import shown

    with locked(out), handled():
        record = SweepRecord(out)
        record.begin(settings)
        above = Group(out, base.name, {}, out.name, SOURCE)
        with grid_run(above, uri, STEPS, {k: v for k, v in settings.items() if k not in ("recipe", "space")}):
            with shown() as progress:
                for folder in (out, out / "trials"):
                    remove_written(folder, progress.say)
                record.settle()
                with started("ray", address, progress) as ready:
                    run_sweep(record, sampler, settings, configs, ready, index, uri, parallel, retries, progress)
            end_sweep(record, settings, uri)
    print_tracking(uri)
