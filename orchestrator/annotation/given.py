"""What is given for a cell by whom: rows of all imports, which of them count, and their common label."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import numpy as np
import pyarrow as pa

from orchestrator.annotation.answer import Answer, moment
from orchestrator.annotation.package import AskedImage
from querying.dataset.codecs import UInt8, decode_label, encode_label
from querying.dataset.label_values import IGNORE

State = Literal["answered", "blank", "unanswered"]
Rule = Literal["majority", "latest", "first"]
Blank = Literal["ask", "void", "background"]
RULES: tuple[Rule, ...] = ("majority", "latest", "first")
BLANKS: tuple[Blank, ...] = ("ask", "void", "background")
"""What to do with pixels in no class: ask again; take them as void; or, in formats where blank is the class background,
that class, which their reader says."""
BLANK_SHARE = 0.02
"""More of a cell than this in no class: it is blank, and not answered."""
Cell = tuple[str, int]
"""Image and region."""

REGIONS = pa.schema(
    [
        pa.field("image_id", pa.string(), False),
        pa.field("region", pa.int32(), False),
        pa.field("annotator", pa.string(), False),
        pa.field("unique_id", pa.string(), False),
        pa.field("updated", pa.string(), False),
        pa.field("seconds", pa.float64()),
        pa.field("state", pa.string(), False),
        pa.field("pixels", pa.int64(), False),
        pa.field("blank", pa.int64(), False),
        pa.field("predicted", pa.int64(), False),
        pa.field("changed", pa.int64(), False),
        pa.field("ambiguous", pa.int64(), False),
        pa.field("outside", pa.int64(), False),
        pa.field("digest", pa.string(), False),
        pa.field("label", pa.binary(), False),
    ]
)
"""A cell of one answer.  `seconds`, `ambiguous` and `outside` (pixels that were changed where nothing was asked) are
the answer's, the same in all its rows; `predicted` pixels had a pre-annotation that the annotator was shown, and of
these `changed` are another class now; label: PNG, 255 = void."""


@dataclass(frozen=True, slots=True)
class Given:
    """A row of `REGIONS`."""

    image_id: str
    region: int
    annotator: str
    unique_id: str
    updated: str
    seconds: float | None
    state: State
    pixels: int
    blank: int
    predicted: int
    changed: int
    ambiguous: int
    outside: int
    digest: str
    label: bytes

    @property
    def cell(self) -> Cell:
        return self.image_id, self.region

    @property
    def at(self) -> datetime:
        return moment(self.updated)

    @property
    def known_as(self) -> tuple[str, ...]:
        """Two rows that are equal in this say the same, at the same time."""
        return self.unique_id, self.annotator, self.updated, self.digest, self.state


def cut(answer: Answer, asked: AskedImage, pre_HW: UInt8 | None, blank: Blank, digest: str) -> list[Given]:
    """The asked cells of one answer.

    A cell with nothing painted is unanswered, one with more than `BLANK_SHARE` in no class is blank.  With `blank` void
    both are answered, and void there, where anything of the image is painted at all.
    """
    label_HW = np.where(answer.painted_HW, answer.label_HW, IGNORE).astype(np.uint8)
    asked_HW = np.zeros(label_HW.shape, bool)
    for _, top, left, bottom, right in asked.boxes:
        asked_HW[top:bottom, left:right] = True
    before_HW = np.full_like(label_HW, IGNORE) if pre_HW is None else pre_HW
    outside = int(np.count_nonzero(answer.painted_HW & ~asked_HW & (label_HW != before_HW)))
    void = blank == "void" and bool(answer.painted_HW.any())
    rows = []
    for region, top, left, bottom, right in asked.boxes:
        box = slice(top, bottom), slice(left, right)
        label, before = label_HW[box], before_HW[box]
        empty = label.size - int(np.count_nonzero(answer.painted_HW[box]))
        state: State = "answered"
        if not void and empty > BLANK_SHARE * label.size:
            state = "unanswered" if empty == label.size else "blank"
        rows.append(
            Given(
                image_id=answer.image_id, region=region, annotator=answer.annotator, unique_id=answer.unique_id,
                updated=answer.updated, seconds=answer.seconds, state=state, pixels=label.size, blank=empty,
                predicted=int(np.count_nonzero(before != IGNORE)),
                changed=int(np.count_nonzero((before != IGNORE) & (label != before))),
                ambiguous=answer.ambiguous, outside=outside, digest=digest, label=encode_label(label),
            )
        )  # fmt: skip
    return rows


def by_annotator(rows: Iterable[Given]) -> dict[Cell, dict[str, Given]]:
    """Of each cell and annotator the row that counts: the latest that is an answer, else the latest.  `rows` come in
    the order of the imports, which decides where the times are the same."""
    found: dict[Cell, dict[str, Given]] = {}
    for row in rows:
        here = found.setdefault(row.cell, {})
        other = here.get(row.annotator)
        if other is None or (row.state == "answered", row.at) >= (other.state == "answered", other.at):
            here.pop(row.annotator, None)  # so that the order is that in which they came
            here[row.annotator] = row
    return found


def rule_of(name: str) -> Rule:
    """The rule of this name; `majority` where there is none."""
    return "latest" if name == "latest" else "first" if name == "first" else "majority"


def state_of(given: Mapping[str, Given]) -> State:
    states = {row.state for row in given.values()}
    return "answered" if "answered" in states else "blank" if "blank" in states else "unanswered"


def common(given: Iterable[Given], rule: Rule) -> UInt8:
    """The label of a cell by all who have answered it.

    `majority` votes for each pixel, not sure included; without a most frequent class it is 255.  Of two annotators no
    majority can be told, so the latest counts; of the same time, the one that was handed in later.
    """
    answers = sorted((row for row in given if row.state == "answered"), key=lambda row: row.at)
    if rule == "first":
        return decode_label(answers[0].label)
    if rule == "latest" or len(answers) < 3:
        return decode_label(answers[-1].label)
    return vote([decode_label(row.label) for row in answers])


def vote(labels: Sequence[UInt8]) -> UInt8:
    """The most frequent value of each pixel; 255 where there are two."""
    label_NHW = np.stack(labels)
    best_HW: UInt8 = label_NHW[0].copy()
    most_HW = np.zeros(best_HW.shape, int)
    for value in np.unique(label_NHW):
        count_HW = np.count_nonzero(label_NHW == value, axis=0)
        best_HW[count_HW == most_HW] = IGNORE
        best_HW[count_HW > most_HW] = value
        most_HW = np.maximum(most_HW, count_HW)
    return best_HW


def agreement(cells: Mapping[Cell, Mapping[str, Given]]) -> dict[tuple[str, str], tuple[int, int, int]]:
    """Of each pair of annotators: cells that both have answered, their pixels, and how many of these agree."""
    found: dict[tuple[str, str], tuple[int, int, int]] = {}
    for given in cells.values():
        answers = sorted((row for row in given.values() if row.state == "answered"), key=lambda row: row.annotator)
        for place, one in enumerate(answers):
            for other in answers[place + 1 :]:
                equal = decode_label(one.label) == decode_label(other.label)
                count, pixels, same = found.get((one.annotator, other.annotator), (0, 0, 0))
                found[one.annotator, other.annotator] = count + 1, pixels + equal.size, same + int(equal.sum())
    return found
