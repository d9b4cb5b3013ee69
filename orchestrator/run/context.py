"""What travels together through a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.record import Mirror, NoMirror
from orchestrator.recipe.config import RunConfig
from querying.dataset.shards import DataIndex
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid

if TYPE_CHECKING:
    from orchestrator.annotation.rounds import Reread
    from orchestrator.backends.backend import Backend
    from orchestrator.process.progress import Progress


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What is asked for, of which data, in which folder, and who works and is told."""

    config: RunConfig
    index: DataIndex
    layout: RunLayout
    backend: Backend
    progress: Progress
    mirror: Mirror = field(default_factory=NoMirror)
    name: str = "main"
    """In the record and in what is said."""
    part: bool = False
    """Where people answer: what they have not answered goes back to the pool."""
    reread: Reread | None = None
    """Reads what people have handed in once more."""

    @cached_property
    def grid(self) -> RegionGrid:
        return RegionGrid(self.index.height, self.index.width, self.config.query.region_size)

    @cached_property
    def grids(self) -> list[RegionGrid]:
        """That of each size that train images have."""
        return [self.grid.on(size) for size in self.index.sizes("train")]

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.layout.ledger)
