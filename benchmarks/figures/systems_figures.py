"""Systems side by side as figures."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.figures.style import INK, MARKERS, MUTED, SERIES, WIDTH
from benchmarks.results.systems import NEARLY, System, shares_bought


def draw_curves(systems: Sequence[System]) -> Figure:
    """mIoU against labels: mean over seeds at each cycle, a band from the worst to the best seed."""
    figure = Figure((WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, system in enumerate(systems):
        colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
        curves = [run.curve for run in system.runs]
        cycles = min(len(curve.shares) for curve in curves)
        x = [100 * mean(curve.shares[at] for curve in curves) for at in range(cycles)]
        y = [[100 * curve.mious[at] for curve in curves] for at in range(cycles)]
        axes.plot(x, list(map(mean, y)), color=colour, marker=marker, linewidth=2, label=system.name, zorder=3)
        if len(curves) > 1 and cycles > 1:
            axes.fill_between(x, list(map(min, y)), list(map(max, y)), color=colour, alpha=0.15, linewidth=0)
        elif len(curves) > 1:
            axes.vlines(x, min(y[0]), max(y[0]), color=colour, linewidth=1.5)
    fulls = {system.full for system in systems if system.full}
    if len(fulls) == 1:
        [full] = fulls
        axes.axhline(100 * full, color=INK, linestyle=(0, (5, 3)), linewidth=1.2, label="all labels")
        axes.axhline(100 * NEARLY * full, color=MUTED, linewidth=0.8, label=f"{100 * NEARLY:.0f} % of it")
    axes.set_xlabel("labelled share of all train pixels (%)")
    axes.set_ylabel(f"mIoU on {systems[0].runs[0].found.summary['evaluated_on']} (%)")
    axes.grid(axis="y")
    axes.legend(fontsize="small")
    return figure


def draw_bought(systems: Sequence[System]) -> Figure:
    """The classes of what was asked, a dot per system on a logarithmic axis."""
    shares, classes = shares_bought(systems), systems[0].runs[0].found.classes
    figure = Figure((WIDTH, 1.2 + 0.3 * len(classes)), layout="constrained")
    axes = figure.add_subplot()
    rows = np.arange(len(classes))
    looks = {system.name: number for number, system in enumerate(systems)}
    for name, values in shares.items():
        y = [100 * values[one] or np.nan for one in classes]
        number = looks.get(name)
        if number is None:
            axes.scatter(y, rows, marker="|", s=160, color=INK, label=name, zorder=2)
        else:
            axes.scatter(
                y, rows, color=SERIES[number % len(SERIES)], marker=MARKERS[number % len(MARKERS)], label=name, zorder=3
            )
    axes.set_yticks(rows, classes)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("share of the known pixels that queries bought (%)")
    axes.grid(axis="y")
    if shares:
        axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    return figure
