"""S4AL+ from top to bottom.  Everything distributed is behind `backend`; everything remembered is in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.annotation.human import annotator_of
from orchestrator.annotation.rounds import Reread
from orchestrator.backends.backend import Backend
from orchestrator.folder.layout import RunLayout, discard, once, sweep
from orchestrator.folder.machines import Kinds
from orchestrator.folder.manifest import digest, set_aside
from orchestrator.folder.published import read_query, write_query
from orchestrator.folder.record import Mirror, Record, epoch_rows, evaluation_key, live_rows
from orchestrator.process.progress import Progress
from orchestrator.recipe.config import RunConfig
from orchestrator.recipe.keys import deciding
from orchestrator.run.diagnosis import lost_classes, scoring_key, still_falling
from orchestrator.run.first_labels import labelled_set
from orchestrator.run.inputs import stage_inputs, unnoted_settings
from orchestrator.run.next_stage import images_after
from orchestrator.run.stages import Stages, whole_images
from orchestrator.run.summary import cycle_row, flat_numbers, known_cycles, write_summary
from querying.base.arrow_file import unaltered
from querying.dataset.shards import DataIndex
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid
from training.inference.interval import INTERVAL


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
    later: int = 0,
    part: bool = False,
    reread: Reread | None = None,
) -> dict[str, Any]:
    """Cycle 0 trains the teacher; every further cycle scores and pseudo-labels the pool, asks, and trains a student.

    Continues from whatever is already published in `layout`; returns the summary.  `later`: how many images other
    trainings have still to see when this run is done.  `part`: where people answer, what they have not answered goes
    back to the pool; `reread` reads what they have handed in once more.  WaitingForLabels where they must answer first.
    """
    sweep(layout.root)
    for line in unnoted_settings(layout):
        progress.say(line)

    def live(cycle: int, inputs: str, history: Sequence[Mapping[str, Any]]) -> None:
        """A training has finished another epoch: the metrics of all so far, and a key of what it is made from."""
        if any([record.log(row) for row in live_rows(history, name, cycle, inputs)]):  # noqa: C419  (all are logged)
            mirror.sync()

    grid = RegionGrid(index.height, index.width, config.query.region_size)
    ledger = Ledger(layout.ledger)
    annotator = annotator_of(config, index, grid, layout, partial=part, say=progress.say, reread=reread)
    stages = Stages(config, index, grid, layout, ledger, backend, progress, name, live=live,
                    later=lambda cycle: later + images_after(config, layout, cycle))  # fmt: skip
    inputs, kinds = partial(stage_inputs, layout, ledger), Kinds()

    def publish(folder: Path, make: Callable[[Path], None], stage: str, cycle: int) -> Path:
        settings = deciding(config, cycle)
        made = once(folder, make, inputs=inputs(stage, cycle), settings=settings, say=progress.say)
        for line in kinds.look(made):
            progress.say(line)
        return made

    rows: list[dict[str, Any]] = []
    known = known_cycles(layout)

    def supervised_miou() -> float | None:
        if not config.reference:
            return None
        whole = config.as_reference()
        alone = config.model_copy(update={"reference": False})
        after = images_after(alone, layout, -1) if config.stop_at else 0  # then the reference comes first
        reference = run(
            whole, index, layout.reference, backend, record, mirror, progress, name="reference", later=after
        )
        miou: float = reference["cycles"][-1]["miou"]
        return miou

    def first_labels() -> Iterator[pa.RecordBatch]:
        progress.stage(f"{name}: label the first images")
        return annotator.annotate(0, whole_images(first["ids"], grid.num_regions if grid.size > 1 else None))

    supervised = supervised_miou() if config.stop_at else None
    bought = ledger.images(0) if ledger.has(0) and not ledger.problems(0) else None
    first = labelled_set(config, annotator, index.num_images("train"), layout.labelled_set, bought)
    buy(ledger, 0, first_labels, progress.say)
    for cycle in range(config.cycles + 1):
        last = cycle == config.cycles or stages.spent_up(cycle)
        checkpoint = publish(layout.checkpoint(cycle), partial(stages.train, cycle, last), "train", cycle)
        discard(layout.work(cycle))
        record.settle(epoch_rows(checkpoint, name, cycle))

        publish(layout.evaluation(cycle), partial(stages.evaluate, cycle), "evaluate", cycle)
        rows.append(cycle_row(layout, ledger, index, cycle, scored=False))
        if len(rows) > known:  # a summary that says more is not replaced by one that says less
            write_summary(layout, config, rows, supervised, finished=False)
        # After the summary: `s4al verify` misses one that has not what the record has.
        record.log({**evaluation_key(layout.evaluation(cycle), name, cycle), **flat_numbers(rows[-1])})
        mirror.sync()
        progress.say(_headline(name, rows[-1]))
        for line in still_falling(rows[-1]):
            progress.say(f"{name} cycle {cycle}: {line}")

        if last or (supervised and config.stop_at and rows[-1]["miou"] >= config.stop_at * supervised):
            break
        publish(layout.scores(cycle), partial(stages.score, cycle), "score", cycle)
        select = annotator.asked(cycle) or partial(write_query, partial(stages.select, cycle))
        query = publish(layout.query(cycle), select, "select", cycle)
        rows[-1] = cycle_row(layout, ledger, index, cycle, scored=True)
        if counted := rows[-1].get("pseudo_labels"):
            numbers = flat_numbers({"pseudo_labels": counted})
            record.log({**scoring_key(layout.scores(cycle), name, cycle), **numbers})
            mirror.sync()
        for line in lost_classes(rows[-1]):
            progress.say(f"warning: {name} cycle {cycle}: {line}")
        wanted = read_query(query, grid.num_regions)
        if not wanted.num_rows and config.query.asked:
            progress.say(f"{name}: nothing left to ask (the pool or the budget is exhausted)")
            break
        annotator.ask(cycle, query)
        answers = partial(annotator.annotate, cycle + 1, wanted)
        buy(ledger, cycle + 1, answers, progress.say, digest(query, "*.parquet"))

    return write_summary(layout, config, rows, supervised or supervised_miou(), finished=True)


def buy(
    ledger: Ledger,
    cycle: int,
    answers: Callable[[], Iterable[pa.RecordBatch]],
    say: Callable[[str], None],
    query: str | None = None,
) -> None:
    """Record the answers to a query, once.  A file of the ledger that is not what was written is answered again."""
    if ledger.has(cycle):
        found = ledger.problems(cycle)
        if not found:
            return
        say(f"{found[0]}: set aside as {set_aside(ledger.path(cycle)).name}, taking the answers again")
    ledger.append(cycle, _unaltered(answers), query)


def _unaltered(answers: Callable[[], Iterable[pa.RecordBatch]]) -> Iterator[pa.RecordBatch]:
    """The answers; after the last of them, and before anything is recorded, DamagedError where the truth was altered
    while they were given."""
    with unaltered():
        yield from answers()


def _headline(name: str, row: dict[str, Any]) -> str:
    low, high = (row.get(key) for key in INTERVAL)
    within = "" if low is None or high is None else f" ({100 * low:.2f} to {100 * high:.2f})"
    return (
        f"{name} cycle {row['cycle']}: mIoU {100 * row['miou']:.2f} %{within} with"
        f" {100 * row['labelled_fraction']:.2f} % of the pixels labelled ({row['seconds']['train']:.0f} s of training)"
    )
