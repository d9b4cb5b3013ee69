"""A sweep as figures: the best so far, what goes with the objective, and every trial as a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from benchmarks.figures.style import BLUE, INK, MUTED, RULE, WIDTH
from benchmarks.results.sweep import best_so_far, importance, is_number, side_by_side
from orchestrator.studies.sweep import FINISHED, PRUNED, Sample

WIDE = 20
"""An axis whose ends are further apart than this factor is logarithmic."""


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


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
