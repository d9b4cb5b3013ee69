"""Is a run what was written, every byte of it?  And what is each stage made from?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.layout import RunLayout
from orchestrator.manifest import digest, problems
from orchestrator.recipe_file import read_recipe, recipe_copy
from orchestrator.record import KEY, epoch_rows, evaluation_key, read_record, row_key, same_result
from querying.errors import DamagedError
from querying.files import read_json, sha256
from querying.ledger import Ledger
from querying.settings import EXTRAS

STAGES = {"train": "checkpoint", "evaluate": "evaluation", "score": "scores", "select": "query"}
"""What a stage does -> the folder of a cycle that it publishes."""
MODEL_NOTE = "model.json"
"""Beside `model.onnx`: its SHA-256 and the cycle that it comes from."""


def stage_inputs(layout: RunLayout, ledger: Ledger, stage: str, cycle: int) -> dict[str, str]:
    """Digests of what a stage of this cycle is made from: where they change, it must be made again."""
    labels = {"labels": ledger.chain(cycle)}
    choice = layout.teacher_choice(cycle)
    reliable = {"reliable images": digest(choice)} if choice else {}
    if stage == "train":
        pseudo = {"pseudo-labels": digest(layout.scores(cycle - 1), "pseudo-*")} if cycle else {}
        weights = {"first weights": sha256(layout.backbone)} if layout.backbone.exists() else {}
        return labels | pseudo | reliable | weights
    if stage == "select":
        scores = layout.scores(cycle)
        extras = {kind: digest(scores, f"{kind}-*") for kind in EXTRAS if any(scores.glob(f"{kind}-*"))}
        return labels | {"scores": digest(scores, "regions-*")} | extras
    model = {"model": digest(layout.checkpoint(cycle), "*.safetensors")}
    return model if stage == "evaluate" else labels | model | reliable


def audit_run(layout: RunLayout) -> Iterator[str]:
    """A line for everything in a run folder, its reference included, that is not what was written or is missing.

    Not looked at: `report/`, which `s4al report` makes anew, scratch of an unfinished stage, and what was set aside.
    """
    for file in (layout.recipe, recipe_copy(layout.recipe)):
        yield from _sealed(partial(read_recipe, file))
    yield from _audit_first_weights(layout)
    if (layout.root / "mlflow.json").exists():
        yield from _sealed(partial(read_json, layout.root / "mlflow.json"))
    for part in (layout, layout.reference):
        if part.decided:
            yield from _sealed(partial(read_json, part.labelled_set))
    yield from _audit_model(layout.root)
    expected = list(_audit_cycles(layout, "main"))
    if layout.reference.root.is_dir():
        expected += _audit_cycles(layout.reference, "reference")
    yield from (line for line in expected if isinstance(line, str))
    yield from _audit_record(layout.metrics, [row for row in expected if not isinstance(row, str)])


def _audit_cycles(layout: RunLayout, name: str) -> Iterator[str | dict[str, Any]]:
    """Problems of a run's stages, and the keys of the rows that its record must hold."""
    ledger, listed = Ledger(layout.ledger), 0
    try:
        listed = len(read_json(layout.summary)["cycles"]) if layout.summary.exists() else 0
    except DamagedError as error:
        yield str(error)
    for cycle in itertools.count():
        folders = {stage: layout.cycle(cycle) / folder for stage, folder in STAGES.items()}
        made = [folder.exists() for folder in folders.values()]
        # Whatever comes later was made from all that comes earlier.
        needed = max([number + 1 for number, there in enumerate(made) if there], default=0)
        if ledger.has(cycle + 1) or layout.cycle(cycle + 1).is_dir():
            needed = len(STAGES)
        elif cycle < listed:
            needed = max(needed, 2)
        if not ledger.has(cycle):
            if needed:
                yield f"{ledger.path(cycle)}: does not exist"
            if cycle >= listed:
                return
        else:
            yield from ledger.problems(cycle)
            with suppress(DamagedError):  # said where it lies
                if cycle and ledger.answers(cycle) not in (None, digest(layout.query(cycle - 1), "*.parquet")):
                    yield f"{ledger.path(cycle)}: answers another query than {layout.query(cycle - 1)}"
        for number, (stage, folder) in enumerate(folders.items()):
            if folder.exists():
                try:
                    inputs = stage_inputs(layout, ledger, stage, cycle)
                except DamagedError:  # said where it lies
                    inputs = {}
                yield from problems(folder, inputs)
            elif number < needed:
                yield f"{folder}: does not exist"
        if cycle < listed:
            with suppress(DamagedError):
                yield from epoch_rows(layout.checkpoint(cycle), name, cycle)
                yield evaluation_key(layout.evaluation(cycle), name, cycle)


def _audit_record(path: Path, expected: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    try:
        there = {row_key(row): row.get("from") for row in read_record(path)}
    except DamagedError as error:
        yield str(error)
        return
    missing = [row for row in expected if not same_result(row, there)]
    if missing:
        first = ", ".join(f"{name} {missing[0][name]}" for name in KEY if name in missing[0])
        yield f"{path}: {len(missing)} rows are missing or of another result, the first: {first}"


def _audit_first_weights(layout: RunLayout) -> Iterator[str]:
    try:
        wanted = read_recipe(layout.recipe)[1].get("first_weights")
    except DamagedError:  # said already
        return
    if wanted and not layout.backbone.exists():
        yield f"{layout.backbone}: does not exist"
    elif wanted and sha256(layout.backbone) != wanted:
        yield f"{layout.backbone}: not what the run began from"


def _audit_model(root: Path) -> Iterator[str]:
    onnx, note = root / "model.onnx", root / MODEL_NOTE
    try:
        if onnx.exists() and sha256(onnx) != read_json(note)["sha256"]:
            yield f"{onnx}: differs from what was exported"
        elif note.exists() and not onnx.exists():
            yield f"{onnx}: does not exist"
    except DamagedError as error:
        yield str(error)


def _sealed(read: Callable[[], object]) -> Iterator[str]:
    try:
        read()
    except DamagedError as error:
        yield str(error)


def exported_from(root: Path, model: Mapping[str, object]) -> bool:
    """Is `model.onnx` there, intact, and the export of this `model` (cycle and digest of its checkpoint)?"""
    try:
        note = read_json(root / MODEL_NOTE)
        return {**model, "sha256": sha256(root / "model.onnx")} == note
    except (DamagedError, OSError):
        return False
