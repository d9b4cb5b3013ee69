"""A grid of methods, splits and seeds: its cells, which are finished, and how one of them is run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.shapes import read_summary
from orchestrator.recipe.config import RunConfig
from orchestrator.run.protocol import protocol
from orchestrator.run.start import carry_out
from orchestrator.studies.cells import cell, parse_share
from orchestrator.studies.processes import Task
from orchestrator.tracking.store import Group
from querying.base.errors import DamagedError, UserError
from querying.dataset.shards import DataIndex

if TYPE_CHECKING:
    from orchestrator.backends.backend import Backend
    from orchestrator.process.progress import Progress


SOURCE = "s4al splits"


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


def task_of(one: Cell, recipe: Sequence[str], options: Sequence[object]) -> Task:
    which = ["--methods", one.method, "--splits", one.split, "--seeds", one.seed, "--parallel", 1]
    command = ["splits", *recipe, *which, *options]
    root = one.layout.root
    return Task(one.name, [str(word) for word in command], root.with_name(f"{root.name}.log"))


def run_cell(
    one: Cell, index: DataIndex, base: RunConfig, out: Path, uri: str, backend: Backend, progress: Progress
) -> None:
    group = group_of_cell(one, base, out)
    carry_out(one.config, index, one.layout, nullcontext(backend), progress, uri=uri, group=group)


def group_of_cell(one: Cell, base: RunConfig, out: Path) -> Group:
    return Group(out, base.name, _tags(one), one.name, SOURCE)


def _tags(one: Cell) -> dict[str, str]:
    listed = one.config.initial.list
    return {
        "s4al.method": one.method,
        "s4al.split": one.split,
        "s4al.family": listed.split("/")[-2] if listed else "drawn",
        "s4al.protocol": protocol(one.config),
    }
