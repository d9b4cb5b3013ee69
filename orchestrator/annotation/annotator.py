"""Who answers a query: the masks that came with the data (`SimulatedOracle`), or people (`HumanAnnotator`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pyarrow as pa


class Annotator(Protocol):
    def answerable(self) -> list[str]:
        """Train images that may be labelled whole before the first training."""

    def classes(self) -> dict[str, frozenset[int]]:
        """The classes in each answerable image."""

    def asked(self, cycle: int) -> Callable[[Path], None] | None:
        """What writes the query of this cycle again, where somebody has seen it already; None where nobody has."""

    def ask(self, cycle: int, query: Path) -> None:
        """Hand over the published query of this cycle."""

    def annotate(self, cycle: int, query: pa.Table) -> Iterator[pa.RecordBatch]:
        """Ledger rows of the answers.  WaitingForLabels where some are missing."""
