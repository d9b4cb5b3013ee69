"""Where the rounds of a project lie: in a run a cycle's package and answers, before any run `round-0`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.annotation.answer import Answer
from orchestrator.annotation.package import Package
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import is_run
from querying.base.errors import UserError
from querying.labels.ledger import Ledger

PLAN = "plan.json"
"""Of a folder that `s4al init` has made: which images are asked first, and which measure."""
ROUND_0 = "round-0"
PACKAGE, ANSWERS, MERGED = "package", "answers", "merged.json"
Reread = Callable[[Package, Path, Mapping[str, str]], Iterable[Answer]]
"""Reads the answers out of the source of an import again: package, source, and the options of then (rule, blank, and
the annotator where the format knows none)."""


@dataclass(frozen=True, slots=True)
class Round:
    """One time that people are asked.  `number` is the cycle of the ledger that the answers become; 0 is before any
    run."""

    project: Path
    folder: Path
    number: int

    @property
    def package(self) -> Path:
        return self.folder / PACKAGE

    @property
    def answers(self) -> Path:
        return self.folder / ANSWERS

    @property
    def merged(self) -> Path:
        """Written when the answers become labels: which imports, by which rule."""
        return self.answers / MERGED

    @property
    def closed(self) -> bool:
        """Have the answers become labels?  Then nothing can be added."""
        ledger = Ledger(RunLayout(self.project).ledger)
        return bool(self.number) and (self.merged.exists() or ledger.has(self.number))


def is_project(folder: Path) -> bool:
    """Is it a folder of `s4al init`?"""
    return (folder / PLAN).is_file() or (folder / ROUND_0).is_dir()


def round_of(layout: RunLayout, cycle: int) -> Round:
    """The round that asks the query of a run's cycle."""
    return Round(layout.root, layout.cycle(cycle), cycle + 1)


def rounds(project: Path) -> list[Round]:
    """Every round of a run or of a folder of `s4al init`, the first first."""
    if is_project(project):
        return [Round(project, project / ROUND_0, 0)]
    layout = RunLayout(project)
    found = [round_of(layout, cycle) for cycle in range(1000) if layout.cycle(cycle).is_dir()]
    return [one for one in found if was_asked(one)]


def was_asked(one: Round) -> bool:
    """Have people seen the package of this round, whatever has become of it?"""
    return one.package.exists() or one.answers.exists() or any(one.folder.glob(f"damaged-*-{PACKAGE}"))


def current_round(project: Path) -> Round:
    """The last round.  UserError where nobody has been asked anything."""
    found = rounds(project)
    if found:
        return found[-1]
    if is_run(project):
        raise UserError(f"{project}: nothing has been asked yet: the same `s4al run` comes to it (annotator: human)")
    raise UserError(f"{project}: neither a run (recipe.yaml) nor a folder that `s4al init` has made ({PLAN})")
