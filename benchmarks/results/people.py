"""What people were asked in a run, and what came back: nothing where the masks came with the data."""

from __future__ import annotations

from pathlib import Path

from orchestrator.annotation.answers import report_now
from orchestrator.annotation.package import read_note
from orchestrator.annotation.report import Report
from orchestrator.annotation.rounds import rounds


def answered(run: Path) -> list[Report]:
    """A report of each round that has become labels.  DamagedError where its package or answers are not what was
    written."""
    return [report_now(one, read_note(one.package), say=lambda line: None) for one in rounds(run) if one.closed]
