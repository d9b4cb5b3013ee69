"""`s4al splits`: a grid of methods, splits and seeds on one cluster; again to continue."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.backends import check_backend, started
from benchmarks.cells import cell, parse_share
from benchmarks.preflight import check_data, check_first_images, check_same_run, with_local_weights
from benchmarks.printed import print_next
from benchmarks.recipes import resolve
from benchmarks.run_command import begin, generated, settled
from benchmarks.side_by_side import Task, run_all
from benchmarks.tables import print_cells, print_tracking, protocol
from benchmarks.weights_check import check_weights
from orchestrator.config import RunConfig
from orchestrator.interrupt import GRACE_S, PARENT, follow_parent, handled
from orchestrator.layout import RunLayout, locked
from orchestrator.mlflow_grids import grid_run
from orchestrator.mlflow_store import Group, noted, tolerated
from orchestrator.record import Record
from orchestrator.shapes import read_summary
from orchestrator.tracking import copy_now, mirrored
from orchestrator.tracking_uri import chosen_uri, handed_on
from querying.errors import DamagedError, S4ALError, UserError
from querying.shards import DataIndex

if TYPE_CHECKING:
    from orchestrator.backend import Backend
    from orchestrator.progress import Progress

SOURCE = "s4al splits"
STEPS = "Steps of `compare/...` are the shares of labelled images in hundredths of a percent."


@dataclass(frozen=True, slots=True)
class Cell:
    method: str
    split: str
    seed: int
    config: RunConfig
    layout: RunLayout

    @property
    def name(self) -> str:
        return f"{self.method} {self.split} seed {self.seed}"


def splits_command(
    recipe: str,
    overrides: Sequence[str],
    *,
    methods: str,
    splits: str,
    seeds: str,
    family: str | None,
    data: Path | None,
    out: Path | None,
    backend: str,
    address: str | None,
    tracking: str | None,
    parallel: int | None = None,
    quick: bool = False,
) -> None:
    base = with_local_weights(resolve(recipe, overrides, quick=quick))
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
        check_first_images([one.config for one in cells if not one.layout.decided], index)

    from orchestrator.progress import shown

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
            run_all([_task(one, [recipe, *overrides], options) for one in left], at_once, progress, handed_on(uri))
        else:
            for number, one in enumerate(left, 1):
                progress.say(f"cell {number} of {len(left)}: {one.name}")
                _run_cell(one, index, base, out, uri, ready, progress)
        if not beside:
            _catch_up(cells, base, out, uri)

    if not beside:
        title = f"{base.name}, mIoU %, mean ± sample standard deviation over seeds"
        print_cells([(one.method, one.split, _miou(one)) for one in cells], title)
        print_tracking(uri)
        _compare(out, uri)
        best = max(cells, key=_miou)
        print(f"best: {best.name}, {best.layout.root}")
        print_next(
            ["s4al", "compare", out, "--against", cells[0].method],
            ["s4al", "predict", best.layout.root, "IMAGES", "--out", out / "predictions"],
            ["s4al", "export", best.layout.root, out / "best.onnx"],
        )


def _compare(out: Path, uri: str) -> None:
    """The comparison of all cells of the folder, those of earlier calls included; one that can not be made is said, and
    the cells stay what they are."""
    from benchmarks.compare import compare_command

    try:
        compare_command(out, None, None, uri)
    except S4ALError as error:
        print(f"no comparison: {error}")


def plan(
    base: RunConfig, methods: Sequence[str], splits: Sequence[str], seeds: Sequence[int], family: str | None, out: Path
) -> list[Cell]:
    """All cells, each with a folder of its own: OUT/METHOD/SPLIT/seed-N."""
    cells = []
    for method, split, seed in itertools.product(methods, splits, seeds):
        config = cell(base, method, split, seed, family=family)
        share = parse_share(split)
        folder = out / method / f"{share.numerator}_{share.denominator}" / f"seed-{seed}"
        cells.append(Cell(method, split, seed, config, RunLayout(folder)))
    if len({one.layout.root for one in cells}) < len(cells):
        raise UserError("a method, split or seed is named twice")
    return cells


def finished(one: Cell) -> bool:
    """Is its summary there, intact, and that of a run that came to its end?  Then the cell is not touched again."""
    try:
        return bool(read_summary(one.layout.summary)["finished"])
    except DamagedError:
        return False


def fitting(cells: Sequence[Cell], backend: Backend) -> int:
    """How many of these cells find room at the same time, each with all its workers; at least one."""
    rooms = [backend.room(one.config.train.workers, one.config.train.threads) for one in cells]
    rooms += [backend.room(one.config.query.actors, one.config.query.threads) for one in cells if one.config.cycles]
    return max(1, min(rooms, default=1))


def _task(one: Cell, recipe: Sequence[str], options: Sequence[object]) -> Task:
    which = ["--methods", one.method, "--splits", one.split, "--seeds", one.seed, "--parallel", 1]
    command = ["splits", *recipe, *which, *options]
    root = one.layout.root
    return Task(one.name, [str(word) for word in command], root.with_name(f"{root.name}.log"))


def _run_cell(
    one: Cell, index: DataIndex, base: RunConfig, out: Path, uri: str, backend: Backend, progress: Progress
) -> None:
    from orchestrator.loop import run

    root = one.layout.root
    # A cell of a grid that was killed may still be saving what it has.
    with locked(root, patience=GRACE_S + 5):
        begin(one.config, index, one.layout)
        mirror = settled(one.config, index, one.layout, backend, uri, progress, _group(one, base, out))
        with mirrored(mirror):
            run(one.config, index, one.layout, backend, Record(one.layout.metrics), mirror, progress, name="main")
            mirror.finish(None, None)


def _catch_up(cells: Sequence[Cell], base: RunConfig, out: Path, uri: str) -> None:
    """Cells that finished while MLflow did not answer, or was another, or none."""
    left = [one for one in cells if uri != "none" and noted(one.layout.root, uri).get("status") != "FINISHED"]
    with tolerated(uri, f"{len(left)} of {len(cells)} cells are not all there, but complete in {out}"):
        for one in left:
            copy_now(one.layout.root, uri, _group(one, base, out), "FINISHED")


def _group(one: Cell, base: RunConfig, out: Path) -> Group:
    return Group(out, base.name, _tags(one), one.name, SOURCE)


def _tags(one: Cell) -> dict[str, str]:
    listed = one.config.initial.list
    return {
        "s4al.method": one.method,
        "s4al.split": one.split,
        "s4al.family": listed.split("/")[-2] if listed else "drawn",
        "s4al.protocol": protocol(one.config),
    }


def _miou(one: Cell) -> float:
    """Of the last cycle, in 0..1."""
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
