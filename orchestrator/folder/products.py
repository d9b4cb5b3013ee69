"""What a run leaves beside its stages, the exported model and the report; and what lies there that is none of its."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.folder.layout import LOCK, RunLayout
from orchestrator.folder.manifest import digest
from orchestrator.folder.shapes import ModelNote, ReportNote, read_shaped
from querying.base.errors import DamagedError
from querying.base.files import read_json, sha256

REPORT_NOTE = "report.json"
"""Beside `report/`: the SHA-256 of each file in it."""
MODEL_NOTE = "model.json"
"""Beside `model.onnx`: its SHA-256 and the cycle that it comes from."""
_OWN = re.compile(
    r"\.?recipe\.yaml(\.copy)?|metrics\.jsonl|summary\.json|labelled_set\.json|batch_size\.json|backbone\.safetensors|mlflow\.json"
    rf"|model\.(onnx|json)|report(\.json)?|reference|ledger|{LOCK}|cycle-\d{{3,}}|damaged-\d+-.*|\.tmp.*"
)
_OF_CYCLE = re.compile(
    r"checkpoint|evaluation|scores|query|package|answers|training|\w+-[0-9a-f]{8}\.tmp|damaged-\d+-.*|\.tmp.*"
)
_OF_LEDGER = re.compile(r"cycle-\d{3,}\.(parquet|json)|damaged-\d+-.*|\.tmp.*")


def foreign(layout: RunLayout) -> Iterator[str]:
    """A line for each file and folder that is none of a run's: nothing reads it, and `verify` knows nothing of it."""
    places = [(part.root, _OWN) for part in (layout, layout.reference)]
    places += [(part.ledger, _OF_LEDGER) for part in (layout, layout.reference)]
    places += [(path, _OF_CYCLE) for part in (layout, layout.reference) for path in sorted(part.root.glob("cycle-*"))]
    for folder, own in places:
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if not own.fullmatch(path.name):
                yield f"{path}: is none of a run's {'folders' if path.is_dir() else 'files'}; nothing was made from it"
    report = layout.root / "report"
    if report.is_dir() and (layout.root / REPORT_NOTE).exists():
        try:
            noted = read_shaped(layout.root / REPORT_NOTE, ReportNote)
        except DamagedError:  # said already
            return
        for path in sorted(report.iterdir()):
            if path.name not in noted and not path.name.startswith("."):
                yield f"{path}: was not written with the report"


def audit_report(root: Path) -> Iterator[str]:
    note = root / REPORT_NOTE
    if note.exists():
        try:
            for name, digest_ in read_shaped(note, ReportNote).items():
                path = root / "report" / Path(name).name
                if not path.is_file():
                    yield f"{path}: does not exist"
                elif sha256(path) != digest_:
                    yield f"{path}: differs from what was written: s4al report makes it anew"
        except DamagedError as error:
            yield str(error)


def audit_model(layout: RunLayout) -> Iterator[str]:
    onnx, note = layout.root / "model.onnx", layout.root / MODEL_NOTE
    try:
        if onnx.exists() and sha256(onnx) != read_shaped(note, ModelNote)["sha256"]:
            yield f"{onnx}: differs from what was exported"
        elif note.exists() and not onnx.exists():
            yield f"{onnx}: does not exist"
        elif note.exists():
            said = read_shaped(note, ModelNote)
            checkpoint = layout.checkpoint(said["cycle"])
            if checkpoint.exists() and digest(checkpoint, "*.safetensors") != said["checkpoint"]:
                yield f"{onnx}: was exported from other weights than {checkpoint}"
    except DamagedError as error:
        yield str(error)


def exported_from(root: Path, model: Mapping[str, object]) -> bool:
    """Is `model.onnx` there, intact, and the export of this `model` (cycle and digest of its checkpoint)?"""
    try:
        note = read_json(root / MODEL_NOTE)
        return {**model, "sha256": sha256(root / "model.onnx")} == note
    except (DamagedError, OSError):
        return False
