"""Is a run what was written, every byte of it?"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.audit.asked import audit_asked
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import digest, problems
from orchestrator.folder.products import audit_model, audit_report
from orchestrator.folder.recipe_file import read_recipe, recipe_copy
from orchestrator.folder.record import (
    KEY,
    epoch_rows,
    evaluation_key,
    is_live,
    latest_of,
    read_record,
    row_key,
    same_result,
)
from orchestrator.folder.shapes import BatchSize, LabelledSet, TrackingNote, read_shaped, read_summary
from orchestrator.recipe.config import RunConfig
from orchestrator.recipe.keys import MACHINE_KEYS, changed_keys, deciding
from orchestrator.run.diagnosis import POOL_COUNTS, scoring_key
from orchestrator.run.inputs import STAGES, stage_inputs
from querying.base.errors import DamagedError, UserError
from querying.base.files import sha256
from querying.base.redaction import one_line
from querying.labels.ledger import Ledger

T = TypeVar("T")


def audit_run(layout: RunLayout) -> Iterator[str]:
    """A line for everything in a run folder, its reference included, that is not what was written or is missing.

    Hashes first, then the sums (`orchestrator/audit/recount.py`).  Not looked at: scratch of an unfinished stage, what
    was set aside, and a report of an earlier version, which had no hashes.
    """
    recipes: list[tuple[RunConfig, dict[str, Any]] | None] = []
    for file in (layout.recipe, recipe_copy(layout.recipe)):
        try:
            recipes.append(read_recipe(file))
        except DamagedError as error:
            recipes.append(None)
            yield str(error)
    here, copy = recipes
    if here and copy:
        yield from _audit_recipes(layout, here, copy)
    yield from audit_report(layout.root)
    if here:
        yield from _audit_first_weights(layout, here[1].get("first_weights"))
    if (layout.root / "mlflow.json").exists():
        yield from _sealed(partial(read_shaped, layout.root / "mlflow.json", TrackingNote))
    for part in (layout, layout.reference):
        yield from _audit_decisions(part)
    yield from audit_model(layout)
    rows: list[dict[str, Any]] | None = None
    try:
        rows = [row for row in read_record(layout.metrics) if not is_live(row)]
    except DamagedError as error:
        yield str(error)
    from orchestrator.audit.recount import recounted  # loads torch

    expected: list[dict[str, Any]] = []
    configs = (here and here[0], here and here[0].as_reference())
    for (name, part), settings in zip((("main", layout), ("reference", layout.reference)), configs, strict=True):
        recorded = [row for row in rows or [] if row["run"] == name]
        if recorded or part.root.is_dir():
            for found in _readable(part, _audit_cycles(part, name, recorded, settings)):
                if isinstance(found, str):
                    yield found
                else:
                    expected.append(found)
            if settings:
                counted = [row for row in latest_of(rows or []) if row["run"] == name]
                yield from _readable(part, recounted(part, settings, counted, name))
    if rows is not None:
        yield from _audit_record(layout.metrics, rows, expected)


def _readable(layout: RunLayout, found: Iterable[T]) -> Iterator[T | str]:
    """What is found, up to a file whose seal is right and which does not hold what this program writes."""
    try:
        yield from found
    except UserError:  # of another version
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        yield f"{layout.root}: holds what s4al did not write: {type(error).__name__}: {one_line(str(error))[:200]}"


def _audit_cycles(
    layout: RunLayout, name: str, recorded: Sequence[Mapping[str, Any]], config: RunConfig | None
) -> Iterator[str | dict[str, Any]]:
    """Problems of a run's stages, and the keys of the rows that its record must hold.

    What is `recorded` was there: a row is written after its stage, that of an evaluation also after the summary.
    """
    ledger, listed, finished = Ledger(layout.ledger), 0, False
    trained = max((row["cycle"] + 1 for row in recorded), default=0)
    evaluated = max((row["cycle"] + 1 for row in recorded if row["stage"] == "evaluate"), default=0)
    try:
        if evaluated or layout.summary.exists():
            summary = read_summary(layout.summary)
            listed, finished = len(summary["cycles"]), summary["finished"]
            if listed < evaluated:
                yield f"{layout.summary}: lists {listed} of the {evaluated} cycles that the record has"
    except DamagedError as error:
        yield str(error)
    known = max(listed, trained)
    for cycle in itertools.count():
        # Whatever comes later was made from all that comes earlier.
        if ledger.has(cycle + 1) or layout.cycle(cycle + 1).is_dir() or cycle + 1 < known:
            needed = len(STAGES)
        else:
            made = [
                number + 1 for number, folder in enumerate(STAGES.values()) if (layout.cycle(cycle) / folder).exists()
            ]
            noted = 0 if cycle >= known else 2 if cycle < max(listed, evaluated) else 1
            needed = max([*made, noted])
        yield from _audit_labels(layout, ledger, cycle, needed)
        if cycle >= known and not ledger.has(cycle):
            return
        yield from _audit_stages(layout, ledger, cycle, needed, config)
        yield from audit_asked(layout, ledger, cycle, config)
        if cycle < listed:
            with suppress(DamagedError):
                yield from epoch_rows(layout.checkpoint(cycle), name, cycle)
                if finished or cycle + 1 < listed:  # the row of the last one comes after the summary
                    yield evaluation_key(layout.evaluation(cycle), name, cycle)
                    if (layout.scores(cycle) / POOL_COUNTS).exists():
                        yield scoring_key(layout.scores(cycle), name, cycle)


def _audit_labels(layout: RunLayout, ledger: Ledger, cycle: int, needed: int) -> Iterator[str]:
    """Problems of the labels of a cycle that has `needed` stages."""
    if not ledger.has(cycle):
        if needed:
            yield f"{ledger.path(cycle)}: does not exist"
        return
    yield from ledger.problems(cycle)
    with suppress(DamagedError):  # said where it lies
        if cycle and ledger.answers(cycle) not in (None, digest(layout.query(cycle - 1), "*.parquet")):
            yield f"{ledger.path(cycle)}: answers another query than {layout.query(cycle - 1)}"


def _audit_stages(
    layout: RunLayout, ledger: Ledger, cycle: int, needed: int, config: RunConfig | None
) -> Iterator[str]:
    """Problems of the stages of a cycle, of which the first `needed` must be there."""
    for number, (stage, name) in enumerate(STAGES.items()):
        folder = layout.cycle(cycle) / name
        if folder.exists():
            try:
                inputs = stage_inputs(layout, ledger, stage, cycle, config.train.start if config else "imagenet")
            except DamagedError:  # said where it lies
                inputs = {}
            yield from problems(folder, inputs, deciding(config, cycle) if config else None)
        elif number < needed:
            yield f"{folder}: does not exist"


def _audit_record(
    path: Path, rows: Iterable[Mapping[str, Any]], expected: Iterable[Mapping[str, Any]]
) -> Iterator[str]:
    there = {row_key(row): row.get("from") for row in rows}
    missing = [row for row in expected if not same_result(row, there)]
    if missing:
        first = ", ".join(f"{name} {missing[0][name]}" for name in KEY if name in missing[0])
        yield f"{path}: {len(missing)} rows are missing or of another result, the first: {first}"


def _audit_recipes(
    layout: RunLayout, recipe: tuple[RunConfig, dict[str, Any]], copy: tuple[RunConfig, dict[str, Any]]
) -> Iterator[str]:
    """Do recipe and copy say the same?  The copy is written first, and may know of one more change on the way."""
    (config, before), (other, after) = recipe, copy
    drift, grown = before.get("drift", []), len(after.get("drift", [])) > len(before.get("drift", []))
    keys = [key for key, _, _ in changed_keys(config, other) if not (grown and key in MACHINE_KEYS)]
    keys += [key for key in ("id", "first_weights") if before.get(key) != after.get(key)]
    keys += ["drift"] if after.get("drift", [])[: len(drift)] != drift else []
    if keys:
        found = f"contradicts its copy {recipe_copy(layout.recipe)}: {', '.join(keys[:3])}"
        yield f"{layout.recipe}: {found}; the seals of both are right"


def _audit_first_weights(layout: RunLayout, wanted: str | None) -> Iterator[str]:
    if wanted and not layout.backbone.exists():
        yield f"{layout.backbone}: does not exist"
    elif wanted and sha256(layout.backbone) != wanted:
        yield f"{layout.backbone}: not what the run began from"


def _audit_decisions(part: RunLayout) -> Iterator[str]:
    """What is decided once and never again."""
    if part.decided:
        yield from _sealed(partial(read_shaped, part.labelled_set, LabelledSet))
    if part.batch_size.exists():
        yield from _sealed(partial(read_shaped, part.batch_size, BatchSize))


def _sealed(read: Callable[[], object]) -> Iterator[str]:
    try:
        read()
    except DamagedError as error:
        yield str(error)
