"""Runs of several systems, each with several seeds: what they reached, what they bought, and what that cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby
from pathlib import Path
from statistics import mean

import numpy as np

from benchmarks.results.curves import Curve, Paired, common_range, paired
from benchmarks.results.findings import Findings, find_data, load_findings
from orchestrator.recipe.provenance import SEED_KEYS, recipe_difference
from orchestrator.run.protocol import protocol
from querying.base.errors import UserError
from querying.base.files import read_json
from querying.dataset.label_values import IGNORE
from querying.dataset.shards import decode_label
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid

TRAIN = "(all train pixels)"
"""Stands among the systems' names where class shares are listed; no recipe can be called so."""
NEARLY = 0.95
"""Share of the mIoU with all labels that papers ask the labels for."""


@dataclass(frozen=True)
class Bought:
    """One run's labels: a system's seed."""

    found: Findings

    @cached_property
    def curve(self) -> Curve:
        """A point per cycle; of two with the same labels the later one."""
        points = {row["labelled_fraction"]: row["miou"] for row in self.found.cycles}
        return Curve(list(points), list(points.values()))

    @cached_property
    def grid(self) -> RegionGrid:
        if self.found.recorded:
            height, width, size = map(int, self.found.recorded["grid"].split())
            return RegionGrid(height, width, size)
        meta = read_json(self.found.layout.checkpoint(0) / "meta.json")
        return RegionGrid(meta["height"], meta["width"], self.found.config.query.region_size)

    def cells(self, cycle: int) -> Mapping[str, Sequence[int]]:
        """Image id -> regions that queries bought up to `cycle`; the first images, bought whole, are not among them."""
        if self.found.recorded is None:
            return self.found.ledger.bought(cycle)
        cells: dict[str, list[int]] = {}
        for row in self.found.recorded["cycles"][: cycle + 1]:
            for image_id, regions in row["regions"].items():
                cells.setdefault(image_id, []).extend(map(int, regions.split()))
        return cells

    @property
    def first_images(self) -> int:
        """How many images cycle 0 has bought whole."""
        if self.found.recorded:
            return int(self.found.recorded["images"])
        return len(self.found.ledger.images(0))

    @cached_property
    def clicks(self) -> list[int]:
        """What the labels of each cycle cost in clicks, of that cycle alone (see `segments`)."""
        if self.found.recorded:
            return [row["clicks"] for row in self.found.recorded["cycles"]]
        return [segments(self.found.ledger, row["cycle"], self.grid) for row in self.found.cycles]

    @cached_property
    def class_shares(self) -> dict[str, float]:
        """Shares of the known pixels that queries bought; all 0 where there were none."""
        counts = sum((self.found.bought[row["cycle"]][:-1] for row in self.found.cycles[1:]), np.zeros(1))
        total = counts.sum()
        values = counts / total if total else np.zeros(len(self.found.classes))
        return dict(zip(self.found.classes, map(float, values), strict=True))


@dataclass(frozen=True)
class System:
    name: str
    seeds: Mapping[int, Bought]

    @property
    def runs(self) -> list[Bought]:
        return list(self.seeds.values())

    @property
    def full(self) -> float | None:
        """mIoU with all labels, the mean over the runs that have trained on them; in 0..1."""
        found = [run.found.supervised for run in self.runs if run.found.supervised is not None]
        return mean(found) if found else None


def load_systems(roots: Sequence[Path]) -> list[System]:
    """Runs grouped by the name of their recipe, in the order given.

    UserError where a run is not finished, stands there twice, was not made on the same data and evaluated alike, or has
    another recipe than one of its name.
    """
    systems: dict[str, dict[int, Bought]] = {}
    runs = load_findings(roots)
    for run in runs:
        root = run.layout.root
        if not run.summary["finished"]:
            raise UserError(f"{root}: is not finished")
        for what, key in (("data", data_of), ("evaluation", evaluation_of)):
            if key(run) != key(runs[0]):
                raise UserError(f"{root} and {runs[0].layout.root} differ in their {what}: they can not be compared")
        seeds = systems.setdefault(run.config.name, {})
        first = next((one.found for one in seeds.values()), run)
        if found := recipes_differ(first, run):
            raise UserError(
                f"{first.layout.root} and {root} are both {run.config.name}, but {found}: another system needs a name"
                " of its own (s4al run ... name=NEW)"
            )
        if run.config.seed in seeds:
            other = seeds[run.config.seed].found.layout.root
            raise UserError(f"{root} and {other} are both {run.config.name} with seed {run.config.seed}")
        seeds[run.config.seed] = Bought(run)
    return [System(name, seeds) for name, seeds in systems.items()]


def recipes_differ(there: Findings, here: Findings) -> str:
    """`recipe_difference`, where the encoder's first weights are what they hold, wherever their file was."""
    first, second = (run.provenance.get("first_weights") for run in (there, here))
    if first == second:
        return recipe_difference(there.config, here.config, (*SEED_KEYS, "model.weights"))
    return recipe_difference(there.config, here.config) or "their encoders started from different weights"


def data_of(run: Findings) -> str:
    return str(run.provenance.get("data", {}).get("sha256"))


def evaluation_of(run: Findings) -> str:
    return protocol(run.config)


def areas(systems: Sequence[System]) -> tuple[tuple[float, float] | None, dict[str, dict[int, float]]]:
    """The range of labelled shares that all runs cover, and each run's mean mIoU over it (system -> seed -> value).
    Runs of a single point are left out of both."""
    span = common_range([run.curve for system in systems for run in system.runs])
    if span is None:
        return None, {}
    return span, {
        s.name: {seed: run.curve.area(*span) for seed, run in s.seeds.items() if len(run.curve.shares) > 1}
        for s in systems
    }


def difference(own: Mapping[int, float], other: Mapping[int, float]) -> Paired | None:
    """Over the seeds that both have."""
    return paired([own[seed] - other[seed] for seed in own if seed in other])


def labels_needed(system: System) -> list[float | None]:
    """Per seed, the labelled share that gives NEARLY of the mIoU with all labels (the run's own, or the system's mean);
    None where it was not reached, an empty list where nobody trained on all labels."""
    if system.full is None:
        return []
    return [run.curve.labels_for(NEARLY * (run.found.supervised or system.full)) for run in system.runs]


def overlaps(systems: Sequence[System]) -> dict[tuple[str, str], float]:
    """The mean over common seeds of |A and B| / |A or B| of each pair, in pixels that queries bought up to the last
    cycle that both have.  Pairs without a common seed or without a query are left out."""
    found = {}
    for one, other in combinations(systems, 2):
        values = [overlap(one.seeds[seed], other.seeds[seed]) for seed in one.seeds if seed in other.seeds]
        known = [value for value in values if value is not None]
        if known:
            found[one.name, other.name] = mean(known)
    return found


def overlap(one: Bought, other: Bought) -> float | None:
    cycle = min(one.found.last["cycle"], other.found.last["cycle"])
    return shared(one.cells(cycle), one.grid, other.cells(cycle), other.grid)


def shared(
    first: Mapping[str, Sequence[int]], grid: RegionGrid, second: Mapping[str, Sequence[int]], other: RegionGrid,
    size: Callable[[str], tuple[int, int]] | None = None,
) -> float | None:  # fmt: skip
    """Pixels in regions of both, of those in either, 0..1; None where there is none.  The two grids may differ.  `size`
    is that of an image, None that of the grids: a cell then counts as whole where an image ends in it."""
    both = either = 0
    for image_id in first.keys() | second.keys():
        grids = [one.on(size(image_id)) if size else one for one in (grid, other)]
        a_HW, b_HW = grids[0].mask(first.get(image_id, ())), grids[1].mask(second.get(image_id, ()))
        both += int((a_HW & b_HW).sum())
        either += int((a_HW | b_HW).sum())
    return both / either if either else None


def shares_bought(systems: Sequence[System]) -> dict[str, Mapping[str, float]]:
    """Class shares of what each asking system bought, and of the train split where the data are still there."""
    asking = [system for system in systems if any(run.found.queried_cells for run in system.runs)]
    if not asking:
        return {}
    first = systems[0].runs[0].found
    index, _ = find_data(first)
    shares: dict[str, Mapping[str, float]] = {}
    if index:
        counts = np.sum([shard.class_pixels for shard in index.shards("train")], axis=0)
        shares[TRAIN] = dict(zip(first.classes, counts / counts.sum(), strict=True))
    for system in asking:
        each = [run.class_shares for run in system.runs]
        shares[system.name] = {name: mean(one[name] for one in each) for name in first.classes}
    return shares


def segments(ledger: Ledger, cycle: int, grid: RegionGrid) -> int:
    """Clicks that the labels of a cycle cost where one click names one segment: connected pixels (by their sides) of
    one class, void left out, within what was bought of an image in that cycle."""
    from scipy.ndimage import label

    table = ledger.read(cycle, ["image_id", "region", "label"]).sort_by("image_id")
    cells = zip(table["image_id"].to_pylist(), table["region"].to_pylist(), table["label"], strict=True)
    total = 0
    for _, group in groupby(cells, key=lambda cell: cell[0]):
        label_HW = np.full((grid.height, grid.width), IGNORE, np.uint8)
        for _, region, png in group:
            cell_HW = decode_label(png.as_buffer())  # where images are smaller than the grid, cells may be, too
            rows, columns = grid.box(region)
            label_HW[rows.start :, columns.start :][: cell_HW.shape[0], : cell_HW.shape[1]] = cell_HW
        total += sum(label(label_HW == value)[1] for value in np.unique(label_HW) if value != IGNORE)
    return total
