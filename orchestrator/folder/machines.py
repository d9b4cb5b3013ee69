"""On how many kinds of machine a run was computed: each stage's manifest says what its workers ran on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import machines
from querying.base.errors import DamagedError

_PARTS = "; "


class Kinds:
    """What stages were made on, in the order in which they are looked at."""

    def __init__(self) -> None:
        self.known: dict[str, Path] = {}

    def look(self, folder: Path) -> Iterator[str]:
        """A line for each kind of machine of this stage that is another than that of the first."""
        with suppress(DamagedError):  # said where it counts
            for kind in machines(folder):
                if self.known and kind not in self.known:
                    first, place = next(iter(self.known.items()))
                    where = f"in part on another machine than {place}" if place == folder else f"not on that of {place}"
                    yield f"not bit-exact: {folder} was computed {where}: {_difference(first, kind)}"
                self.known.setdefault(kind, folder)


def machine_lines(layout: RunLayout) -> list[str]:
    """The machines of all stages of a run and its reference."""
    kinds, lines = Kinds(), list[str]()
    for part in (layout, layout.reference):
        for manifest in sorted(part.root.glob("cycle-[0-9][0-9][0-9]/[a-z]*/manifest.json")):
            if not manifest.parent.name.startswith("damaged-"):
                lines += kinds.look(manifest.parent)
    return lines


def _difference(first: str, other: str) -> str:
    """The parts in which the two differ."""
    was, is_ = first.split(_PARTS), other.split(_PARTS)
    old, new = ([part for part in one if part not in two] for one, two in ((was, is_), (is_, was)))
    return f"{' and '.join(new) or 'without'}, not {' and '.join(old) or 'without'}"
