"""What of a run folder a stage's workers read and write, and whether they see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """The driver's paths, absolute and resolved: files, or folders with all below them."""

    root: Path
    """The run folder."""
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    by_item: Path | None = None
    """Of the folders that are written: where there may be files of an item, by its number, before it is worked on."""

    @property
    def all(self) -> tuple[Path, ...]:
        return (*self.reads, *self.writes)


@dataclass(frozen=True, slots=True)
class Mark:
    """A file with a random text: who finds that text at this path sees the folder in which the driver has put it."""

    path: Path
    text: str

    def seen(self) -> bool:
        try:
            return self.path.read_text() == self.text
        except (OSError, ValueError):
            return False


def inside(path: Path, places: tuple[Path, ...]) -> bool:
    """Is it one of the places, or below one?"""
    return any(place == path or place in path.parents for place in places)
