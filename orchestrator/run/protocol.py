"""What a finished run says of itself: its summary, and how its mIoU was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.choices import Checkpoint
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import is_run
from orchestrator.folder.shapes import read_summary
from orchestrator.recipe.config import RunConfig
from querying.base.errors import UserError


def load_summary(run: Path) -> dict[str, Any]:
    """`summary.json` of a run folder.  UserError where there is none yet, DamagedError where it was altered."""
    path = RunLayout(run).summary
    if not path.exists():
        hint = "no cycle is finished yet" if is_run(run) else "not a run folder"
        raise UserError(f"{run}: {hint} (no summary.json)")
    return read_summary(path)


def protocol(config: RunConfig, checkpoint: Checkpoint = Checkpoint.last) -> str:
    """How a run's mIoU is measured, in words."""
    evaluate, how = config.evaluate, "whole image"
    if evaluate.window:
        how = "windows {}x{} by {}x{}".format(*evaluate.window, *evaluate.strides())
    return f"{how}, {checkpoint.replace('_', ' ')} checkpoint, on {config.data.evaluate_on}"
