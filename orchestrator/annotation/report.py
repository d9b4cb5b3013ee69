"""What came back of a round: a table to print, and the same as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from orchestrator.annotation.given import Cell, Given, agreement, state_of
from orchestrator.annotation.package import Package

NAMED = 5
"""So many cells are named; the others are counted."""


@dataclass(frozen=True, slots=True)
class Worker:
    """What one annotator has done."""

    images: int
    regions: int
    minutes: float | None
    """None where the format knows no times."""
    predicted: int
    kept: int
    """Pixels with a pre-annotation, and of these the pixels that were left as predicted."""

    @property
    def kept_share(self) -> float | None:
        return self.kept / self.predicted if self.predicted else None


@dataclass(frozen=True, slots=True)
class Report:
    """A round so far; `new`, `known` are answers of the file that was just handed in."""

    cycle: int
    images: int
    regions: int
    answered: int
    blank: int
    unanswered: int
    named_blank: tuple[str, ...]
    named_unanswered: tuple[str, ...]
    workers: Mapping[str, Worker]
    shared: int
    """Cells that more than one annotator has answered."""
    agreement: float | None
    """Share of pixels with one label, over all pairs of annotators and the cells that both have answered."""
    ambiguous: int
    outside: int
    partial: bool = False
    new: int = 0
    known: int = 0
    imported_as: str | None = None
    left_out: Mapping[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return self.answered == self.regions

    @property
    def exit_status(self) -> int:
        """0 where nothing is missing, or need not be there; else 3."""
        return 0 if self.complete or self.partial else 3

    @property
    def minutes(self) -> float | None:
        """Of all together; None where no time is known."""
        known = [one.minutes for one in self.workers.values() if one.minutes is not None]
        return sum(known) if known else None

    @property
    def kept_share(self) -> float | None:
        predicted = sum(one.predicted for one in self.workers.values())
        return sum(one.kept for one in self.workers.values()) / predicted if predicted else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "complete": self.complete}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterable[str]:
        if self.imported_as:
            yield f"{self.new} new answers as {self.imported_as}"
        elif self.known and not self.new:
            yield f"nothing new: all {self.known} answers are known"
        yield (
            f"cycle {self.cycle}: {self.answered} of {self.regions} regions of {self.images} images answered,"
            f" {self.blank} blank, {self.unanswered} unanswered"
        )
        for what, names, count in (
            ("blank (painted in part)", self.named_blank, self.blank),
            ("unanswered", self.named_unanswered, self.unanswered),
        ):
            if count:
                more = f" and {count - len(names)} more" if count > len(names) else ""
                yield f"  {what}: {', '.join(names)}{more}"
        if self.workers:
            width = max(9, *map(len, self.workers))
            yield f"{'annotator':{width}}  images  regions  minutes  left as predicted"
            for name, one in self.workers.items():
                minutes = "unknown" if one.minutes is None else f"{one.minutes:.1f}"
                kept = "-" if one.kept_share is None else f"{100 * one.kept_share:.1f} %"
                yield f"{name:{width}}  {one.images:6}  {one.regions:7}  {minutes:>7}  {kept:>17}"
        if self.agreement is not None:
            yield f"agreement on {self.shared} shared regions: {100 * self.agreement:.1f} % of their pixels"
        if self.ambiguous:
            yield f"painted in several classes: {self.ambiguous} pixels; the class that was painted last counts"
        if self.outside:
            yield f"painted outside the frames: {self.outside} pixels, not used"
        for what, count in self.left_out.items():
            if count:
                yield f"left out: {what}: {count}"


def report_of(package: Package, cells: Mapping[Cell, Mapping[str, Given]], **more: Any) -> Report:
    """What is known of a package's cells."""
    states = {
        (one.image_id, box[0]): state_of(cells.get((one.image_id, box[0]), {}))
        for one in package.images
        for box in one.boxes
    }
    pairs = agreement(cells)
    pixels, same = (sum(pair[place] for pair in pairs.values()) for place in (1, 2))
    answers = {(row.unique_id, row.annotator): row for given in cells.values() for row in given.values()}
    missing = {state: [cell for cell, found in states.items() if found == state] for state in ("blank", "unanswered")}
    return Report(
        cycle=package.cycle,
        images=len(package.images),
        regions=len(states),
        answered=sum(state == "answered" for state in states.values()),
        blank=len(missing["blank"]),
        unanswered=len(missing["unanswered"]),
        named_blank=_named(missing["blank"]),
        named_unanswered=_named(missing["unanswered"]),
        workers=workers_of(cells),
        shared=sum(sum(row.state == "answered" for row in given.values()) > 1 for given in cells.values()),
        agreement=same / pixels if pixels else None,
        ambiguous=sum(row.ambiguous for row in answers.values()),
        outside=sum(row.outside for row in answers.values()),
        **more,
    )


def workers_of(cells: Mapping[Cell, Mapping[str, Given]]) -> dict[str, Worker]:
    """Each annotator by name."""
    rows: dict[str, list[Given]] = {}
    for given in cells.values():
        for name, row in given.items():
            if row.state == "answered":
                rows.setdefault(name, []).append(row)
    return {name: _worker(rows[name]) for name in sorted(rows)}


def _worker(rows: Sequence[Given]) -> Worker:
    times = {row.unique_id: row.seconds for row in rows}
    known = [seconds for seconds in times.values() if seconds is not None]
    predicted = sum(row.predicted for row in rows)
    return Worker(
        images=len({row.image_id for row in rows}),
        regions=len(rows),
        minutes=sum(known) / 60 if known else None,
        predicted=predicted,
        kept=predicted - sum(row.changed for row in rows),
    )


def _named(cells: Sequence[Cell]) -> tuple[str, ...]:
    return tuple(image_id if region < 0 else f"{image_id} region {region}" for image_id, region in cells[:NAMED])
