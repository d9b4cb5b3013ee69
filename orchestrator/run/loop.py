"""S4AL+ from top to bottom.  Everything distributed is behind `backend`; everything remembered is in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from orchestrator.annotation.annotator import Annotator
from orchestrator.annotation.human import annotator_of
from orchestrator.folder.layout import discard, once, remove_leftovers
from orchestrator.folder.machines import Kinds
from orchestrator.folder.manifest import digest, set_aside
from orchestrator.folder.published import read_query, write_query
from orchestrator.folder.record import Record, epoch_rows, evaluation_key, live_rows
from orchestrator.recipe.keys import deciding
from orchestrator.run.context import RunContext
from orchestrator.run.diagnosis import lost_classes, scoring_key, still_falling
from orchestrator.run.first_labels import labelled_set
from orchestrator.run.inputs import STAGES, stage_inputs, unnoted_settings
from orchestrator.run.next_stage import images_after
from orchestrator.run.stages import Stages, whole_images
from orchestrator.run.summary import cycle_row, flat_numbers, known_cycles, write_summary
from querying.base.arrow_file import unaltered
from querying.dataset.shards import size_of
from querying.labels.ledger import Ledger
from training.inference.interval import INTERVAL


def run(context: RunContext, *, record: Record | None = None, later: int = 0) -> dict[str, Any]:
    """Cycle 0 trains the teacher; every further cycle scores and pseudo-labels the pool, asks, and trains a student.

    Continues from whatever is already published in the layout; returns the summary.  `record` is where its rows go
    beside those of the run that it is the reference of; `later`: how many images other trainings have still to see when
    this run is done.  WaitingForLabels where people must answer first.
    """
    config, layout, ledger, name = context.config, context.layout, context.ledger, context.name
    remove_leftovers(layout.root)
    for line in unnoted_settings(layout):
        context.progress.say(line)
    annotator = annotator_of(
        config, context.index, context.grid, layout, partial=context.part, say=context.progress.say,
        reread=context.reread,
    )  # fmt: skip
    record = record or Record(layout.metrics)
    stages = Stages(context, live=partial(_live, context, record),
                    later=lambda cycle: later + images_after(config, layout, cycle))  # fmt: skip
    publish = partial(_publish, context, Kinds())
    rows, known = list[dict[str, Any]](), known_cycles(layout)

    supervised = _supervised_miou(context, record) if config.stop_at else None
    _buy_first_labels(context, annotator)
    for cycle in range(config.cycles + 1):
        last = cycle == config.cycles or stages.spent_up(cycle)
        checkpoint = publish("train", cycle, partial(stages.train, cycle, last))
        discard(layout.work(cycle))
        record.settle(epoch_rows(checkpoint, name, cycle))

        evaluation = publish("evaluate", cycle, partial(stages.evaluate, cycle))
        rows.append(cycle_row(layout, ledger, context.index, cycle, scored=False))
        if len(rows) > known:  # a summary that says more is not replaced by one that says less
            write_summary(layout, config, rows, supervised, finished=False)
        # After the summary: `s4al verify` misses one that has not what the record has.
        record.log({**evaluation_key(evaluation, name, cycle), **flat_numbers(rows[-1])})
        context.mirror.sync()
        context.progress.say(_headline(name, rows[-1]))
        for line in still_falling(rows[-1], config):
            context.progress.say(f"{name} cycle {cycle}: {line}")

        if last or (supervised and config.stop_at and rows[-1]["miou"] >= config.stop_at * supervised):
            break
        scores = publish("score", cycle, partial(stages.score, cycle))
        select = annotator.asked(cycle) or partial(write_query, partial(stages.select, cycle))
        query = publish("select", cycle, select)
        rows[-1] = cycle_row(layout, ledger, context.index, cycle, scored=True)
        _tell_of_pool(context, record, scores, rows[-1])
        wanted = read_query(query, context.grid.num_regions)
        if not wanted.num_rows and config.query.asked:
            context.progress.say(f"{name}: nothing left to ask (the pool or the budget is exhausted)")
            break
        annotator.ask(cycle, query)
        answers = partial(annotator.annotate, cycle + 1, wanted)
        buy(ledger, cycle + 1, answers, context.progress.say, digest(query, "*.parquet"))

    return write_summary(layout, config, rows, supervised or _supervised_miou(context, record), finished=True)


def _publish(context: RunContext, kinds: Kinds, stage: str, cycle: int, make: Callable[[Path], None]) -> Path:
    """The folder of a stage, made where it is not there or not what the recipe and the labels ask for."""
    made = once(
        context.layout.cycle(cycle) / STAGES[stage],
        make,
        inputs=stage_inputs(context.layout, context.ledger, stage, cycle, context.config.train.start),
        settings=deciding(context.config, cycle),
        say=context.progress.say,
    )
    for line in kinds.look(made):
        context.progress.say(line)
    return made


def _live(context: RunContext, record: Record, cycle: int, inputs: str, history: Sequence[Mapping[str, Any]]) -> None:
    """A training has finished another epoch: the metrics of all so far, and a key of what it is made from."""
    if any([record.log(row) for row in live_rows(history, context.name, cycle, inputs)]):  # noqa: C419  (all are logged)
        context.mirror.sync()


def _tell_of_pool(context: RunContext, record: Record, scores: Path, row: dict[str, Any]) -> None:
    """What the pseudo-labels keep of each class: record it, and warn of classes that vanish."""
    name, cycle = context.name, row["cycle"]
    if counted := row.get("pseudo_labels"):
        record.log({**scoring_key(scores, name, cycle), **flat_numbers({"pseudo_labels": counted})})
        context.mirror.sync()
    for line in lost_classes(row):
        context.progress.say(f"warning: {name} cycle {cycle}: {line}")


def _supervised_miou(context: RunContext, record: Record) -> float | None:
    """Of the run that trains on all labels, where it is asked for."""
    config, layout = context.config, context.layout
    if not config.reference:
        return None
    alone = config.model_copy(update={"reference": False})
    after = images_after(alone, layout, -1) if config.stop_at else 0  # then the reference comes first
    whole = replace(
        context, config=config.as_reference(), layout=layout.reference, name="reference", part=False, reread=None
    )
    miou: float = run(whole, record=record, later=after)["cycles"][-1]["miou"]
    return miou


def _buy_first_labels(context: RunContext, annotator: Annotator) -> None:
    config, layout, ledger, grid = context.config, context.layout, context.ledger, context.grid
    bought = ledger.images(0) if ledger.has(0) and not ledger.problems(0) else None
    first = labelled_set(config, annotator, context.index.num_images("train"), layout.labelled_set, bought)

    def answers() -> Iterator[pa.RecordBatch]:
        context.progress.stage(f"{context.name}: label the first images")
        return annotator.annotate(0, whole_images(first["ids"], grid, size_of(context.index, "train")))

    buy(ledger, 0, answers, context.progress.say)


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
