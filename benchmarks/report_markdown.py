"""The report's numbers as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.findings import Findings
from benchmarks.tables import about_intervals, interval_of
from orchestrator.provenance import drift_lines


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
            cells = [_cell(run.label), str(row["cycle"]), *map(percent, shares), str(row["cells"])]
            lines.append(f"| {' | '.join([*cells, percent(row['miou']), interval_of(row), full])} |")
        if run.supervised:
            lines.append(
                f"| {_cell(run.label)} | all labels | 100.00 | 100.00 | | | {percent(run.supervised)} | | 100.0 |"
            )
    if said := about_intervals([run.last for run in runs]):
        lines += ["", said]
    titles = [f"{_cell(run.label)}, cycle {row['cycle']}" for run in runs for row in run.cycles]
    lines += ["", f"| class IoU % | {' | '.join(titles)} |", f"|---|{'--:|' * len(titles)}"]
    for name in runs[0].classes:
        values = [percent(row["class_iou"][name]) for run in runs for row in run.cycles]
        lines.append(f"| {_cell(name)} | {' | '.join(values)} |")
    drift = [f"- {_cell(run.label)}: {_cell(line)}" for run in runs for line in drift_lines(run.provenance)]
    notes = drift + [f"- left out: {_cell(line)}" for line in failed]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
