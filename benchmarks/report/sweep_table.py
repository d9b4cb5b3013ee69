"""The trials of a sweep as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.figures.sweep_figures import shown
from benchmarks.report.plain_tables import csv_text, markdown_heads, markdown_row
from orchestrator.studies.sweep import FAILED, FINISHED, PRUNED, Sample

LOGGED = ("miou", "labelled_fraction", "seconds")
"""Numbers that are shown of every finished trial, whatever the objective."""


def as_markdown(samples: Sequence[Sample], settings: Mapping[str, Any]) -> str:
    objective, mode = settings["objective"], settings["mode"]
    keys = list(dict.fromkeys(key for one in samples for key in one.values))
    counts = {state: sum(one.state == state for one in samples) for state in (FINISHED, PRUNED, FAILED)}
    head = f"{settings['recipe']['name']}: {len(samples)} trials: "
    head += ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    names = ["trial", "state", objective, "steps", "labelled %", "seconds", *keys]
    lines = [f"{head}; {mode} of {objective} on val, {settings['scheduler']}.", "", *markdown_heads(names)]
    sign = -1 if mode == "max" else 1

    def rank(one: Sample) -> tuple[int, float]:
        value = one.objective(objective)
        return (one.state != FINISHED, sign * value) if value is not None else (2, one.number)

    for one in sorted(samples, key=rank):
        value, labels, seconds = one.objective(objective), *map(one.outcome.get, ("labelled_fraction", "seconds"))
        cells = [
            str(one.number),
            one.state + (f": {one.error}" if one.error else ""),
            "" if value is None else f"{100 * value:.2f} %" if objective == "miou" else f"{value:.4g}",
            f"{one.rows[-1]['step']:.0f}" if one.rows else "",
            "" if labels is None else f"{100 * labels:.2f}",
            "" if seconds is None else f"{seconds:.0f}",
        ]
        lines.append(markdown_row([*cells, *(shown(one.values.get(key, "")) for key in keys)]))
    return "\n".join(lines) + "\n"


def as_csv(samples: Sequence[Sample], objective: str) -> str:
    keys = list(dict.fromkeys(key for one in samples for key in one.values))
    numbers = list(dict.fromkeys((objective, *LOGGED)))
    rows: list[list[object]] = [["trial", "state", *numbers, "last_val_miou", "steps", *keys, "error"]]
    for one in samples:
        last = one.rows[-1] if one.rows else {}
        figures = [one.outcome.get(name, "") for name in numbers]
        values = [one.values.get(key, "") for key in keys]
        rows.append([one.number, one.state, *figures, last.get("miou", ""), last.get("step", ""), *values, one.error])
    return csv_text(rows)
