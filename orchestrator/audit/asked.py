"""What people were asked and have answered: is it what was written, and is the ledger made of it?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import numpy as np

from orchestrator.annotation.given import by_annotator, common, rule_of, state_of
from orchestrator.annotation.human import MergedNote
from orchestrator.annotation.imports import REGIONS_FILE, import_folders, rows_of
from orchestrator.annotation.rounds import round_of, was_asked
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import digest, problems
from orchestrator.folder.shapes import read_shaped
from orchestrator.recipe.config import RunConfig
from querying.base.errors import DamagedError
from querying.base.files import sha256
from querying.dataset.codecs import UNREADABLE, decode_label
from querying.labels.ledger import Ledger


def audit_asked(layout: RunLayout, ledger: Ledger, cycle: int, config: RunConfig | None) -> Iterator[str]:
    """A line for each problem of the package and the answers that belong to the query of a cycle."""
    one = round_of(layout, cycle)
    bought = ledger.has(cycle + 1)
    if not was_asked(one):
        if bought and config and config.annotator == "human":
            yield f"{one.package}: does not exist"
        return
    if not one.package.exists():
        yield f"{one.package}: does not exist"
    else:
        inputs = {}
        with suppress(DamagedError):  # said where it lies
            inputs = {"query": digest(layout.query(cycle), "*.parquet")}
        yield from problems(one.package, inputs)
    for folder in import_folders(one.answers):
        yield from problems(folder)
    if bought or one.merged.exists():
        try:
            note = read_shaped(one.merged, MergedNote)
        except DamagedError as error:
            yield str(error)
            return
        missing = [name for name in note["imports"] if not (one.answers / name).is_dir()]
        if missing:
            yield f"{one.answers / missing[0]}: does not exist"
            return
        for name, wanted in note["regions_sha256"].items():
            path = one.answers / name / REGIONS_FILE
            if path.is_file() and sha256(path) != wanted:
                yield f"{path}: is not what has become the labels of cycle {cycle + 1}"
        if bought:
            yield from _compared(layout, ledger, cycle, note["imports"], note["rule"])


def _compared(layout: RunLayout, ledger: Ledger, cycle: int, imports: list[str], rule: str) -> Iterator[str]:
    """Are the labels of the ledger those that people gave?"""
    one = round_of(layout, cycle)
    try:
        rows = [row for name in imports for row in rows_of(one.answers / name / REGIONS_FILE)]
        table = ledger.read(cycle + 1, ["image_id", "region", "label"])
    except DamagedError:  # said where it lies
        return
    cells = by_annotator(rows)
    for image_id, region, label in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        given = cells.get((image_id, region), {})
        try:
            same = state_of(given) == "answered" and np.array_equal(
                common(given.values(), rule_of(rule)), decode_label(label)
            )
        except UNREADABLE:
            same = False
        if not same:
            yield f"{ledger.path(cycle + 1)}: image {image_id}, region {region}: not what {one.answers} holds"
            return
