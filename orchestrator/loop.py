"""S4AL+ from top to bottom.  Everything distributed is behind `backend`; everything remembered is in files."""

from __future__ import annotations

from functools import partial
from typing import Any

import pyarrow.parquet as pq

from orchestrator.config import RunConfig
from orchestrator.layout import RunLayout, discard, once, sweep
from orchestrator.progress import Progress
from orchestrator.stages import Backend, Stages, initial_ids, whole_images, write_query
from orchestrator.summary import cycle_row, epoch_rows, flat_numbers, write_summary
from orchestrator.tracking import Mirror, Record
from querying.ledger import Ledger
from querying.oracle import SimulatedOracle
from querying.regions import RegionGrid
from querying.shards import DataIndex


def run(
    config: RunConfig,
    index: DataIndex,
    layout: RunLayout,
    backend: Backend,
    record: Record,
    mirror: Mirror,
    progress: Progress,
    *,
    name: str = "main",
) -> dict[str, Any]:
    """Cycle 0 trains the teacher; every further cycle scores and pseudo-labels the pool, asks, and trains a student.

    Continues from whatever is already published in `layout`; returns the summary.
    """
    sweep(layout.root)
    grid = RegionGrid(index.height, index.width, config.query.region_size)
    ledger = Ledger(layout.ledger)
    oracle = SimulatedOracle(index, grid)
    stages = Stages(config, index, grid, layout, ledger, backend, progress, name)
    rows: list[dict[str, Any]] = []

    def supervised_miou() -> float | None:
        if not config.reference:
            return None
        whole = config.as_reference()
        reference = run(whole, index, layout.reference, backend, record, mirror, progress, name="reference")
        miou: float = reference["cycles"][-1]["miou"]
        return miou

    supervised = supervised_miou() if config.stop_at else None
    if not ledger.has(0):
        progress.stage(f"{name}: label the first images")
        first = initial_ids(config, oracle.answerable(), index.num_images("train"))
        ledger.append(0, oracle.annotate(0, whole_images(first, grid.num_regions)))

    for cycle in range(config.cycles + 1):
        spent_up = bool(config.query.per_image) and stages.pixels_left(cycle) < grid.areas().min()
        last = cycle == config.cycles or spent_up
        checkpoint = once(layout.checkpoint(cycle), partial(stages.train, cycle, last))
        discard(layout.work(cycle))
        for row in epoch_rows(checkpoint, name, cycle):
            record.log(row)

        once(layout.evaluation(cycle), partial(stages.evaluate, cycle))
        rows.append(cycle_row(layout, ledger, index, cycle))
        record.log({"run": name, "cycle": cycle, "stage": "evaluate", **flat_numbers(rows[-1])})
        write_summary(layout, config, rows, supervised, finished=False)
        mirror.sync()
        progress.say(_headline(name, rows[-1]))

        if last or (supervised and config.stop_at and rows[-1]["miou"] >= config.stop_at * supervised):
            break
        once(layout.scores(cycle), partial(stages.score, cycle))
        query = once(layout.query(cycle), partial(write_query, partial(stages.select, cycle)))
        rows[-1] = cycle_row(layout, ledger, index, cycle)  # now with the seconds of scoring and selection
        wanted = pq.read_table(query / "query.parquet")
        if not wanted.num_rows and config.query.per_image:
            progress.say(f"{name}: nothing left to ask (the pool or the budget is exhausted)")
            break
        if not ledger.has(cycle + 1):
            ledger.append(cycle + 1, oracle.annotate(cycle + 1, wanted))

    return write_summary(layout, config, rows, supervised or supervised_miou(), finished=True)


def _headline(name: str, row: dict[str, Any]) -> str:
    return (
        f"{name} cycle {row['cycle']}: mIoU {100 * row['miou']:.2f} % with {100 * row['labelled_fraction']:.2f} %"
        f" of the pixels labelled ({row['seconds']['train']:.0f} s of training)"
    )
