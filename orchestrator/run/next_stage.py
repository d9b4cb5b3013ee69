"""What a run makes next, from its folder and its recipe alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.shapes import read_summary
from orchestrator.recipe.config import RunConfig
from querying.base.errors import DamagedError
from querying.base.files import read_json
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid
from querying.settings import QuerySettings


def next_stage(layout: RunLayout, config: RunConfig) -> str:
    """A stage of a cycle or of the reference, or the report where all of them are there."""
    reference = _reference_stage(layout) if config.reference else None
    if reference and config.stop_at:  # measured before anything else
        return reference
    for cycle in range(config.cycles + 1):
        if cycle and config.query.asked and _is_empty(layout.query(cycle - 1) / "query.parquet"):
            break
        for stage in (layout.checkpoint, layout.evaluation):
            if not stage(cycle).exists():
                return f"{stage(cycle).name} of cycle {cycle}"
        if cycle == config.cycles or _ends_early(layout, config, cycle):
            break
        for stage in (layout.scores, layout.query):
            if not stage(cycle).exists():
                return f"{stage(cycle).name} of cycle {cycle}"
        if config.annotator == "human" and layout.package(cycle).exists() and not Ledger(layout.ledger).has(cycle + 1):
            return f"labels of cycle {cycle + 1}"
    return reference or "the report"


def images_after(config: RunConfig, layout: RunLayout, cycle: int) -> int:
    """How many images the trainings that come after this cycle's see, the reference's included where it is not made."""
    todo = [config.train_at(n, last=n == config.cycles) for n in range(cycle + 1, config.cycles + 1)]
    if config.reference and not layout.reference.checkpoint(0).exists():
        todo.append(config.as_reference().train_at(0, last=True))
    return sum(s.epochs * s.steps_per_epoch * (s.batch_size + s.batch_size_unlabelled) for s in todo)


def pixels_left(config: RunConfig, total: int, spent: int) -> int:
    """What may still be bought, of the budget or of all there is."""
    return max(0, (int(total * config.budget + 1e-6) if config.budget else total) - spent)


def spent_up(query: QuerySettings, grids: Iterable[RegionGrid], left: int) -> bool:
    """Is there too little left for the smallest thing that a query could buy of an image of one of these sizes?"""
    return bool(query.asked) and all(left < _least(query, grid) for grid in grids)


def _least(query: QuerySettings, grid: RegionGrid) -> int:
    areas = grid.areas()
    # The smaller cells, where the size does not divide the image, lie at the border.
    areas = areas[~grid.border() if query.leaves_border_out else areas > 0]
    return int(areas.sum() if query.unit == "image" else areas.min(initial=grid.height * grid.width))


def _reference_stage(layout: RunLayout) -> str | None:
    for folder in (layout.reference.checkpoint(0), layout.reference.evaluation(0)):
        if not folder.exists():
            return f"{folder.name} of the reference"
    return None


def _is_empty(query: Path) -> bool:
    try:
        return not pq.read_metadata(query).num_rows
    except (OSError, pa.ArrowInvalid):  # will be made again
        return False


def _ends_early(layout: RunLayout, config: RunConfig, cycle: int) -> bool:
    """Has this cycle reached `stop_at`, or spent the budget?  As far as the summary tells."""
    try:
        summary, meta = read_summary(layout.summary), read_json(layout.checkpoint(0) / "meta.json")
    except DamagedError:
        return False
    if cycle >= len(summary["cycles"]):
        return False
    row, supervised = summary["cycles"][cycle], summary["supervised_miou"]
    if supervised and config.stop_at and row["miou"] >= config.stop_at * supervised:
        return True
    total = round(row["labelled_pixels"] / row["labelled_fraction"])
    grid = RegionGrid(meta["height"], meta["width"], config.query.region_size)
    grids = {grid.on((height, width)) for height, width in meta.get("shard_sizes", [[grid.height, grid.width]])}
    return spent_up(config.query, grids, pixels_left(config, total, row["labelled_pixels"]))
