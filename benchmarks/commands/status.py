"""`s4al status`: where a run, a grid of `s4al splits` or a sweep stands, and whether a process works on it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from benchmarks.report.terminal_tables import print_drift, print_table
from orchestrator.annotation.answers import report_now
from orchestrator.annotation.human import waiting_line
from orchestrator.annotation.package import read_note
from orchestrator.annotation.rounds import Round, current_round, is_project, rounds
from orchestrator.folder.layout import LOCK, RunLayout
from orchestrator.folder.lock_file import held
from orchestrator.folder.recipe_file import is_run, read_recipe
from orchestrator.folder.shapes import TrialNote, read_shaped, read_summary
from orchestrator.process.progress import clock
from orchestrator.run.next_stage import next_stage
from querying.base.errors import DamagedError, UserError
from querying.base.redaction import printable
from querying.base.storage.place import Place

PROGRESS = "progress.json"
"""As `training.fit.heartbeat` has it, which imports torch."""


def show_status(path: Path, shown_as: object = None, remote: str | None = None) -> None:
    """Print the finished cycles and what comes next; of many runs a line each; of a folder of `s4al init` what has been
    labelled of it.  Of a copy of what lies in a bucket: `shown_as` is its address, `remote` who works on it there."""
    name = shown_as or path
    if is_project(path):
        _print_round(current_round(path))
        return
    if is_run(path):
        _status_of_run(path, name, remote)
        return
    runs = sorted(recipe.parent for recipe in path.glob("*/*/seed-*/recipe.yaml"))
    runs += sorted(recipe.parent for recipe in path.glob("trials/[0-9]*/recipe.yaml"))
    samples = sorted(path.glob("trials/[0-9]*.json"))
    if not runs and not samples:
        raise UserError(f"{name}: not a run folder, nor one of `s4al splits` or `s4al sweep` (no recipe.yaml)")
    for run in runs:
        print(f"{run.relative_to(path)}: {_line(run, remote)}")
    for sample in samples:
        if not (sample.with_suffix("") / "recipe.yaml").exists():
            print(f"{sample.with_suffix('').relative_to(path)}: {read_shaped(sample, TrialNote)['state']}")
    by = held(path / LOCK) if remote is None else remote
    if samples or remote:
        print(f"{name}: {f'running ({by})' if by else 'stopped, or finished'}")


def _status_of_run(run: Path, name: object, remote: str | None) -> None:
    layout = RunLayout(run)
    if layout.summary.exists():
        print_table(layout)
    print_drift(layout)
    if asked := rounds(run):
        _print_round(asked[-1])
    print(f"{name}: {_line(run, remote)}")


def _print_round(one: Round) -> None:
    """What people have answered of the last package; nothing where the answers are labels already."""
    if one.closed:
        return
    for line in str(report_now(one, read_note(one.package))).splitlines():
        print(printable(line))


def _line(run: Path, remote: str | None) -> str:
    """Running, by whom and how far; or stopped, and what comes next; or finished."""
    layout, by = RunLayout(run), held(run / LOCK) if remote is None else remote
    with suppress(DamagedError):
        if read_summary(layout.summary)["finished"] and not by:
            return "finished"
    coming = f"next: {next_stage(layout, read_recipe(layout.recipe)[0])}"
    if coming.startswith("next: labels of") and not by:
        return waiting_line(run)
    return f"running ({by}), {coming}{_steps(layout)}" if by else f"stopped, {coming}"


def _steps(layout: RunLayout) -> str:
    """The training that goes on: its step, and the time that the rest of it takes at the pace so far."""
    found = [
        *layout.root.glob("cycle-*/training/" + PROGRESS),
        *layout.reference.root.glob("cycle-*/training/" + PROGRESS),
    ]
    if not found:
        return ""
    try:
        row = json.loads(max(found, key=lambda path: path.stat().st_mtime).read_text())
    except FileNotFoundError:  # it has just ended
        return ""
    left = (
        f", about {clock((row['total'] - row['step']) / row['rate'])} left of this training" if row.get("rate") else ""
    )
    return f": step {row['step']} of {row['total']}, loss {row['loss']:.3f}{left}"


def status_command(path: Place) -> None:
    """Where a run, a grid or a sweep stands."""
    if isinstance(path, Path):
        show_status(path)
        return
    from orchestrator.remote.checkout import view
    from orchestrator.remote.lease import at_work
    from orchestrator.remote.log import RunLog

    folder = view(path, small=True)
    by, said = at_work(RunLog(path))
    show_status(folder, path, by)
    if said:
        print(f"{path}: {said}")
