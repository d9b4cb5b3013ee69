"""The chain of the paper's Table 1 (CamVid) beside ours: a row per step, paired with the step before it, and what so
few seeds can find at all."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev

from benchmarks.results.curves import Paired, paired
from benchmarks.results.findings import Findings, load_findings
from benchmarks.results.systems import data_of, evaluation_of, recipes_differ
from orchestrator.recipe.config import changed
from querying.base.errors import UserError

RUN = re.compile(r"(?P<row>\w+)-seed(?P<seed>\d+)")
"""Name of a run's folder in a chain."""
DATA = {"camvid": "CamVid", "toy": "generated scenes"}
POWER, LEVEL = 0.8, 0.05


@dataclass(frozen=True, slots=True)
class ChainStep:
    """A row of Table 1."""

    title: str
    before: str | None
    """The row that it adds to."""
    paper: float | None
    """mIoU in % there."""


STEPS = {
    "supervised": ChainStep("10 % supervised", None, 58.42),
    "reco": ChainStep("+ ReCo", "supervised", 60.11),
    "self_training_2_2": ChainStep("+ self-training, 2 + 2 images", "reco", 60.50),
    "self_training": ChainStep("+ self-training", "reco", 60.92),
    "s4al_plus": ChainStep("+ query: S4AL+", "self_training", 61.80),
    "full": ChainStep("all labels", "s4al_plus", None),
}
CHAIN = ("s4al_plus", "supervised")
"""Its two ends."""
FIRST_CYCLE = "reco"
"""The row that every `s4al_plus` goes through before it asks."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Of a row's runs to those of another row with the same seeds, in points of mIoU."""

    to: str
    found: Paired
    findable: float | None
    """The smallest true difference that so many pairs with this spread find with POWER; None below two pairs."""


@dataclass(frozen=True)
class ChainRow:
    name: str
    step: ChainStep
    mious: Mapping[int, float]
    """Seed -> mIoU in % of the last cycle."""
    mean: Paired
    """Of the seeds, with its interval."""
    labelled: float
    """Share of all train pixels, in %."""
    of_full: Paired | None
    """mIoU in % of that with all labels, seed by seed; None without a common seed."""
    difference: Difference | None
    """To the nearest row before it that is there."""


@dataclass(frozen=True)
class Chain:
    rows: Sequence[ChainRow]
    whole: Difference | None
    """Of the chain's ends; None where one is missing, or no seed is common."""
    protocol: str
    images: str
    """Data set and size, as in a sentence."""

    def row(self, name: str) -> ChainRow | None:
        return next((row for row in self.rows if row.name == name), None)


def load_chain(root: Path) -> Chain:
    """The runs in `root` that are called ROW-seedNUMBER.

    The first cycle of `s4al_plus` is a run of `reco` with the same seed, weight for weight; where such a run is not
    there, the row has it from that cycle.

    UserError where there is none, where one is not finished or is called after another seed than its own, where two
    were not made on the same data and evaluated alike, or where two of one row have different recipes.
    """
    named = [(RUN.fullmatch(path.parent.name), path.parent) for path in sorted(root.glob("*/summary.json"))]
    there = [(match["row"], int(match["seed"]), path) for match, path in named if match and match["row"] in STEPS]
    if not there:
        raise UserError(f"{root}: holds no run that is called ROW-seedNUMBER (rows: {', '.join(STEPS)})")
    rows: dict[str, dict[int, Findings]] = {name: {} for name in STEPS}
    runs = [found for _, _, path in there for found in load_findings([path])]
    for (name, seed, path), run in zip(there, runs, strict=True):
        _check(path, seed, run, runs[0])
        rows[name][seed] = run
    for seed, run in rows["s4al_plus"].items():
        rows[FIRST_CYCLE].setdefault(seed, _first_cycle(run))
    for name, seeds in rows.items():
        for first, other in pairwise(seeds.values()):
            if found := recipes_differ(first, other):
                raise UserError(f"{first.layout.root} and {other.layout.root} are both row {name}, but {found}")
    mious = {
        name: {seed: 100 * run.last["miou"] for seed, run in sorted(seeds.items())}
        for name, seeds in rows.items()
        if seeds
    }
    labelled = {name: mean(100 * run.last["labelled_fraction"] for run in rows[name].values()) for name in mious}
    data = runs[0].config.data
    size = f" at {'x'.join(map(str, data.size))}" if data.size else ""
    return Chain(
        [_row(name, mious, labelled[name]) for name in mious],
        difference(mious, *CHAIN) if set(CHAIN) <= set(mious) else None,
        evaluation_of(runs[0]),
        DATA.get(data.dataset or "", data.dataset or "own images") + size,
    )


def _check(path: Path, seed: int, run: Findings, first: Findings) -> None:
    if not run.summary["finished"]:
        raise UserError(f"{path}: is not finished")
    if run.config.seed != seed:
        raise UserError(f"{path}: is a run with seed {run.config.seed}; rename the folder")
    for what, key in (("data", data_of), ("evaluation", evaluation_of)):
        if key(run) != key(first):
            raise UserError(f"{path} and {first.layout.root} differ in their {what}: they can not be compared")


def _first_cycle(run: Findings) -> Findings:
    config = changed(run.config, name=run.config.name.replace("s4al_plus", FIRST_CYCLE), cycles=0)
    return replace(run, config=config, summary={**run.summary, "cycles": run.cycles[:1]})


def _row(name: str, mious: Mapping[str, Mapping[int, float]], labelled: float) -> ChainRow:
    step, own = STEPS[name], mious[name]
    before = step.before
    while before and before not in mious:
        before = STEPS[before].before
    full = mious.get("full", {})
    average = paired(list(own.values()))
    assert average, "a row has a run"
    return ChainRow(
        name, step, own, average, labelled,
        paired([100 * own[seed] / full[seed] for seed in own if seed in full]),
        difference(mious, name, before) if before else None,
    )  # fmt: skip


def difference(mious: Mapping[str, Mapping[int, float]], name: str, to: str) -> Difference | None:
    """None where the two rows have no seed in common."""
    values = [mious[name][seed] - mious[to][seed] for seed in mious[name] if seed in mious[to]]
    found = paired(values)
    if not found:
        return None
    return Difference(to, found, findable(stdev(values), len(values)) if len(values) > 1 else None)


def findable(spread: float, pairs: int, power: float = POWER, level: float = LEVEL) -> float:
    """The smallest true mean difference that a two-sided paired t-test of `pairs` pairs finds with this power, where
    single differences have the standard deviation `spread`.

    With n pairs, t of n - 1 degrees of freedom is noncentral with d sqrt(n) / spread: d is where |t| is above its
    critical value with a probability of `power`.  That probability is an integral over what the sample's own spread may
    be, as a ratio of the true one; scipy's `nct` is NaN at some of the values that are needed.
    """
    from scipy.integrate import quad
    from scipy.optimize import brentq
    from scipy.stats import chi, norm, t

    free = pairs - 1
    critical, root = t.ppf(1 - level / 2, free), math.sqrt(free)

    def missing(shift: float) -> float:
        def found(ratio: float) -> float:
            tails = norm.sf(critical * ratio - shift) + norm.cdf(-critical * ratio - shift)
            return float(tails * chi.pdf(ratio * root, free) * root)

        return power - float(quad(found, 0.0, 1 + 6 / root, limit=200)[0])

    return spread * float(brentq(missing, 0.0, 4 * critical + 4)) / math.sqrt(pairs)
