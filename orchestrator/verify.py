"""Is a run what was written, every byte of it?  And what is each stage made from?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from orchestrator.config import read_recipe
from orchestrator.layout import RunLayout
from orchestrator.manifest import digest, problems
from orchestrator.tracking import read_record
from querying.errors import DamagedError, UserError
from querying.files import read_json, sha256
from querying.ledger import Ledger

STAGES = {"train": "checkpoint", "evaluate": "evaluation", "score": "scores", "select": "query"}
"""What a stage does -> the folder of a cycle that it publishes."""
MODEL_NOTE = "model.json"
"""Beside `model.onnx`: its SHA-256 and the cycle that it comes from."""


def stage_inputs(layout: RunLayout, ledger: Ledger, stage: str, cycle: int) -> dict[str, str]:
    """Digests of what a stage of this cycle is made from: where they change, it must be made again."""
    labels = {"labels": ledger.chain(cycle)}
    if stage == "train":
        pseudo = {"pseudo-labels": digest(layout.scores(cycle - 1), "pseudo-*")} if cycle else {}
        weights = {"first weights": sha256(layout.backbone)} if layout.backbone.exists() else {}
        return labels | pseudo | weights
    if stage == "select":
        return labels | {"scores": digest(layout.scores(cycle), "regions-*")}
    model = {"model": digest(layout.checkpoint(cycle), "*.safetensors")}
    return model if stage == "evaluate" else labels | model


def audit_run(layout: RunLayout) -> Iterator[str]:
    """A line for everything in a run folder, its reference included, that is not what was written.

    Not looked at: `report/`, which `s4al report` makes anew, scratch of an unfinished stage, and what was set aside.
    """
    if layout.recipe.exists():  # the reference has its parent's
        yield from _sealed(lambda: read_recipe(layout.recipe))
        yield from _audit_first_weights(layout)
    yield from _audit_cycles(layout)
    for path in (layout.summary, layout.root / "mlflow.json"):
        if path.exists():
            yield from _sealed(partial(read_json, path))
    yield from _sealed(lambda: list(read_record(layout.metrics)))
    yield from _audit_model(layout.root)
    if layout.reference.root.is_dir():
        yield from audit_run(layout.reference)


def _audit_cycles(layout: RunLayout) -> Iterator[str]:
    ledger = Ledger(layout.ledger)
    for cycle in itertools.count():
        folders = {stage: layout.cycle(cycle) / folder for stage, folder in STAGES.items()}
        if not ledger.has(cycle):
            stray = [str(folder) for folder in folders.values() if folder.exists()]
            if stray:
                yield f"{ledger.path(cycle)}: does not exist, although {stray[0]} was made from it"
            return
        yield from ledger.problems(cycle)
        for stage, folder in folders.items():
            if folder.exists():
                try:
                    inputs = stage_inputs(layout, ledger, stage, cycle)
                except DamagedError:  # said where it lies
                    inputs = {}
                yield from problems(folder, inputs)


def _audit_first_weights(layout: RunLayout) -> Iterator[str]:
    try:
        wanted = read_recipe(layout.recipe)[1].get("first_weights")
    except (DamagedError, UserError):  # said already
        return
    if wanted and not layout.backbone.exists():
        yield f"{layout.backbone}: does not exist"
    elif wanted and sha256(layout.backbone) != wanted:
        yield f"{layout.backbone}: not what the run began from"


def _audit_model(root: Path) -> Iterator[str]:
    onnx = root / "model.onnx"
    try:
        if onnx.exists() and sha256(onnx) != read_json(root / MODEL_NOTE)["sha256"]:
            yield f"{onnx}: differs from what was exported"
    except DamagedError as error:
        yield str(error)


def _sealed(read: Callable[[], object]) -> Iterator[str]:
    try:
        read()
    except (DamagedError, UserError) as error:
        yield str(error)


def exported_from(root: Path, model: Mapping[str, object]) -> bool:
    """Is `model.onnx` there, intact, and the export of this `model` (cycle and digest of its checkpoint)?"""
    try:
        note = read_json(root / MODEL_NOTE)
        return {**model, "sha256": sha256(root / "model.onnx")} == note
    except (DamagedError, OSError):
        return False
