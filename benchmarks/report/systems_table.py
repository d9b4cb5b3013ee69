"""Systems side by side, as Markdown and CSV: accuracy for labels, their cost, and what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev

import numpy as np

from benchmarks.report.plain_tables import csv_text, markdown_heads, markdown_row
from benchmarks.results.curves import Paired
from benchmarks.results.systems import (
    NEARLY,
    System,
    areas,
    difference,
    evaluation_of,
    labels_needed,
    overlaps,
    shares_bought,
)


def as_markdown(systems: Sequence[System], against: str) -> str:
    parts = [_accuracy(systems, against), _costs(systems), _overlaps(systems), _bought(systems)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _accuracy(systems: Sequence[System], against: str) -> str:
    span, area = areas(systems)
    lines = [
        f"mIoU in % ({evaluation_of(systems[0].runs[0].found)}); mean ± sample standard deviation over seeds."
        " Labelled: share of all train pixels when the last cycle trains."
    ]
    if span:
        lines[0] += (
            f" Area: mean mIoU between {_percent(span[0])} and {_percent(span[1])} % labelled, which all runs cover;"
            f" its difference to `{against}` over common seeds with the 95 % interval and p of Student's paired t-test."
        )
        if out := [f"{s.name} seed {seed}" for s in systems for seed in s.seeds if seed not in area[s.name]]:
            lines[0] += f" Without an area, having a single labelled share: {', '.join(out)}."
    needed = {system.name: _needed(system) for system in systems}
    if any(text.startswith("<=") for text in needed.values()):
        lines[0] += " <=: a first cycle was there already."
    heads = ["system", "seeds", "network", "cycles", "labelled", "mIoU", "of all labels", "area", "difference", "p"]
    lines += ["", *markdown_heads([*heads, f"labelled for {100 * NEARLY:.0f} % of all labels"])]
    for system in systems:
        last = [run.found.last for run in system.runs]
        found = difference(area[system.name], area[against]) if span and system.name != against else None
        lines.append(
            markdown_row(
                [
                    system.name,
                    str(len(last)),
                    " + ".join(dict.fromkeys(run.found.config.model.backbone for run in system.runs)),
                    "/".join(dict.fromkeys(str(row["cycle"]) for row in last)),
                    _percent(mean(row["labelled_fraction"] for row in last)),
                    _spread([row["miou"] for row in last]),
                    _percent(mean(row["miou"] for row in last) / system.full, 1) if system.full else "",
                    _spread(list(area[system.name].values())) if span and area[system.name] else "",
                    _difference(found),
                    "" if found is None or found.p is None else f"{found.p:.2g}",
                    needed[system.name],
                ]
            )
        )
    return "\n".join(lines)


def _costs(systems: Sequence[System]) -> str:
    """Annotation cost of everything, first images included, in three currencies."""
    lines = [
        "Labels bought up to the last cycle, mean over seeds. Clicks: segments (connected pixels of one class) in what"
        " was bought of an image at a time.",
        "",
    ]
    heads = ["system", "whole images", "cells queried", "pixels", "void %", "clicks", "clicks per cell"]
    lines += markdown_heads(heads)
    for system in systems:
        runs, last = system.runs, [run.found.last for run in system.runs]
        queried = mean(run.found.queried_cells for run in runs)
        asked = mean(sum(run.clicks[1:]) for run in runs)
        lines.append(
            markdown_row(
                [
                    system.name,
                    f"{mean(run.first_images for run in runs):,.0f}",
                    f"{queried:,.0f}",
                    f"{mean(row['labelled_pixels'] for row in last):,.0f}",
                    _percent(mean(row["void_pixels"] / row["labelled_pixels"] for row in last)),
                    f"{mean(sum(run.clicks) for run in runs):,.0f}",
                    f"{asked / queried:.2f}" if queried else "",
                ]
            )
        )
    return "\n".join(lines)


def _overlaps(systems: Sequence[System]) -> str:
    found = overlaps(systems)
    if not found:
        return ""
    lines = ["What queries of two systems both bought, in % of what either bought (pixels; same seed; mean).", ""]
    names = [system.name for system in systems if any(system.name in pair for pair in found)]
    lines += markdown_heads(["", *names])
    for one in names:
        values = [found.get((one, other), found.get((other, one))) for other in names]
        lines.append(markdown_row([one, *("" if value is None else _percent(value, 1) for value in values)]))
    return "\n".join(lines)


def _bought(systems: Sequence[System]) -> str:
    shares = shares_bought(systems)
    if not shares:
        return ""
    lines = ["Classes of the known pixels that queries bought, in %.", ""]
    lines += markdown_heads(["class", *shares])
    for name in systems[0].runs[0].found.classes:
        lines.append(markdown_row([name, *(_percent(values[name]) for values in shares.values())]))
    return "\n".join(lines)


def as_csv(systems: Sequence[System]) -> str:
    """A line per run and cycle; in percent but for the counts, clicks of all cycles so far; class IoU at the end."""
    classes = systems[0].runs[0].found.classes
    labels = ["labelled", "labelled_valid", "cells", "pixels", "void", "clicks"]
    iou = [f"iou {name}" for name in classes]
    lines: list[list[object]] = [["system", "seed", "cycle", *labels, "miou", "full_miou", *iou]]
    for system in systems:
        for seed, run in system.seeds.items():
            clicks = np.cumsum(run.clicks)
            for row, so_far in zip(run.found.cycles, clicks, strict=True):
                shares = [_percent(row["labelled_fraction"], 4), _percent(row["labelled_fraction_valid"], 4)]
                accuracy = [_percent(row["miou"], 3), _percent(run.found.supervised, 3)]
                counts = [row["cells"], row["labelled_pixels"], row["void_pixels"], so_far]
                iou = [_percent(row["class_iou"][name], 3) for name in classes]
                lines.append([system.name, seed, row["cycle"], *shares, *counts, *accuracy, *iou])
    return csv_text(lines)


def numbers(systems: Sequence[System]) -> dict[str, float]:
    """The means of the table, for MLflow."""
    span, area = areas(systems)
    found = {f"miou/{s.name}": mean(run.found.last["miou"] for run in s.runs) for s in systems}
    found |= {f"labelled/{s.name}": mean(run.found.last["labelled_fraction"] for run in s.runs) for s in systems}
    if span:
        found |= {f"area/{name}": mean(values.values()) for name, values in area.items() if values}
    return found


def _percent(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def _spread(values: Sequence[float]) -> str:
    return _percent(mean(values)) + (f" ± {100 * stdev(values):.2f}" if len(values) > 1 else "")


def _difference(found: Paired | None) -> str:
    if found is None:
        return ""
    interval = "" if found.half_interval is None else f" ± {100 * found.half_interval:.2f}"
    return f"{100 * found.mean:+z.2f}{interval}"


def _needed(system: System) -> str:
    """The mean where every seed got there, else how many did; <= where a first cycle did, its share being no measure
    of what is needed."""
    shares = labels_needed(system)
    known = [share for share in shares if share is not None]
    if not shares or len(known) < len(shares):
        return f"{len(known)} of {len(shares)} seeds" if shares else ""
    at_once = any(share == run.curve.shares[0] for share, run in zip(shares, system.runs, strict=True))
    return ("<= " if at_once else "") + _spread(known)
