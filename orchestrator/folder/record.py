"""The record of a run, `metrics.jsonl`: a line per epoch and per cycle, each with a seal."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from orchestrator.folder.manifest import digest, set_aside
from orchestrator.folder.shapes import Row, shaped
from querying.base.errors import DamagedError
from querying.base.files import read_json, sealed, unsealed, write_text

LOG = logging.getLogger(__name__)
KEY = ("run", "cycle", "stage", "epoch")
LIVE = "live-"
"""How `from` begins in a row of a training that is not published yet; what follows says what it is trained on."""


class Record:
    """Append-only JSON lines; a row whose key (run, cycle, stage, epoch) is already there is not written again, unless
    it comes `from` another result: a stage that was made again.  Of several rows with one key the last one counts.

    Rows of a training that goes on are marked (`live_rows`); once it is published, `settle` makes them its rows.  Those
    of one that was killed, and did not come to the same numbers again, stay before the rows that count.

    A record that is not what was written is set aside: the stages hold all of it, and the loop writes it anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.seen = {row_key(row): row.get("from") for row in read_record(path)}
        except DamagedError as error:
            LOG.warning("%s: set aside as %s, writing it anew", error, set_aside(path).name)
            self.seen = {}
        if path.exists():  # a torn last line of a killed driver would otherwise swallow the next row
            text = path.read_bytes()
            if text and not text.endswith(b"\n"):
                with path.open("r+b") as file:
                    file.truncate(text.rfind(b"\n") + 1)

    def log(self, row: Mapping[str, Any]) -> bool:
        """Is it new?"""
        if same_result(row, self.seen):
            return False
        self.seen[row_key(row)] = row.get("from")
        with self.path.open("a") as file:
            file.write(sealed({**row, "time": round(time.time(), 3)}) + "\n")
        return True

    def settle(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The rows of a published training: those that were written while it went on become final, in one rename and
        with their time, so that what copies the record has nothing to copy again; the others are logged."""
        final = {row_key(row): row for row in rows}
        if any(str(self.seen.get(key)).startswith(LIVE) for key in final):
            there: list[Mapping[str, Any]] = list(read_record(self.path))
            for number, row in enumerate(there):
                new = {**final.get(row_key(row), {}), "time": row["time"]}
                if is_live(row) and {**row, "from": new.get("from")} == new:
                    there[number] = new
                    self.seen[row_key(row)] = new["from"]
            write_text(self.path, "".join(f"{sealed(row)}\n" for row in there))
        for row in rows:
            self.log(row)


def read_record(path: Path) -> Iterator[dict[str, Any]]:
    """Complete rows of a `metrics.jsonl`; DamagedError for one that is not what was written."""
    if path.exists():
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    where = path.with_name(f"{path.name}, line {number}")
                    row = unsealed(line, where)
                    shaped(row, Row, where)
                    yield row


def latest(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl` that count, in the order in which their keys appeared."""
    return latest_of(read_record(path))


def latest_of(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({row_key(row): row for row in rows}.values())


def same_result(row: Mapping[str, Any], seen: Mapping[tuple[Any, ...], str | None]) -> bool:
    """Is the row there, and from this result?  Rows of earlier versions do not say what they are from."""
    key = row_key(row)
    return key in seen and seen[key] in (None, row.get("from"))


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a row of the record unique."""
    return tuple(row.get(name) for name in KEY)


def epoch_rows(checkpoint: Path, run: str, cycle: int) -> list[dict[str, Any]]:
    """The training's history as rows of the record."""
    history, made = read_json(checkpoint / "meta.json")["history"], digest(checkpoint, "*.safetensors")[:16]
    return [{"run": run, "cycle": cycle, "stage": "train", "from": made, **row} for row in history]


def live_rows(history: Sequence[Mapping[str, Any]], run: str, cycle: int, inputs: str) -> list[dict[str, Any]]:
    """The epochs so far of a training from these `inputs` (a key), as rows of the record."""
    return [{"run": run, "cycle": cycle, "stage": "train", "from": LIVE + inputs, **row} for row in history]


def is_live(row: Mapping[str, Any]) -> bool:
    """Is it of a training that was not published when it was written?"""
    return str(row.get("from")).startswith(LIVE)


def evaluation_key(evaluation: Path, run: str, cycle: int) -> dict[str, Any]:
    """What says which evaluation a row of the record is about."""
    return {"run": run, "cycle": cycle, "stage": "evaluate", "from": digest(evaluation, "confusion*.json")[:16]}


class Mirror(Protocol):
    """Where the record is copied to."""

    def sync(self) -> None: ...
    def finish(self, artefacts: Path | None, onnx: Path | None) -> None: ...
    def leave(self, status: str) -> None: ...


class NoMirror:
    def sync(self) -> None: ...
    def finish(self, artefacts: Path | None, onnx: Path | None) -> None: ...
    def leave(self, status: str) -> None: ...
