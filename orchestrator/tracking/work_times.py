"""When a run was worked on, and which folder it is: what MLflow shows of both, and what a copy must not share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.folder.record import read_record
from querying.base.errors import DamagedError

NOT_WORK = ("mlflow.json", "run.lock", "recipe.yaml", ".recipe.yaml.copy")
"""Files that a start touches."""
Span = list[float | None]
"""When a process began to work and when it ended, in seconds since 1970; None: nobody has seen it end."""


def ended(spans: Sequence[Span], root: Path, now: float) -> list[Span]:
    """The spans, where one that was cut short ended with the last file that it left."""
    return [[begin, end if end is not None else _last_file(root, float(begin or 0), now)] for begin, end in spans]


def seconds(spans: Sequence[Span], now: float) -> float:
    """Seconds of work; what lies between two spans is left out."""
    return sum((now if end is None else end) - float(begin or 0) for begin, end in spans)


def recorded(run: Path) -> list[Span]:
    """When a run was worked on that nobody has timed: from its first row, and what was before that, to its last."""
    with suppress(DamagedError):
        rows = list(read_record(run / "metrics.jsonl"))
        if rows:
            evaluated = next((row for row in rows if row["stage"] == "evaluate"), rows[0])
            return [[min(rows[0]["time"], evaluated["time"] - stage_seconds(evaluated)), rows[-1]["time"]]]
    return []


def began_at(rows: Sequence[Mapping[str, Any]]) -> float:
    """When the first of these rows began, which say when they ended."""
    return min(float(row["time"]) - stage_seconds(row) for row in rows)


def stage_seconds(row: Mapping[str, Any]) -> float:
    """Seconds of the stages that an evaluation's row tells of."""
    return float(sum(value for name, value in row.items() if name.startswith("seconds/")))


def _last_file(root: Path, begin: float, now: float) -> float:
    times = [
        os.stat(Path(folder) / name, follow_symlinks=False).st_mtime
        for folder, _, names in os.walk(root)
        for name in names
        if name not in NOT_WORK
    ]
    return max((time for time in times if begin <= time <= now), default=begin)


def place_of(folder: Path) -> str:
    """What a folder is known by: its inode, which it keeps when it is renamed, and its path, which it keeps when it is
    restored from a backup.  A copy has neither."""
    path = folder.resolve()
    return f"{path.stat().st_ino} {path}"


def same_place(one: str, other: str) -> bool:
    return any(a == b for a, b in zip(one.split(" ", 1), other.split(" ", 1), strict=True))


def goes_on_here(mine: str, noted: str | None, there: str | None) -> bool:
    """May the folder `mine` go on with what MLflow says to belong to `there`, and the folder's own note to `noted`?
    None says nothing: earlier versions noted no place.

    Whoever goes on notes its own place in both, so that a second folder with the same note finds another one there.
    """
    if noted is not None and not same_place(mine, noted):
        return False
    if there in (None, mine, noted):
        return True
    return noted is None and same_place(mine, there or "")
