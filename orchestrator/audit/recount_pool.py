"""Do the counts of a cycle's pseudo-labels agree with these, and what is said of them and of the training with both?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.audit.differing import differences
from orchestrator.folder.layout import RunLayout
from orchestrator.run.diagnosis import POOL_COUNTS, learning_row, pool_counts, pool_row, scoring_key
from orchestrator.run.summary import flat_numbers
from querying.base.arrow_file import scored_file
from querying.base.errors import DamagedError
from querying.base.files import read_json
from querying.dataset.codecs import UNREADABLE
from querying.dataset.schemas import PSEUDO_LABELS
from querying.dataset.shards import decode_label
from querying.labels.pool_counts import PoolCounts
from training.network.checkpoint import META


def recount_pool(scores: Path, classes: Sequence[str]) -> Iterator[str]:
    """A line where the labels of a folder of scores are not as many of each class as it says.  Which of them are right
    only the data set could tell."""
    with suppress(DamagedError):  # said where it lies
        said = pool_counts(scores)
        if said is None:
            return
        found = PoolCounts.empty(len(classes))
        for path in sorted(scores.glob("pseudo-*.arrow")):
            for batch in scored_file(path, PSEUDO_LABELS).batches():
                for label in batch["label"]:
                    try:
                        found += PoolCounts.of(decode_label(label.as_buffer()), None, len(classes))
                    except UNREADABLE as error:
                        yield f"{path}: a label can not be decoded: {error}"
                        return
        same = said.counts.shape == found.counts.shape and np.array_equal(said.counts.sum(0), found.counts.sum(0))
        if not same or said.images != found.images or not 0 <= said.masks <= said.images:
            yield f"{scores / POOL_COUNTS}: does not count the pseudo-labels that lie beside it"


def recount_diagnosis(
    layout: RunLayout, classes: Sequence[str], cycle: int, row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]],
    name: str, *, later: bool,
) -> Iterator[str]:  # fmt: skip
    """A line where the summary's `row` of a cycle, or the record's, says of pseudo-labels or training what the files do
    not give.  Rows of earlier versions say nothing, nor does that of the last cycle: there is no `later` one yet."""
    scores, where = layout.scores(cycle), f"{layout.summary}: cycle {cycle}"
    with suppress(DamagedError):  # said where it lies
        found = pool_row(scores, classes) or {"pseudo_labels": None}
        if later or "pseudo_labels" in row:
            yield from differences(where, row, found)
        flat = flat_numbers(found)
        for one in rows:
            if (one["stage"], one["cycle"]) == ("score", cycle) and one["from"] == scoring_key(scores, name, cycle)[
                "from"
            ]:
                yield from differences(f"{layout.metrics}: {name} cycle {cycle}, pseudo-labels", one, flat)
        if "learning" in row:
            history = read_json(layout.checkpoint(cycle) / META)["history"]
            yield from differences(where, row, learning_row(history) or {"learning": None})
