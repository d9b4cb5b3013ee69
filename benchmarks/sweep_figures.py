"""A sweep as numbers and figures: the best so far, what goes with the objective, and every trial as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.drawing import BLUE, INK, MUTED, RULE, WIDTH
from benchmarks.sweep_record import FINISHED, PRUNED, Sample, best

ENOUGH = 5
"""Trials below which an association says nothing at all."""
WIDE = 20
"""An axis whose ends are further apart than this factor is logarithmic."""


def best_so_far(samples: Sequence[Sample], objective: str, mode: str) -> list[float | None]:
    """After each trial in the order of their numbers, of the finished ones."""
    line: list[float | None] = []
    for count in range(1, len(samples) + 1):
        found = best(samples[:count], objective, mode)
        line.append(found.outcome[objective] if found else None)
    return line


def side_by_side(samples: Sequence[Sample], objective: str) -> tuple[list[tuple[Sample, float]], str]:
    """Trials with a figure that can be compared, and what it is.

    Where a scheduler has stopped some: every trial's mIoU at the last step that all of them have seen.  Else the
    objective of the finished ones.
    """
    curves = [one for one in samples if one.rows and one.state in (FINISHED, PRUNED)]
    if objective == "miou" and any(one.state == PRUNED for one in curves):
        steps = set.intersection(*({row["step"] for row in one.rows} for one in curves))
        if steps:
            at = max(steps)
            values = [next(row["miou"] for row in one.rows if row["step"] == at) for one in curves]
            return list(zip(curves, values, strict=True)), f"mIoU on val at step {at:.0f}, all trials"
    done = [one for one in samples if one.state == FINISHED and objective in one.outcome]
    return [(one, one.outcome[objective]) for one in done], f"{objective} of finished trials"


def importance(samples: Sequence[Sample], objective: str) -> dict[str, float]:
    """How much of the figure of `side_by_side` goes with a key, 0..1: |Spearman's rho| of a number, the correlation
    ratio eta of anything else.  Neither is a cause; with few trials both are large by chance.

    Left out where fewer than five trials had the key or it never changed.
    """
    from scipy.stats import spearmanr

    found: dict[str, float] = {}
    compared, _ = side_by_side(samples, objective)
    for key in dict.fromkeys(key for one, _ in compared for key in one.values):
        having = [(one.values[key], value) for one, value in compared if key in one.values]
        x, y = [value for value, _ in having], np.array([value for _, value in having])
        if len(having) < ENOUGH or len(set(map(str, x))) < 2 or not y.std():
            continue
        if all(is_number(value) for value in x):
            found[key] = abs(float(spearmanr(x, y).statistic))
        else:
            groups = [y[[str(value) == name for value in x]] for name in dict.fromkeys(map(str, x))]
            between = sum(len(group) * (group.mean() - y.mean()) ** 2 for group in groups)
            found[key] = float(np.sqrt(between / ((y - y.mean()) ** 2).sum()))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def figures(samples: Sequence[Sample], settings: Mapping[str, Any]) -> dict[str, Figure]:
    """Those for which there are trials enough."""
    objective, mode = settings["objective"], settings["mode"]
    drawn = {"progress": draw_progress(samples, objective, mode)}
    weights = importance(samples, objective)
    if weights:
        drawn["importance"] = draw_importance(weights, side_by_side(samples, objective)[1])
    done = [one for one in samples if one.objective(objective) is not None]
    if len(done) > 1:
        drawn["parallel"] = draw_parallel(done, objective, mode)
    return drawn


def draw_progress(samples: Sequence[Sample], objective: str, mode: str) -> Figure:
    """Every trial's objective, and the best so far."""
    figure = Figure((WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for state, marker, colour in ((FINISHED, "o", BLUE), (PRUNED, "x", MUTED)):
        dots = [(one.number, value) for one in samples
                if one.state == state and (value := one.objective(objective)) is not None]  # fmt: skip
        if dots:
            axes.scatter(*zip(*dots, strict=True), marker=marker, color=colour, label=state, zorder=3)
    line = best_so_far(samples, objective, mode)
    axes.step(range(len(line)), [np.nan if value is None else value for value in line], where="post", color=INK,
              linewidth=1.2, label="best so far")  # fmt: skip
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(f"{objective} on val")
    axes.grid(axis="y")
    axes.legend(fontsize="small")
    return figure


def draw_importance(weights: Mapping[str, float], of: str) -> Figure:
    figure = Figure((WIDTH, 1.0 + 0.35 * len(weights)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(list(weights), list(weights.values()), color=BLUE)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"association (|rank correlation| or correlation ratio) with {of}")
    return figure


def draw_parallel(samples: Sequence[Sample], objective: str, mode: str) -> Figure:
    """A line per trial through its values, an axis per key, the objective last; the best in colour."""
    keys = list(dict.fromkeys(key for one in samples for key in one.values))
    columns: list[tuple[str, list[Any]]] = [(key, [one.values.get(key) for one in samples]) for key in keys]
    columns.append((objective, [one.objective(objective) for one in samples]))
    places, ticks = zip(*(_places(values) for _, values in columns), strict=True)
    figure = Figure((max(WIDTH, 1.3 * len(columns)), 4.2), layout="constrained")
    axes = figure.add_subplot()
    order = np.argsort([(1 if mode == "max" else -1) * one.objective(objective) for one in samples])  # type: ignore[operator]
    for rank, number in enumerate(order):  # the best is drawn last, on top
        share = (rank + 1) / len(samples)
        y = [column[number] for column in places]
        first = rank == len(samples) - 1
        axes.plot(range(len(columns)), y, color=BLUE if first else MUTED, alpha=1 if first else 0.15 + 0.6 * share,
                  linewidth=2.2 if first else 1, zorder=3 if first else 2, marker="o", markersize=4)  # fmt: skip
    for at, marks in enumerate(ticks):
        axes.axvline(at, color=RULE, linewidth=1, zorder=1)
        for place, word in marks:
            axes.annotate(word, (at, place), (6, 0), textcoords="offset points", fontsize=7.5, va="center", color=INK,
                          bbox={"boxstyle": "square,pad=0.1", "color": "white"}, zorder=4)  # fmt: skip
    axes.set_xticks(range(len(columns)), [name.replace(".", ".\n") for name, _ in columns])
    axes.set_xlim(-0.1, len(columns) - 0.6)
    axes.yaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    return figure


def _places(values: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights in 0..1 (NaN where there is no value), and the marks of the axis."""
    there = [value for value in values if value is not None]
    if all(is_number(value) for value in there) and len(set(there)) > 6:
        logarithmic = min(there) > 0 and max(there) > WIDE * min(there)
        scale, unscale = (np.log, np.exp) if logarithmic else (float, float)
        low, high = scale(min(there)), scale(max(there))
        heights = [np.nan if value is None else (scale(value) - low) / (high - low) for value in values]
        return heights, [(share, shown(float(unscale(low + share * (high - low))))) for share in (0, 0.5, 1)]
    numbers = all(is_number(value) for value in there)
    names = sorted(set(there)) if numbers else sorted({shown(value) for value in there})
    step = {name: at / max(1, len(names) - 1) for at, name in enumerate(names)}
    heights = [np.nan if value is None else step[value if numbers else shown(value)] for value in values]
    return heights, [(place, shown(name)) for name, place in step.items()]


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
