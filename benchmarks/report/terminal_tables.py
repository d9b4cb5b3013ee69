"""What a run found, as a table on the terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.machines import machine_lines
from orchestrator.folder.recipe_file import read_recipe
from orchestrator.process.terminal import console
from orchestrator.recipe.provenance import drift_lines
from orchestrator.run.protocol import load_summary
from orchestrator.tracking.uri import how_to_see, page
from training.inference.interval import INTERVAL

PLAIN_WIDTH = 10_000
"""Columns where no terminal is: rows are lines there, for `grep` and for logs."""
HEADS = ("cycle", "labelled %", "of non-void %", "cells", "mIoU %", "interval", "of full %", "seconds")


def interval_of(row: Mapping[str, Any]) -> str:
    """The 95 % interval of a row's mIoU in percent, as 46.2-52.1; `-` where there is none."""
    low, high = (row.get(key) for key in INTERVAL)
    return "-" if low is None or high is None else f"{100 * low:.1f}-{100 * high:.1f}"


def about_intervals(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the intervals are, or why there are none; nothing where they were not looked for (an earlier version's)."""
    if not any(INTERVAL[0] in row for row in rows):
        return ""
    if all(row.get(INTERVAL[0], 0) is None for row in rows):
        return "no interval is possible: mIoU is measured on one image"
    return (
        "interval: of 95 %, from 2,000 draws of the evaluated images with replacement; chance of the training (seed) is"
        " not in it"
    )


def outcome_table(
    summary: dict[str, Any], reference: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> Table:
    """`reference`: the row of the fully supervised run, where it is known; `without`: columns that are left out."""
    supervised = summary["supervised_miou"]
    table = Table(
        title=f"{summary['recipe']}, seed {summary['seed']}, on {summary['evaluated_on']}", title_justify="left"
    )
    chosen = ["best on val %"] if any("best_on_val" in row for row in summary["cycles"]) else []
    rows = [_cycle_cells(row, supervised, best=bool(chosen)) for row in summary["cycles"]]
    if supervised:
        rows.append(
            ["full", "100.00", "100.00", "", f"{100 * supervised:.2f}", interval_of(reference or {}),
             *([""] if chosen else []), "100.0", ""]
        )  # fmt: skip
    heads = [*HEADS[:-2], *chosen, *HEADS[-2:]]
    kept = [number for number, head in enumerate(heads) if head not in without]
    for number in kept:
        table.add_column(heads[number], justify="right", no_wrap=heads[number] == "interval")
    for cells in rows:
        table.add_row(*(cells[number] for number in kept))
    return table


def _cycle_cells(row: Mapping[str, Any], supervised: float | None, best: bool) -> list[str]:
    valid = row["labelled_fraction_valid"]
    return [
        str(row["cycle"]),
        f"{100 * row['labelled_fraction']:.2f}",
        "-" if valid is None else f"{100 * valid:.2f}",
        str(row["cells"]),
        f"{100 * row['miou']:.2f}",
        interval_of(row),
        *([f"{100 * row['best_on_val']['miou']:.2f}"] if best else []),
        f"{100 * row['miou'] / supervised:.1f}" if supervised else "-",
        f"{sum(row['seconds'].values()):.0f}",
    ]


def outcome_text(summary: dict[str, Any], reference: Mapping[str, Any] | None, without: Collection[str]) -> str:
    """`outcome_table` as lines for a document, without rules and title."""
    table = outcome_table(summary, reference, without)
    table.title, table.box, table.pad_edge, table.padding = None, None, False, (0, 3, 0, 0)
    out = console(PLAIN_WIDTH)
    with out.capture() as captured:
        out.print(table)
    return "".join(f"{line.rstrip()}\n" for line in captured.get().splitlines())


def print_table(layout: RunLayout) -> None:
    """The cycles of a run, and what their intervals are."""
    summary, there = load_summary(layout.root), layout.reference.summary.exists()
    rows = load_summary(layout.reference.root)["cycles"] if there and summary["supervised_miou"] else []
    console(120).print(outcome_table(summary, rows[-1] if rows else None))
    if said := about_intervals(summary["cycles"]):
        print(said)


def print_outcome(layout: RunLayout, uri: str, report: Path | None) -> None:
    """`report`: the page, where it was made; if not, that has been said."""
    print_table(layout)
    print_drift(layout)
    if report:
        print(f"report:  {report}")
    print_tracking(uri)


def print_tracking(uri: str) -> None:
    """Where to see it in MLflow: the command, or the server, and the page for trainings."""
    if uri != "none":
        print(f"MLflow:  {how_to_see(uri)}")
        if where := page(uri):
            print(f"         {where}")


def print_cells(cells: Sequence[tuple[str, str, float]], title: str) -> None:
    """(method, split, mIoU) of every seed: a row per method, a column per split, mean and sample
    standard deviation (n - 1) over n seeds."""
    splits = list(dict.fromkeys(split for _, split, _ in cells))
    table = Table(title=title, title_justify="left")
    for heading in ("method", *splits):
        table.add_column(heading, justify="left" if heading == "method" else "right")
    for method in dict.fromkeys(method for method, _, _ in cells):
        row = []
        for split in splits:
            found = [100 * miou for m, s, miou in cells if (m, s) == (method, split)]
            spread = f" ± {stdev(found):.2f} (n = {len(found)})" if len(found) > 1 else ""
            row.append(f"{mean(found):.2f}{spread}")
        table.add_row(method, *row)
    console(100).print(table)


def print_drift(layout: RunLayout) -> None:
    for line in (*drift_lines(read_recipe(layout.recipe)[1]), *machine_lines(layout)):
        print(line)
