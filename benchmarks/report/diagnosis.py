"""What the report says of a run's pseudo-labels and of the end of its trainings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.report.parts import Parts
from benchmarks.results.findings import Findings
from orchestrator.run.diagnosis import learning_row, lost_classes, pool_counts
from querying.dataset.shards import DataIndex
from querying.labels.pool_counts import CountTask, PoolCounter, PoolCounts
from training.settings.traits import TRAITS

NAMED = 3
"""So many of the classes that a lost class's pixels are labelled as are named."""


def diagnosis(run: Findings, index: DataIndex | None, parts: Parts) -> dict[str, Any]:
    """`pool` and `endings` of the page."""
    nothing: dict[str, Any] = {}
    none: list[dict[str, Any]] = []
    return {
        "pool": parts.make("pseudo-labels of each class", lambda: pool_table(run, index), nothing),
        "endings": parts.make("ends of the trainings", lambda: list(endings(run)), none),
    }


def pool_of(run: Findings, cycle: int, index: DataIndex | None) -> PoolCounts | None:
    """Counts of a cycle's pseudo-labels; of an earlier version's run counted now, where the data set is at hand.  None
    where there are none, or nothing has learned them."""
    scores = run.layout.scores(cycle)
    found = pool_counts(scores)
    traits = TRAITS.get(run.config.train.method)
    if found or index is None or not scores.exists() or traits is None or traits.pool != "pseudo":
        return found
    counter, total = PoolCounter(scores, index.num_classes), PoolCounts.empty(index.num_classes)
    for number, shard in enumerate(index.shards("train")):
        total += PoolCounts.from_dict(counter.count_shard(CountTask(number, index.root, shard)))
    return total


def pool_table(run: Findings, index: DataIndex | None) -> dict[str, Any]:
    """`cycles`: of each that has pseudo-labels its number and `PoolCounts.summary`; `known`: whether truth is known;
    `lost`: a line for each lost class; `why`: why there is no cycle."""
    counts = {row["cycle"]: pool_of(run, row["cycle"], index) for row in run.cycles}
    found = {cycle: one for cycle, one in counts.items() if one and one.images}
    rows = [(cycle, one.summary(run.classes)) for cycle, one in found.items()]
    lost = [f"cycle {cycle}: {line}" for cycle, one in rows for line in lost_classes({"pseudo_labels": one})] + [
        line for cycle, one in found.items() for line in _labelled_as(run, cycle, one)
    ]
    return {"cycles": rows, "known": any(one["masks"] for _, one in rows), "lost": lost, "why": _why_none(run)}


def endings(run: Findings) -> Iterator[dict[str, Any]]:
    """A row a cycle: `learning_row` of its epochs in the record."""
    for row in run.cycles:
        history = [one for one in run.epochs if one["cycle"] == row["cycle"]]
        yield {"cycle": row["cycle"], "epochs": len(history), **learning_row(history).get("learning", {"fall": None})}


def _labelled_as(run: Findings, cycle: int, counts: PoolCounts) -> Iterator[str]:
    names = [*run.classes, "not labelled"]
    for gone in counts.summary(run.classes)["vanished"]:
        row = counts.counts[run.classes.index(gone)]
        if row.any():
            order = sorted(range(len(names)), key=lambda place: -row[place])[:NAMED]
            shown = [f"{100 * row[place] / row.sum():.0f} % {names[place]}" for place in order if row[place]]
            yield f"cycle {cycle}: pixels of {gone}: {', '.join(shown)}"


def _why_none(run: Findings) -> str:
    method = run.config.train.method
    traits = TRAITS.get(method)
    if traits and traits.labels_pool:
        return (
            f"{method} labels the pool itself, anew in every step while it trains, and keeps none of these labels:"
            " there is nothing to count.  What became of a class shows in its IoU."
        )
    if traits and traits.pool != "pseudo":
        return f"{method} learns no pseudo-labels: there is nothing to count."
    return "No cycle's pseudo-labels were counted."
