"""`s4al splits`: a grid of methods, splits and seeds on one cluster; again to continue."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.commands.run import generated
from benchmarks.recipes.catalogue import resolve
from benchmarks.report.printed import print_next
from benchmarks.report.terminal_tables import print_cells, print_tracking
from benchmarks.results.grid import refuse_recipes
from orchestrator.backends.open import check_backend, started
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import is_run, read_recipe
from orchestrator.folder.shapes import read_summary
from orchestrator.process.interrupt import PARENT, follow_parent, handled
from orchestrator.recipe.config import RunConfig
from orchestrator.run.preflight import (
    check_data,
    check_first_images,
    check_same_run,
    check_unattended,
    with_local_weights,
)
from orchestrator.run.weights_check import check_weights
from orchestrator.studies.cells import POOL_TRUTH
from orchestrator.studies.grid import SOURCE, Cell, finished, fitting, group_of_cell, plan, run_cell, task_of
from orchestrator.studies.processes import run_all
from orchestrator.tracking.grids import grid_run
from orchestrator.tracking.mirror import copy_now
from orchestrator.tracking.store import Group, noted, tolerated
from orchestrator.tracking.uri import chosen_uri, handed_on
from querying.base.errors import S4ALError, UserError
from querying.base.storage.place import Place
from querying.dataset.shards import DataIndex

STEPS = "Steps of `compare/...` are the shares of labelled images in hundredths of a percent."


def splits_command(
    recipe: str,
    overrides: Sequence[str],
    *,
    methods: str,
    splits: str,
    seeds: str,
    family: str | None,
    data: Place | None,
    out: Path | None,
    backend: str,
    address: str | None,
    tracking: str | None,
    parallel: int | None = None,
    quick: bool = False,
) -> None:
    base = with_local_weights(resolve(recipe, overrides, quick=quick))
    check_unattended(base)
    out = out or Path("runs") / f"{base.name}.splits"
    check_backend(backend, address)
    cells = plan(base, _words(methods, "--methods"), _words(splits, "--splits"), seed_numbers(seeds), family, out)
    for one in cells:
        check_weights(one.config, one.layout)
    uri = chosen_uri(tracking, out)
    data = data or generated(base, out)
    index = DataIndex.load(data)
    for one in cells:  # every mistake before the first training
        check_data(one.config, index, one.layout.decided)
        check_same_run(one.config, index, one.layout)
    beside = PARENT in os.environ  # one cell, for the grid that checks it (a cover reads every train mask) and shows it
    if not beside:
        refuse_recipes([*_there(out), *((one.method, one.name, one.config) for one in cells)], out)
        check_first_images([one.config for one in cells if not one.layout.decided], index)

    from orchestrator.process.progress import shown

    above = Group(out, base.name, {}, out.name, SOURCE)
    asked = {"recipe": base.name, "methods": methods, "splits": splits, "seeds": seeds, "family": family or "drawn"}
    with (
        handled(),
        grid_run(above, "none" if beside else uri, STEPS, asked),
        shown() as progress,
        started(backend, address, progress) as ready,
    ):
        follow_parent()
        for one in filter(finished, cells):
            progress.say(f"{one.name}: finished already")
        left = [one for one in cells if not finished(one)]
        at_once = min(parallel or fitting(left, ready), len(left))
        if at_once > 1:
            progress.say(f"{len(left)} cells, {at_once} at a time")
            options = ["--data", data, "--out", out, "--backend", backend]
            options += [*(["--family", family] if family else []), *(["--quick"] if quick else [])]
            options += ["--address", ready.address] if ready.address else []
            run_all([task_of(one, [recipe, *overrides], options) for one in left], at_once, progress, handed_on(uri))
        else:
            for number, one in enumerate(left, 1):
                progress.say(f"cell {number} of {len(left)}: {one.name}")
                run_cell(one, index, base, out, uri, ready, progress)
        if not beside:
            _catch_up(cells, base, out, uri)

    if not beside:
        title = f"{base.name}, mIoU %, mean ± sample standard deviation over seeds"
        print_cells([(one.method, one.split, _miou(one)) for one in cells], title)
        print_tracking(uri)
        _compare(out, uri)
        best = max(cells, key=lambda one: (one.method != POOL_TRUTH, _miou(one)))  # nobody deploys a control
        print(f"best: {best.name}, {best.layout.root}")
        print_next(
            ["s4al", "compare", out, "--against", cells[0].method],
            ["s4al", "predict", best.layout.root, "IMAGES", "--out", out / "predictions"],
            ["s4al", "export", best.layout.root, out / "best.onnx"],
        )


def _there(out: Path) -> Iterator[tuple[str, str, RunConfig]]:
    """Method, name and configuration of the cells of earlier calls, finished or not."""
    for root in sorted(out.glob("*/*/seed-*")):
        if is_run(root):
            yield root.parts[-3], "/".join(root.parts[-3:]), read_recipe(RunLayout(root).recipe)[0]


def _compare(out: Path, uri: str) -> None:
    """The comparison of all cells of the folder, those of earlier calls included; one that can not be made is said, and
    the cells stay what they are."""
    from benchmarks.commands.compare import compare_command

    try:
        compare_command(out, None, None, uri)
    except S4ALError as error:
        print(f"no comparison: {error}")


def _catch_up(cells: Sequence[Cell], base: RunConfig, out: Path, uri: str) -> None:
    """Cells that finished while MLflow did not answer, or was another, or none."""
    left = [one for one in cells if uri != "none" and noted(one.layout.root, uri).get("status") != "FINISHED"]
    with tolerated(uri, f"{len(left)} of {len(cells)} cells are not all there, but complete in {out}"):
        for one in left:
            copy_now(one.layout.root, uri, group_of_cell(one, base, out), "FINISHED")


def _miou(one: Cell) -> float:
    """The mIoU of the last cycle, in 0..1."""
    miou: float = read_summary(one.layout.summary)["cycles"][-1]["miou"]
    return miou


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UserError(f"{option}: expected names separated by commas")
    return words


def seed_numbers(text: str) -> list[int]:
    try:
        return [int(word) for word in _words(text, "--seeds")]
    except ValueError:
        raise UserError(f"--seeds {text!r}: expected whole numbers separated by commas") from None
