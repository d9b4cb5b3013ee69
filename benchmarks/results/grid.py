"""The cells of a grid of `s4al splits` side by side, as numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

from benchmarks.results.control import Control, control
from benchmarks.results.curves import paired
from orchestrator.choices import Checkpoint
from orchestrator.folder.recipe_file import read_recipe
from orchestrator.folder.record import latest
from orchestrator.folder.shapes import read_summary
from orchestrator.recipe.config import RunConfig
from orchestrator.recipe.provenance import SEED_KEYS, recipe_difference
from orchestrator.run.protocol import protocol
from orchestrator.studies.cells import OWN_KEYS, POOL_TRUTH, SUPERVISED, parse_share
from querying.base.errors import UserError

CELLS = "*/*/seed-*/summary.json"
RATE = "train/images_per_second"


@dataclass(frozen=True, slots=True)
class Result:
    """One finished cell."""

    method: str
    split: str
    seed: int
    miou: float
    """In 0..1, of the last cycle."""
    class_iou: Mapping[str, float | None]
    hours: float
    """Hours of training: all trainings together, on all devices (CPU threads, or GPUs)."""
    images_per_second: float | None
    """Labelled and pool images together, of all workers; the median over epochs.  None where the record is gone."""
    labelled_set: str
    """Hash of the labelled images."""
    data: str
    """Hash of the data set's index."""
    protocol: str
    config: RunConfig


Cells = Mapping[tuple[str, str], Mapping[int, Result]]
"""(method, split) -> seed -> result."""


@dataclass(frozen=True, slots=True)
class Row:
    """A method on a split, over seeds; all but the counts in percent."""

    method: str
    split: str
    seeds: int
    miou: float
    spread: float | None
    """Sample standard deviation (n - 1) over seeds; None of a single one."""
    difference: float | None
    """Mean over the seeds that both have of mIoU minus that of the row compared with."""
    interval: float | None
    """Half the width of the difference's 95 % interval (Student, paired); None below two common seeds."""
    place: int | None
    """By mIoU among the methods on its split, from 1; None where the control does not say that there is an order, and
    of supervision and the control."""
    hours: float
    images_per_second: float | None


def load(root: Path, checkpoint: Checkpoint = Checkpoint.last) -> list[Result]:
    """The finished cells of `s4al splits --out ROOT`.  UserError where there is none, or where they were not made on
    one data set under one protocol and by one recipe or, for a split and seed, on one labelled set, or have no such
    checkpoint."""
    results = []
    for path in sorted(root.glob(CELLS)):
        summary = read_summary(path)
        if summary["finished"]:
            results.append(_result(path.parent, summary, checkpoint))
    if not results:
        raise UserError(f"{root}: no finished cell of `s4al splits`")
    _refuse_mixed(results, "data", lambda one: (), root)
    _refuse_mixed(results, "protocol", lambda one: (), root)
    _refuse_mixed(results, "labelled_set", lambda one: (one.split, one.seed), root)
    free = ("seed",) if checkpoint == Checkpoint.best_on_val else SEED_KEYS  # the best depend on how often one looks
    refuse_recipes([(one.method, _name(one), one.config) for one in results], root, free)
    return results


def refuse_recipes(cells: Iterable[tuple[str, str, RunConfig]], root: Path, free: Sequence[str] = SEED_KEYS) -> None:
    """UserError where two of `cells` (method, name, configuration) differ in more than `OWN_KEYS`, or two of one method
    in more than their seed and labelled images."""
    firsts: dict[str, tuple[str, RunConfig]] = {}
    for method, name, config in cells:
        for group, own in ((method, ()), ("", OWN_KEYS)):  # "": of all methods
            first, there = firsts.setdefault(group, (name, config))
            if found := recipe_difference(there, config, ("name", "initial.*", *own, *free)):
                raise UserError(
                    f"{root}: {first} and {name} are of two recipes: {found}; another recipe needs another --out"
                )


def _result(cell: Path, summary: Mapping[str, Any], checkpoint: Checkpoint) -> Result:
    config, found = read_recipe(cell / "recipe.yaml")
    last = summary["cycles"][-1]
    accuracy = last if checkpoint == Checkpoint.last else last.get("best_on_val")
    if accuracy is None:
        raise UserError(f"{cell}: kept no best checkpoint; it was run without evaluate.best_on_val=true")
    gpu = found.get("device") == "cuda"
    devices = config.train.workers * (1 if gpu else config.train.threads)
    rates = [row[RATE] for row in latest(cell / "metrics.jsonl") if RATE in row]
    split = cell.parts[-2].replace("_", "/")
    try:
        parse_share(split)
    except UserError as error:
        raise UserError(f"{cell.parents[2]}: not a folder of `s4al splits`: {error}") from None
    return Result(
        method=cell.parts[-3],
        split=split,
        seed=summary["seed"],
        miou=accuracy["miou"],
        class_iou=accuracy["class_iou"],
        hours=sum(row["seconds"]["train"] for row in summary["cycles"]) * devices / 3600,
        images_per_second=median(rates) if rates else None,
        labelled_set=summary["labelled_set"]["sha256"],
        data=found["data"]["sha256"],
        protocol=f"{protocol(config, checkpoint)}, {config.model.backbone},"
        f" hours of {'GPUs' if gpu else 'CPU threads'}",
        config=config,
    )


def _refuse_mixed(results: Sequence[Result], what: str, key: Any, root: Path) -> None:
    found: dict[Any, Result] = {}
    for one in results:
        first = found.setdefault(key(one), one)
        if getattr(one, what) != getattr(first, what):
            raise UserError(f"{root}: {_both(first, one)} differ in {what.replace('_', ' ')}: they can not be compared")


def _both(*two: Result) -> str:
    return " and ".join(map(_name, two))


def _name(one: Result) -> str:
    return f"{one.method} {one.split} seed {one.seed}"


def _by_cell(results: Sequence[Result]) -> Cells:
    cells: dict[tuple[str, str], dict[int, Result]] = defaultdict(dict)
    for one in results:
        cells[one.method, one.split][one.seed] = one
    return cells


def controls(results: Sequence[Result]) -> dict[str, Control | None]:
    """Split -> its control, the splits growing; None where it, or supervision, or a seed of both is not there."""
    cells = _by_cell(results)
    return {split: _control(cells, split) for split in sorted({one.split for one in results}, key=Fraction)}


def _control(cells: Cells, split: str) -> Control | None:
    truth, labels = (cells.get((name, split), {}) for name in (POOL_TRUTH, SUPERVISED))
    return control([100 * (truth[seed].miou - labels[seed].miou) for seed in _judged(cells, split)])


def _judged(cells: Cells, split: str) -> list[int]:
    """Seeds of both the control and supervision."""
    truth, labels = (cells.get((name, split), {}) for name in (POOL_TRUTH, SUPERVISED))
    return [seed for seed in truth if seed in labels]


def table(results: Sequence[Result], against: str) -> list[Row]:
    """Rows in the order of methods' names, then of growing splits; UserError for an unknown row to compare with."""
    cells = _by_cell(results)
    methods = list(dict.fromkeys(method for method, _ in cells))
    if against not in methods:
        raise UserError(f"--against {against}: there are {', '.join(methods)}")
    places = _places(cells, [split for split, found in controls(results).items() if found and found.shows])
    rows = []
    for method, split in sorted(cells, key=lambda cell: (cell[0] != against, cell[0], Fraction(cell[1]))):
        own, other = cells[method, split], cells.get((against, split), {})
        miou = [100 * one.miou for one in own.values()]
        common = [seed for seed in own if seed in other and method != against]
        difference = paired([100 * (own[seed].miou - other[seed].miou) for seed in common])
        rates = [one.images_per_second for one in own.values() if one.images_per_second is not None]
        rows.append(
            Row(
                method,
                split,
                len(own),
                mean(miou),
                stdev(miou) if len(miou) > 1 else None,
                difference.mean if difference else None,
                difference.half_interval if difference else None,
                places.get((method, split)),
                mean(one.hours for one in own.values()),
                mean(rates) if rates else None,
            )
        )
    return rows


def _places(cells: Cells, splits: Sequence[str]) -> dict[tuple[str, str], int]:
    """Of the methods that have all seeds of the control on these splits, by their mean mIoU over those: the mean of
    other seeds would compare seeds, too."""
    places: dict[tuple[str, str], int] = {}
    for split in splits:
        seeds = _judged(cells, split)
        mious = {
            cell: mean(own[seed].miou for seed in seeds)
            for cell, own in cells.items()
            if cell[1] == split and is_method(cell[0]) and own.keys() >= set(seeds)
        }
        places |= {cell: place for place, cell in enumerate(sorted(mious, key=lambda cell: -mious[cell]), 1)}
    return places


def is_method(name: str) -> bool:
    """Supervision and the control are none."""
    return name not in (SUPERVISED, POOL_TRUTH)
