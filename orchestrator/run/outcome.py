"""What a run has reached so far, from its folder alone: its curve on val, and the figures of its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.shapes import read_summary
from orchestrator.recipe.config import RunConfig
from orchestrator.run.summary import flat_numbers
from querying.base.errors import DamagedError
from querying.base.files import read_json
from training.fit.heartbeat import VALIDATION
from training.fit.validation import MIOU
from training.network.checkpoint import META


def steps_of(config: RunConfig, cycle: int) -> int:
    """Steps of one cycle's training.  Which one is the last is known beforehand but for a budget that ends early."""
    train = config.train_at(cycle, last=cycle == config.cycles)
    return train.epochs * train.steps_per_epoch


def total_steps(config: RunConfig) -> int:
    return sum(steps_of(config, cycle) for cycle in range(config.cycles + 1))


def curve(root: Path, config: RunConfig) -> list[dict[str, float]]:
    """`step` (over all cycles) and `miou` on val of every evaluation so far, in order."""
    layout, rows, before = RunLayout(root), list[dict[str, float]](), 0
    for cycle in range(config.cycles + 1):
        each = config.train_at(cycle, last=cycle == config.cycles).steps_per_epoch
        found = _evaluations(layout, cycle)
        rows += [{"step": before + round((row["epoch"] + 1) * each), "miou": row[MIOU]} for row in found]
        before += steps_of(config, cycle)
    return rows


def _evaluations(layout: RunLayout, cycle: int) -> list[dict[str, Any]]:
    """Evaluations on val of one cycle: of its published training, else of the one that goes on; empty in between."""
    published = layout.checkpoint(cycle) / META
    if published.exists():
        return [row for row in read_json(published)["history"] if MIOU in row]
    try:
        rows: list[dict[str, Any]] = json.loads((layout.work(cycle) / VALIDATION).read_text())
    except FileNotFoundError:
        return []
    return rows


def outcome(root: Path) -> dict[str, float] | None:
    """The numbers of the last cycle and `seconds` of all stages; None where the run is not finished."""
    try:
        summary = read_summary(RunLayout(root).summary)
    except DamagedError:
        return None
    if not summary["finished"]:
        return None
    seconds = sum(sum(row["seconds"].values()) for row in summary["cycles"])
    return {**flat_numbers(summary["cycles"][-1]), "seconds": seconds}
