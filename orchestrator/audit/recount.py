"""Do the sums of a run agree?  Every number that follows from other files of its folder is worked out again.

Hashes tell that a file is what was written; these tell that what was written is true of the rest.  Outside is what only
the data set or a new training could tell: whether the labels are the oracle's, the weights those of the training.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.audit.differing import differences, readable
from orchestrator.audit.recount_ledger import image_grids, recount_choice, recount_labels, recount_query
from orchestrator.audit.recount_pool import recount_diagnosis, recount_pool
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.record import epoch_rows, evaluation_key, row_key
from orchestrator.folder.shapes import LabelledSet, read_shaped, read_summary
from orchestrator.recipe.config import RunConfig
from orchestrator.run.first_labels import ids_sha256, same_source, source_of
from orchestrator.run.summary import BEST_COUNTS, COUNTS, IMAGES, image_counts, interval_row
from querying.base.errors import DamagedError
from querying.base.files import read_json
from querying.labels.ledger import Ledger, Spent
from querying.labels.regions import RegionGrid
from training.fit.validation import MIOU
from training.inference.confusion import Confusion
from training.inference.interval import INTERVAL
from training.network.checkpoint import META, best_folder

_LEDGER = ("image_id", "region", "cycle", "pixels", "void_pixels", "score", "label")


def recounted(layout: RunLayout, config: RunConfig, rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[str]:
    """A line for each contradiction between ledger, queries, scores, evaluations, checkpoints, summary, and the `rows`
    of the record that are of this run, `main` or `reference`.  What is missing or damaged others say."""
    ledger = Ledger(layout.ledger)
    cycles = _unbroken(ledger)
    yield from _foreign(layout, cycles)
    metas = {cycle: meta for cycle in range(cycles) if (meta := readable(layout.checkpoint(cycle) / META)) is not None}
    for cycle, meta in metas.items():
        yield from _recount_meta(layout, config, cycle, meta, metas[min(metas)])
    if not metas:
        return  # nothing says how large an image is
    first = metas[min(metas)]
    grid = RegionGrid(first["height"], first["width"], config.query.region_size)
    sizes = [(height, width) for height, width in first.get("shard_sizes", [])]
    grids = image_grids(layout, ledger, grid, sizes)
    bought: dict[str, set[int]] = {}
    total = _total(layout, ledger)
    spent: list[Spent] = []
    for cycle in range(cycles):
        try:
            table = ledger.read(cycle, list(_LEDGER))
        except DamagedError:
            return
        yield from recount_labels(ledger, cycle, table, grids, len(first["classes"]), bought)
        if cycle:
            yield from recount_query(layout, config, ledger, cycle, table, grid)
            yield from recount_choice(layout, config, ledger, cycle, grids, total)
        sums = [int(np.sum(table[column].to_numpy())) for column in ("pixels", "void_pixels")]
        spent.append((spent[-1] if spent else Spent()) + Spent(table.num_rows, *sums))
    yield from _recount_summary(layout, config, ledger, first["classes"], spent, rows, name)


def _total(layout: RunLayout, ledger: Ledger) -> int | None:
    """Pixels of the train split, as the summary's first share tells."""
    summary = readable(layout.summary, read_summary)
    share = summary["cycles"][0]["labelled_fraction"] if summary and summary["cycles"] else None
    with suppress(DamagedError):
        return round(ledger.spent(0).pixels / share) if share else None
    return None


def _unbroken(ledger: Ledger) -> int:
    """How many cycles the ledger has without a gap."""
    count = 0
    while ledger.has(count):
        count += 1
    return count


def _foreign(layout: RunLayout, cycles: int) -> Iterator[str]:
    for place in (layout.root, layout.ledger):
        for path in sorted(place.glob("cycle-*")):
            number = re.fullmatch(r"cycle-(\d{3,})(\.parquet)?", path.name)
            if number and int(number[1]) >= max(cycles, 1):
                yield f"{path}: of a cycle that the ledger does not come to"


def _recount_meta(
    layout: RunLayout, config: RunConfig, cycle: int, meta: Mapping[str, Any], first: Mapping[str, Any]
) -> Iterator[str]:
    where, model = layout.checkpoint(cycle) / META, config.model.model_dump(mode="json")
    said = {**{f"model.{key}": value for key, value in meta.get("model", {}).items() if key in model}}
    wanted: dict[str, Any] = {f"model.{key}": model[key] for key in meta.get("model", {}) if key in model}
    for key, value in (
        ("seed", config.seed),
        ("cycle", cycle),
        *((k, first.get(k)) for k in ("classes", "height", "width", "shard_sizes")),
    ):
        said[key], wanted[key] = meta.get(key), value
    for key, value in wanted.items():
        if said[key] != value:
            yield f"{where}: {key} is {said[key]!r}, where the run has {value!r}"
            return


def _recount_summary(
    layout: RunLayout, config: RunConfig, ledger: Ledger, classes: Sequence[str], spent: Sequence[Spent],
    rows: Sequence[Mapping[str, Any]], name: str,
) -> Iterator[str]:  # fmt: skip
    summary = readable(layout.summary, read_summary)
    if summary is None:
        return
    where = layout.summary
    wanted: dict[str, Any] = {"recipe": config.name, "seed": config.seed, "evaluated_on": config.data.evaluate_on}
    yield from differences(str(where), summary, wanted)
    yield from _recount_first(layout, config, ledger, summary)
    if name == "main" and config.reference and (summary.get("supervised_miou") is not None or summary["finished"]):
        reference = readable(layout.reference.summary, read_summary)
        if reference is None:
            yield f"{layout.reference.summary}: does not exist, although the recipe asks for a reference"
        else:
            wanted = {"supervised_miou": reference["cycles"][-1]["miou"]}
            yield from differences(str(where), summary, wanted)
    totals: dict[str, set[int]] = {"pixels": set(), "pixels that are not void": set()}
    yield from _recount_history(layout, rows, name)
    for number, row in enumerate(summary["cycles"][: len(spent)]):
        yield from _recount_images(layout.evaluation(number))
        found = dict(_expected(layout, config, classes, number, spent, row, totals))
        yield from differences(f"{where}: cycle {number}", row, found)
        yield from recount_pool(layout.scores(number), classes)
        later = number + 1 < len(summary["cycles"])
        yield from recount_diagnosis(layout, classes, number, row, rows, name, later=later)
        for recorded in rows:
            if (recorded["stage"], recorded["cycle"]) == ("evaluate", number):
                with suppress(DamagedError):
                    if recorded.get("from") in (None, evaluation_key(layout.evaluation(number), name, number)["from"]):
                        flat = {key: value for key, value in found.items() if not isinstance(value, dict)}
                        flat |= {f"class_iou/{k}": v for k, v in found.get("class_iou", {}).items() if v is not None}
                        # An evaluation that a later version makes again with the same counts has an interval; its row,
                        # written before, has none.
                        flat = {
                            key: value
                            for key, value in flat.items()
                            if value is not None and (key not in INTERVAL or key in recorded)
                        }
                        yield from differences(f"{layout.metrics}: {name} cycle {number}", recorded, flat)
    for what, found_in in totals.items():
        if len(found_in) > 1:
            yield f"{where}: its cycles are shares of {' and of '.join(map(str, sorted(found_in)))} {what}"


def _expected(
    layout: RunLayout, config: RunConfig, classes: Sequence[str], cycle: int, spent: Sequence[Spent],
    row: Mapping[str, Any], totals: dict[str, set[int]],
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """What a cycle's row must say; the pixels that its share is of are added to `totals`."""
    yield from (("cycle", cycle), ("labelled_pixels", spent[cycle].pixels), ("cells", spent[cycle].cells))
    yield "void_pixels", spent[cycle].void_pixels
    share = row.get("labelled_fraction")
    if isinstance(share, float) and 0 < share <= 1:
        totals["pixels"].add(total := round(spent[cycle].pixels / share))
        pool = total - spent[0].pixels
        yield "labelled_fraction", spent[cycle].pixels / total
        yield "queried_fraction_pool", (spent[cycle].pixels - spent[0].pixels) / pool if pool else 0.0
    valid, known = row.get("labelled_fraction_valid"), spent[cycle].pixels - spent[cycle].void_pixels
    if isinstance(valid, float) and valid > 0:
        totals["pixels that are not void"].add(of := max(1, round(known / valid)))
        yield "labelled_fraction_valid", known / of
    for file, key in ((COUNTS, None), (BEST_COUNTS, "best_on_val")):
        counts = readable(layout.evaluation(cycle) / file)
        if counts is None:
            continue
        if counts.get("split") != config.data.evaluate_on:
            yield "evaluated_on", counts.get("split")
        confusion = Confusion.from_list(counts["counts"])
        iou = [None if math.isnan(value) else value for value in confusion.iou().tolist()]
        found: dict[str, Any] = {"miou": confusion.mean_iou(), "pixel_accuracy": confusion.pixel_accuracy()}
        with suppress(DamagedError):  # said where it lies
            found |= interval_row(layout.evaluation(cycle) / file)
        found["class_iou"] = dict(zip(classes, iou, strict=True))
        if key:
            with suppress(DamagedError):
                meta = read_json(best_folder(layout.checkpoint(cycle)) / META)
                found |= {"epoch": meta["epoch"], "val_miou": meta[MIOU]}
        yield from found.items() if key is None else [(key, found)]


def _recount_history(layout: RunLayout, rows: Sequence[Mapping[str, Any]], name: str) -> Iterator[str]:
    """Does the record say of each epoch what the checkpoint that it is from says?"""
    for cycle in sorted({row["cycle"] for row in rows if row["stage"] == "train"}):
        with suppress(DamagedError):  # said where it lies
            made = {row_key(row): row for row in epoch_rows(layout.checkpoint(cycle), name, cycle)}
            for row in rows:
                of = made.get(row_key(row))
                if of and row.get("from") in (None, of["from"]):
                    wanted = {key: value for key, value in of.items() if key != "from"}
                    yield from differences(f"{layout.metrics}: {name} cycle {cycle}, epoch {row['epoch']}", row, wanted)


def _recount_images(evaluation: Path) -> Iterator[str]:
    """Do the counts of the images add up to those of the split?"""
    for file, of_images in IMAGES.items():
        with suppress(DamagedError):  # said where it lies
            found = image_counts(evaluation / file)
            if found and not found.adds_up_to(Confusion.from_list(read_json(evaluation / file)["counts"])):
                yield f"{evaluation / of_images}: does not add up to {file}"


def _recount_first(layout: RunLayout, config: RunConfig, ledger: Ledger, summary: Mapping[str, Any]) -> Iterator[str]:
    """The images of cycle 0: as decided for this recipe, as bought, as the summary counts them."""
    first = readable(layout.labelled_set, partial(read_shaped, shape=LabelledSet))
    if first is None:
        return
    if not same_source(first["source"], config):
        yield f"{layout.labelled_set}: {first['source']}, where the recipe says: {source_of(config)}"
    with suppress(DamagedError):
        if sorted(ledger.images(0)) != sorted(first["ids"]) or ids_sha256(first["ids"]) != first["sha256"]:
            yield f"{layout.labelled_set}: names other images than {ledger.path(0)} has, or their hash is another"
    said = summary.get("labelled_set")  # not in that of the first versions
    if said and (said.get("images"), said.get("sha256")) != (len(first["ids"]), first["sha256"]):
        yield f"{layout.summary}: its labelled_set is not that of {layout.labelled_set}"
