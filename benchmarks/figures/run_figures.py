"""The report's charts: what each run found, drawn so that it reads in black and white, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from benchmarks.figures.style import DEEP_BLUE, INK, MARKERS, MUTED, RULE, SERIES, STAGES, WIDTH, cycle_look
from benchmarks.results.findings import Findings
from training.inference.interval import INTERVAL

_PART_NAMES = {
    "train/loss": "total",
    "train/ce": "cross entropy, labelled images",
    "train/ce_u": "cross entropy, pool images",
    "train/reco": "ReCo (regional contrast)",
}
NO_LOSS = ("train/lr", "train/images_per_second", "train/waiting_for_data")


@dataclass(frozen=True, slots=True)
class Dots:
    """One series of per-class values in 0..1; None where a class has none."""

    label: str
    colour: str
    marker: str
    values: Mapping[str, float | None]
    mean: float
    hollow: bool = False


def draw_curve(runs: Sequence[Findings]) -> Figure:
    """mIoU against the labelled share of all train pixels, a line per run; a dashed line where all labels lead."""
    figure = Figure((WIDTH, 4.0), layout="constrained")
    axes = figure.add_subplot()
    labels: list[tuple[float, str, str]] = []
    for number, run in enumerate(runs):
        colour, marker = SERIES[number % len(SERIES)], MARKERS[number % len(MARKERS)]
        x = [100 * row["labelled_fraction"] for row in run.cycles]
        y = [100 * row["miou"] for row in run.cycles]
        axes.plot(x, y, color=colour, marker=marker, markersize=6, linewidth=2, zorder=3)
        if len(runs) == 1:
            _whiskers(axes, run.cycles, colour)
        labels.append((y[-1], run.label if len(runs) > 1 else f"{y[-1]:.1f} %", colour))
        if len(runs) == 1:
            _label_points(axes, x, y, colour)
    supervised = _supervised(runs)
    for value, names in supervised.items():
        axes.axhline(value, color=INK, linestyle=(0, (5, 3)), linewidth=1.2)
        axes.axhline(0.95 * value, color=MUTED, linewidth=0.8)
        which = "" if len(supervised) == 1 else f" ({', '.join(names)})"
        labels += [(value, f"all labels: {value:.1f} %{which}", INK), (0.95 * value, f"95 % of it{which}", MUTED)]
    axes.margins(x=0.07, y=0.14)
    axes.autoscale_view()
    _label_right(axes, labels)
    axes.set_xlabel("labelled share of all train pixels (%)")
    axes.set_ylabel(f"mIoU on {runs[0].summary['evaluated_on']} (%)")
    axes.grid(axis="y")
    return figure


def draw_class_iou(classes: Sequence[str], series: Sequence[Dots], absent: frozenset[str], split: str) -> Figure:
    """IoU of every class, a mark per series; the mean is the last row."""
    names = [*classes, "mean"]
    figure = Figure((WIDTH, 0.9 + 0.3 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    shift = min(0.13, 0.5 / len(series))  # marks of equal value stay visible
    for place, name in enumerate(names):
        values = [one.mean if name == "mean" and place == len(classes) else one.values.get(name) for one in series]
        known = [100 * value for value in values if value is not None]
        if len(known) > 1:
            axes.plot([min(known), max(known)], [place, place], color=RULE, linewidth=4, solid_capstyle="round")
        for number, (one, value) in enumerate(zip(series, values, strict=True)):
            if value is not None:
                height = place + shift * (number - (len(series) - 1) / 2)
                axes.plot(100 * value, height, clip_on=False, **_mark(one))
        if name in absent and place < len(classes):
            axes.text(2 if not known else 100, place, f"absent from {split}", color=MUTED, va="center", style="italic",
                      ha="left" if not known else "right")  # fmt: skip
    axes.axhline(len(classes) - 0.5, color=MUTED, linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"IoU on {split} (%)")
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    handles = [Line2D([], [], linestyle="none", label=one.label, **_mark(one)) for one in series]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, handletextpad=0.2, columnspacing=1.4)
    return figure


def draw_training(run: Findings) -> Figure:
    """The parts of the loss over the epochs, a panel per part, a line per cycle."""
    parts = [key for row in run.epochs for key in row if key.startswith("train/")]
    parts = [part for part in dict.fromkeys(parts) if part not in NO_LOSS]
    parts.sort(key=lambda part: part == "train/loss")
    columns = min(2, len(parts)) or 1
    rows = -(-len(parts) // columns) or 1
    figure = Figure((WIDTH, 0.5 + 2.1 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axes, part in zip(panels, parts, strict=False):
        for cycle in dict.fromkeys(row["cycle"] for row in run.epochs):
            points = [(row["epoch"] + 1, row[part]) for row in run.epochs if row["cycle"] == cycle and part in row]
            if points:
                colour, marker = cycle_look(cycle)
                shown = marker if len(points) < 25 else None
                x, y = zip(*points, strict=True)
                axes.plot(x, y, color=colour, marker=shown, markersize=4, linewidth=1.8, label=f"cycle {cycle}")
        axes.set_title(_PART_NAMES.get(part, part.removeprefix("train/")))
        axes.set_ylim(0, 1.08 * max(row[part] for row in run.epochs if part in row) or 1.0)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    for axes in panels[len(parts) :]:
        axes.set_visible(False)
    for axes in panels[-columns:]:
        axes.set_xlabel("epoch")
    if parts:
        handles, labels = panels[len(parts) - 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=min(6, len(labels)), columnspacing=1.4)
    return figure


def draw_stage_times(run: Findings) -> Figure:
    """Wall seconds of every stage, a bar per cycle and one for the fully supervised reference."""
    rows = [(f"cycle {row['cycle']}", row["seconds"]) for row in run.cycles]
    if run.reference:
        rows.append(("all labels", run.reference["seconds"]))
    longest = max(sum(seconds.values()) for _, seconds in rows)
    unit, name = (3600.0, "hours") if longest > 2 * 3600 else (60.0, "minutes") if longest > 180 else (1.0, "seconds")
    figure = Figure((WIDTH, 1.1 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, seconds) in enumerate(rows):
        left = 0.0
        for stage, colour in STAGES.items():
            width = seconds.get(stage, 0.0) / unit
            axes.barh(place, width, 0.62, left, color=colour, label=None if place else stage)
            left += width
        axes.annotate(f"{left:.1f}", (left, place), (5, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), [title for title, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.08 * longest / unit)
    axes.set_xlabel(name)
    axes.tick_params(axis="y", length=0, pad=8)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=len(STAGES), handlelength=1, handleheight=1)
    return figure


def draw_confusion(run: Findings) -> Figure:
    """Row t, column p: the share of true class t that was predicted as p, in the last cycle."""
    counts, classes = run.confusion, run.classes
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    side = min(WIDTH, 2.2 + 0.46 * len(classes))
    figure = Figure((side, side * 0.9), layout="constrained")
    axes = figure.add_subplot()
    for true, predicted in np.ndindex(*counts.shape):
        value = float(share[true, predicted])
        if round(100 * value) == 0:
            continue
        # One colour in growing strength, so that an empty cell has the page's own colour, light or dark.
        axes.add_patch(Rectangle((predicted - 0.5, true - 0.5), 1, 1, color=DEEP_BLUE, alpha=value, linewidth=0))
        colour = "#fefefe" if value > 0.5 else INK
        axes.text(predicted, true, f"{100 * value:.0f}", color=colour, ha="center", va="center", fontsize=8)
    ticks = range(len(classes))
    axes.set_xticks(ticks, classes, rotation=50, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, [f"{name} (absent)" if name in run.absent else name for name in classes])
    axes.set_xlim(-0.5, len(classes) - 0.5)
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    for edge in [place - 0.5 for place in range(len(classes) + 1)]:
        axes.axhline(edge, color=RULE, linewidth=0.6, clip_on=False)
        axes.axvline(edge, color=RULE, linewidth=0.6, clip_on=False)
    axes.spines[:].set_visible(False)
    return figure


def _whiskers(axes: Axes, rows: Sequence[Mapping[str, Any]], colour: str) -> None:
    """The interval of each row's mIoU, where it has one."""
    for row in rows:
        low, high = (row.get(key) for key in INTERVAL)
        if low is not None and high is not None:
            x = 100 * row["labelled_fraction"]
            axes.plot([x, x], [100 * low, 100 * high], color=colour, alpha=0.3, linewidth=5, solid_capstyle="butt")


def _mark(series: Dots) -> dict[str, Any]:
    face = "none" if series.hollow else series.colour
    return {"marker": series.marker, "color": series.colour, "mfc": face, "mew": 1.4, "markersize": 6.5}


def _supervised(runs: Sequence[Findings]) -> dict[float, list[str]]:
    """mIoU (%) of the references and the runs that share each."""
    values: dict[float, list[str]] = {}
    for run in runs:
        if run.supervised is not None:
            values.setdefault(100 * run.supervised, []).append(run.label)
    return values


def _label_points(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    """The value at every point but the last, on the side that the line leaves free."""
    for place in range(len(y) - 1):
        valley = y[place + 1] > y[place] and (place == 0 or y[place - 1] > y[place])
        axes.annotate(f"{y[place]:.1f} %", (x[place], y[place]), (0, -14 if valley else 8), color=colour,
                      textcoords="offset points", ha="center")  # fmt: skip


def _label_right(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Labels at the right edge at the height of what they name, pushed apart where they would overlap."""
    low, high = axes.get_ylim()
    edge, gap = axes.get_xlim()[1], 0.052 * (high - low)
    heights: list[float] = []
    ordered = sorted(labels)
    for height, _, _ in ordered:
        heights.append(max(height, heights[-1] + gap if heights else height))
    for placed, (_, text, colour) in zip(heights, ordered, strict=True):
        axes.text(edge, placed, f"  {text}", color=colour, va="center", fontsize=9)
    axes.set_ylim(low, max(high, heights[-1]))
