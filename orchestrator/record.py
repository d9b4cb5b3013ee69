"""The record of a run, `metrics.jsonl`: a line per epoch and per cycle, each with a seal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.manifest import set_aside
from querying.errors import DamagedError
from querying.files import read_json, sealed, unsealed

LOG = logging.getLogger(__name__)
KEY = ("run", "cycle", "stage", "epoch")


class Record:
    """Append-only JSON lines; a row whose key (run, cycle, stage, epoch) is already there is not written again.

    A record that is not what was written is set aside: the stages hold all of it, and the loop writes it anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.seen = {row_key(row) for row in read_record(path)}
        except DamagedError as error:
            LOG.warning("%s: set aside as %s, writing it anew", error, set_aside(path).name)
            self.seen = set()
        if path.exists():  # a torn last line of a killed driver would otherwise swallow the next row
            text = path.read_bytes()
            if text and not text.endswith(b"\n"):
                with path.open("r+b") as file:
                    file.truncate(text.rfind(b"\n") + 1)

    def log(self, row: Mapping[str, Any]) -> None:
        if row_key(row) in self.seen:
            return
        self.seen.add(row_key(row))
        with self.path.open("a") as file:
            file.write(sealed({**row, "time": round(time.time(), 3)}) + "\n")


def read_record(path: Path) -> Iterator[dict[str, Any]]:
    """Complete rows of a `metrics.jsonl`; DamagedError for one that is not what was written."""
    if path.exists():
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield unsealed(line, path.with_name(f"{path.name}, line {number}"))


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a row of the record unique."""
    return tuple(row.get(name) for name in KEY)


def epoch_rows(checkpoint: Path, run: str, cycle: int) -> list[dict[str, Any]]:
    """The training's history as rows of the record."""
    history = read_json(checkpoint / "meta.json")["history"]
    return [{"run": run, "cycle": cycle, "stage": "train", **row} for row in history]
