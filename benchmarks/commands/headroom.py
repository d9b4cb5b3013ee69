"""`s4al headroom`: what a recipe's data, network and schedule can show at all, before anybody ranks methods with it.

Four questions, each with a number: what mIoU the head's resolution allows; whether the network and its training fit a
few images; how well supervised training fits the images that it learns; and whether the true labels of the pool would
have helped.  Where they would not, no pseudo-labels can, and the schedule ranks no semi-supervised methods.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from benchmarks.commands.run import generated, run_command
from benchmarks.commands.splits import seed_numbers
from benchmarks.recipes.catalogue import resolve
from benchmarks.results.control import Control
from orchestrator.choices import HeadroomPart
from orchestrator.folder.layout import RunLayout
from orchestrator.process.terminal import console
from orchestrator.recipe.config import RunConfig
from orchestrator.run.preflight import check_data, check_unattended, with_local_list, with_local_weights
from orchestrator.run.protocol import load_summary
from orchestrator.studies.headroom import SUPERVISED, TRUTH, control, few_images
from querying.base.errors import DamagedError
from querying.base.files import make_folder, read_json, write_json, write_text
from querying.base.storage.place import Place
from querying.dataset.shards import DataIndex, read_truth
from querying.labels.ledger import Ledger
from training.inference.ceiling import averaged_truth, fitted_logits, labels
from training.inference.confusion import Confusion
from training.inference.dry_run import Grid, logit_grid
from training.inference.evaluation import EvaluationTask, ShardEvaluator
from training.inference.predictor import Predictor

Found = dict[str, Any]


def headroom_command(
    recipe: str,
    overrides: list[str],
    data: Place | None,
    out: Path | None,
    backend: str,
    parts: Sequence[HeadroomPart],
    images: int,
    steps: int,
    seeds: str,
) -> None:
    """Answer the questions that `parts` name; every training is an ordinary run folder below `out`, and an answer that
    `out/PART.json` has already for the same question is not looked for again."""
    config, numbers = with_local_list(with_local_weights(resolve(recipe, overrides))), seed_numbers(seeds)
    check_unattended(config)
    out = out or Path("runs") / f"{config.name}.headroom"
    index = DataIndex.load(data or generated(config, out))
    check_data(config, index)
    make_folder(out)

    def trained(variant: RunConfig, name: str) -> RunLayout:
        root = out / name
        asked = out / f"{name}.yaml"
        write_text(asked, variant.to_yaml())
        print(f"headroom: {name} in {root}", flush=True)
        run_command(str(asked), [], index.root, root, backend, None, "none")
        return RunLayout(root)

    makers: dict[HeadroomPart, Callable[[], Found]] = {
        HeadroomPart.ceiling: lambda: ceiling(config, index),
        HeadroomPart.overfit: lambda: overfit(few_images(config, images, steps), index, trained),
        HeadroomPart.control: lambda: pool_control(config, index, numbers, trained),
    }
    for part in parts:
        key = {
            "recipe": config.model_dump(mode="json"), "data": index.digest,
            **({} if part is HeadroomPart.control else {"cells": cells(config, index)}),
            **({"images": images, "steps": steps} if part is HeadroomPart.overfit else {}),
            **({"seeds": numbers} if part is HeadroomPart.control else {}),
        }  # fmt: skip
        known = _known(out / f"{part}.json", key)
        if known is None:
            known = makers[part]()
            write_json(out / f"{part}.json", {"asked": key, "found": known})
        show(part, known, index.classes)


def ceiling(config: RunConfig, index: DataIndex) -> Found:
    """IoU over the evaluated split of the truth itself, averaged to the head's grid and upsampled as logits are."""
    split = config.data.evaluate_on
    confusion = Confusion.empty(index.num_classes)
    for shard in index.shards(split):
        for _, mask_HW in read_truth(index.root, shard):
            if mask_HW is not None:
                confusion += _averaged(torch.from_numpy(mask_HW.copy())[None], index, config)
    return {"split": split, "cells": cells(config, index), **_accuracy(confusion)}


def cells(config: RunConfig, index: DataIndex) -> list[int]:
    """Rows and columns of the logits of an image of the data's size, as the network itself gives them."""
    return list(logit_grid(config.model, (index.height, index.width)).cells)


def overfit(config: RunConfig, index: DataIndex, trained: Callable[[RunConfig, str], RunLayout]) -> Found:
    """Train on a few images without augmentation, dropout or weight decay; IoU on these very images, over their
    classes, beside what logits of the head's grid can give on them."""
    layout = trained(config, "overfit")
    ids = set(Ledger(layout.ledger).images(0))
    masks = _masks(index, ids)
    found = _accuracy(fit(layout, index, config, ids), over_truth=True)
    return {
        "images": sorted(ids),
        "steps": config.train_at(0, last=False).epochs * config.train_at(0, last=False).steps_per_epoch,
        **found,
        "averaged": _accuracy(_summed(_averaged, masks, index, config), over_truth=True),
        "fitted": _accuracy(_summed(_fitted, masks, index, config), over_truth=True),
    }


def pool_control(
    config: RunConfig, index: DataIndex, seeds: Sequence[int], trained: Callable[[RunConfig, str], RunLayout]
) -> Found:
    """Supervised training for as long as the student, and the student with the pool's true labels, for each seed; also
    the fit of the former to the images that it learned."""
    rows = []
    for seed in seeds:
        layouts = {name: trained(control(config, name, seed), f"{name}-seed-{seed}") for name in (SUPERVISED, TRUTH)}
        labelled = set(Ledger(layouts[SUPERVISED].ledger).images(0))
        row: Found = {name: load_summary(layout.root)["cycles"][-1]["miou"] for name, layout in layouts.items()}
        counts = fit(layouts[SUPERVISED], index, config, labelled)
        rows.append({"seed": seed, **row, "fit": _accuracy(counts, over_truth=True)})
    gains = [row[TRUTH] - row[SUPERVISED] for row in rows]
    spread = statistics.stdev(gains) if len(gains) > 1 else None
    return {"seeds": rows, "gain": statistics.fmean(gains), "spread": spread}


def fit(layout: RunLayout, index: DataIndex, config: RunConfig, ids: Collection[str]) -> Confusion:
    """Counts of a run's first network on train images."""
    load = partial(Predictor, layout.checkpoint(0).resolve(), "cpu")
    query = config.query
    evaluator = ShardEvaluator(load, index.num_classes, query.images_at_once, query.threads, config.evaluate)
    confusion = Confusion.empty(index.num_classes)
    for shard in index.shards("train"):
        confusion += Confusion.from_list(evaluator.evaluate_shard(EvaluationTask(index.root, shard, ids)))
    return confusion


def _masks(index: DataIndex, ids: Collection[str]) -> list[torch.Tensor]:
    """The masks (B, H, W) of train images, those of a size together."""
    by_size: dict[tuple[int, ...], list[np.ndarray]] = {}
    for shard in index.shards("train"):
        for _, mask_HW in read_truth(index.root, shard, ids=ids):
            if mask_HW is not None:
                by_size.setdefault(mask_HW.shape, []).append(mask_HW)
    return [torch.from_numpy(np.stack(masks)) for masks in by_size.values()]


def _summed(
    counted: Callable[[torch.Tensor, DataIndex, RunConfig], Confusion],
    masks: Sequence[torch.Tensor],
    index: DataIndex,
    config: RunConfig,
) -> Confusion:
    confusion = Confusion.empty(index.num_classes)
    for truth_BHW in masks:
        confusion += counted(truth_BHW, index, config)
    return confusion


def _averaged(truth_BHW: torch.Tensor, index: DataIndex, config: RunConfig) -> Confusion:
    return _agreement(averaged_truth(truth_BHW, index.num_classes, _grid(truth_BHW, config)), truth_BHW, config)


def _fitted(truth_BHW: torch.Tensor, index: DataIndex, config: RunConfig) -> Confusion:
    grid, aligned = _grid(truth_BHW, config), config.model.align_corners
    return _agreement(fitted_logits(truth_BHW, index.num_classes, grid, aligned), truth_BHW, config)


def _agreement(logits_BChw: torch.Tensor, truth_BHW: torch.Tensor, config: RunConfig) -> Confusion:
    grid = _grid(truth_BHW, config)
    found_BHW = labels(logits_BChw, grid, _size(truth_BHW), config.model.align_corners)
    return Confusion.of(found_BHW, truth_BHW, logits_BChw.shape[1])


def _grid(truth_BHW: torch.Tensor, config: RunConfig) -> Grid:
    return logit_grid(config.model, _size(truth_BHW))


def _size(truth_BHW: torch.Tensor) -> tuple[int, int]:
    height, width = truth_BHW.shape[1:]
    return height, width


def _accuracy(confusion: Confusion, *, over_truth: bool = False) -> Found:
    """mIoU and IoU of each class; with `over_truth` the mean is over the classes that are there, and a class that is
    only predicted by mistake costs those whose pixels it takes."""
    iou_C = confusion.iou()
    counted_C = iou_C[confusion.counts.sum(1) > 0] if over_truth else iou_C
    return {"miou": counted_C.nanmean().item(), "iou": [None if v != v else v for v in iou_C.tolist()]}


def _known(path: Path, asked: Found) -> Found | None:
    if not path.exists():
        return None
    try:
        answer = read_json(path)
    except DamagedError as error:
        print(f"{error}: looked for again", flush=True)
        return None
    found = answer.get("found")
    return found if answer.get("asked") == asked and isinstance(found, dict) else None


def show(part: HeadroomPart, found: Found, classes: Sequence[str]) -> None:
    if part is HeadroomPart.ceiling:
        title = f"IoU % that {'x'.join(map(str, found['cells']))} logits allow, on {found['split']}"
        table = _class_table(title, classes, {"averaged truth": found})
    elif part is HeadroomPart.overfit:
        columns = {"network": found, "best logits": found["fitted"], "averaged truth": found["averaged"]}
        table = _class_table(f"IoU % on {len(found['images'])} images after {found['steps']} steps", classes, columns)
    else:
        table = Table(title="mIoU % with the pool's true labels", title_justify="left")
        for heading in ("seed", "fit to labelled images", "supervised", "pool's true labels", "gain"):
            table.add_column(heading, justify="right")
        for row in found["seeds"]:
            values = (row["fit"]["miou"], row[SUPERVISED], row[TRUTH], row[TRUTH] - row[SUPERVISED])
            table.add_row(str(row["seed"]), *(f"{100 * value:.2f}" for value in values))
    console(100).print(table)
    if part is HeadroomPart.control:
        print(verdict(found))


def verdict(found: Found) -> str:
    """What the control says of the schedule: a sentence."""
    spread = None if found["spread"] is None else 100 * found["spread"]
    return Control(100 * found["gain"], spread, len(found["seeds"])).verdict


def _class_table(title: str, classes: Sequence[str], columns: dict[str, Found]) -> Table:
    """A row per class and their mean first, a column per result."""
    table = Table("class", title=title, title_justify="left")
    for heading in columns:
        table.add_column(heading, justify="right")
    table.add_row("mean", *(f"{100 * found['miou']:.1f}" for found in columns.values()))
    for place, name in enumerate(classes):
        values = [found["iou"][place] for found in columns.values()]
        table.add_row(name, *("-" if value is None else f"{100 * value:.1f}" for value in values))
    return table
