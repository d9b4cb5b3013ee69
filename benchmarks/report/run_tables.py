"""The report's numbers as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report.plain_tables import markdown_cell, markdown_heads, markdown_row
from benchmarks.report.terminal_tables import about_intervals, interval_of
from benchmarks.results.findings import Findings
from orchestrator.recipe.provenance import drift_lines


def percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}"


def as_markdown(runs: Sequence[Findings], failed: Sequence[str]) -> str:
    """The cycles of every run and the IoU of every class, for a README or an issue."""
    lines = [
        "| run | cycle | labelled % | of non-void % | queried of pool % | cells | mIoU % | interval | of full % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in runs:
        for row in run.cycles:
            full = percent(row["miou"] / run.supervised, 1) if run.supervised else "-"
            shares = (row["labelled_fraction"], row["labelled_fraction_valid"], row["queried_fraction_pool"])
            cells = [run.label, str(row["cycle"]), *map(percent, shares), str(row["cells"])]
            lines.append(markdown_row([*cells, percent(row["miou"]), interval_of(row), full]))
        if run.supervised:
            whole = [run.label, "all labels", "100.00", "100.00", "", "", percent(run.supervised), "", "100.0"]
            lines.append(markdown_row(whole))
    if said := about_intervals([run.last for run in runs]):
        lines += ["", said]
    titles = [f"{run.label}, cycle {row['cycle']}" for run in runs for row in run.cycles]
    lines += ["", *markdown_heads(["class IoU %", *titles], numbers=True)]
    for name in runs[0].classes:
        values = [percent(row["class_iou"][name]) for run in runs for row in run.cycles]
        lines.append(markdown_row([name, *values]))
    drift = [
        f"- {markdown_cell(run.label)}: {markdown_cell(line)}" for run in runs for line in drift_lines(run.provenance)
    ]
    notes = drift + [f"- left out: {markdown_cell(line)}" for line in failed]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"
