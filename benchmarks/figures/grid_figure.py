"""The cells of a grid side by side as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from matplotlib.figure import Figure

from benchmarks.figures.style import MARKERS, SERIES, WIDTH
from benchmarks.results.grid import Row, is_method


def draw_grid(rows: Sequence[Row]) -> Figure:
    """mIoU against the labelled share, a line per method; where every method of the share that most have has a
    place, the best there on top of the legend."""
    methods = list(dict.fromkeys(row.method for row in rows))
    splits = sorted({Fraction(row.split) for row in rows})
    common = max(splits, key=lambda split: sum(Fraction(row.split) == split for row in rows))
    there = {row.method: row for row in rows if Fraction(row.split) == common}
    places = [row.place for name, row in there.items() if is_method(name)]
    ranks = bool(places) and all(places)
    figure = Figure((WIDTH, 4.2), layout="constrained")
    axes = figure.add_subplot()
    if ranks:
        methods.sort(key=lambda method: -there[method].miou if method in there else 0.0)
    for number, method in enumerate(methods):
        own = [row for row in rows if row.method == method]
        beside = 2 ** (0.03 * (number - (len(methods) - 1) / 2))  # else the points of a share would hide each other
        colour, marker = SERIES[number % len(SERIES)], MARKERS[(number + number // len(SERIES)) % len(MARKERS)]
        axes.errorbar(
            [float(Fraction(row.split)) * beside for row in own], [row.miou for row in own],
            yerr=[row.spread or 0.0 for row in own], color=colour, marker=marker, linewidth=2, elinewidth=1.2,
            capsize=3, label=method,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks([float(split) for split in splits], [str(split) for split in splits])
    axes.minorticks_off()
    axes.set_xlabel("share of labelled train images; bars: one sample standard deviation over seeds")
    axes.set_ylabel("mIoU (%)")
    axes.grid(axis="y")
    axes.legend(
        fontsize="small", loc="upper left", bbox_to_anchor=(1, 1), title=f"by mIoU at {common}" if ranks else None
    )
    return figure
