"""`summary.json`: what a run found, derived from its published stages and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import seconds
from orchestrator.folder.shapes import read_summary
from orchestrator.recipe.config import RunConfig
from orchestrator.run.diagnosis import learning_row, pool_row
from querying.base.errors import DamagedError
from querying.base.files import read_json, write_json
from querying.dataset.shards import DataIndex
from querying.labels.ledger import Ledger, shares
from training.fit.validation import MIOU
from training.inference.confusion import Confusion
from training.inference.interval import INTERVAL, ImageCounts
from training.network.checkpoint import META, best_folder

COUNTS, BEST_COUNTS = "confusion.json", "confusion_best_on_val.json"
"""Counts of an evaluation: of the last weights, and of the best on val where they are asked for."""
IMAGES = {COUNTS: "images.json", BEST_COUNTS: "images_best_on_val.json"}
"""Beside them: the counts of every image (`training/inference/interval.py`).  Evaluations of earlier versions have
none."""
SET_KEYS = ("source", "source_sha256", "sha256")
"""What is said of the images of cycle 0 (`orchestrator/run/first_labels.py`) besides their number."""


def cycle_row(layout: RunLayout, ledger: Ledger, index: DataIndex, cycle: int, *, scored: bool) -> dict[str, Any]:
    """One cycle: accuracy on the evaluation split, the labels it was trained on, and the seconds of its stages (those
    of scoring and selection only where `scored` says that they are known to be intact)."""
    evaluation, checkpoint = layout.evaluation(cycle), layout.checkpoint(cycle)
    chosen = {}
    if (evaluation / BEST_COUNTS).exists():
        meta = read_json(best_folder(checkpoint) / META)
        found = {"epoch": meta["epoch"], "val_miou": meta[MIOU]}
        chosen = {"best_on_val": {**_accuracy(evaluation / BEST_COUNTS, index), **found}}
    spent = ledger.spent(cycle)
    train = index.shards("train")
    total_pixels = index.num_pixels("train")
    complete = all(shard.masked == shard.rows for shard in train)
    valid_pixels = total_pixels - sum(shard.void_pixels for shard in train) if complete else None
    stages = {"train": checkpoint, "evaluate": evaluation}
    diagnosis = learning_row(read_json(checkpoint / META)["history"])
    if scored:
        stages |= {"score": layout.scores(cycle), "select": layout.query(cycle)}
        diagnosis |= pool_row(layout.scores(cycle), index.classes)
    return {
        "cycle": cycle,
        **_accuracy(evaluation / COUNTS, index),
        **chosen,
        "labelled_pixels": spent.pixels,
        **shares(spent, ledger.spent(0), total_pixels, valid_pixels),
        "cells": spent.cells,
        "void_pixels": spent.void_pixels,
        **diagnosis,
        "seconds": {name: seconds(folder) for name, folder in stages.items()},
    }


def _accuracy(counts: Path, index: DataIndex) -> dict[str, Any]:
    confusion = Confusion.from_list(read_json(counts)["counts"])
    iou = [None if math.isnan(value) else value for value in confusion.iou().tolist()]
    return {
        "miou": confusion.mean_iou(),
        **interval_row(counts),
        "pixel_accuracy": confusion.pixel_accuracy(),
        "class_iou": dict(zip(index.classes, iou, strict=True)),
    }


def image_counts(counts: Path) -> ImageCounts | None:
    """The counts of every image of the evaluation that wrote `counts`; None of an earlier version's."""
    path = counts.with_name(IMAGES[counts.name])
    return ImageCounts.from_dict(read_json(path)) if path.exists() else None


def interval_row(counts: Path) -> dict[str, float | None]:
    """`INTERVAL` of an evaluation, as far as it has one."""
    images = image_counts(counts)
    return dict(zip(INTERVAL, images.interval() or (None, None), strict=True)) if images else {}


def write_summary(
    layout: RunLayout,
    config: RunConfig,
    cycles: Sequence[dict[str, Any]],
    supervised_miou: float | None,
    *,
    finished: bool,
) -> dict[str, Any]:
    first = read_json(layout.labelled_set) if layout.labelled_set.exists() else {}
    summary = {
        "labelled_set": {**{key: first.get(key) for key in SET_KEYS}, "images": len(first.get("ids", []))},
        "recipe": config.name,
        "seed": config.seed,
        "evaluated_on": config.data.evaluate_on,
        "cycles": list(cycles),
        "supervised_miou": supervised_miou,
        "finished": finished,
    }
    write_json(layout.summary, summary)
    return summary


def known_cycles(layout: RunLayout) -> int:
    """How many cycles the summary lists; none where it is missing or damaged."""
    try:
        return len(read_summary(layout.summary)["cycles"])
    except DamagedError:
        return 0


def flat_numbers(row: dict[str, Any]) -> dict[str, float]:
    """A cycle's row with one level of names, as the record and MLflow want it."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{part}": number for part, number in flat_numbers(value).items()}
        elif isinstance(value, (int, float)) and name != "cycle":
            flat[name] = value
    return flat
