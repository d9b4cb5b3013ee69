"""`s4al verify`: what is not what was written, a line each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from orchestrator.annotation.rounds import is_project
from orchestrator.audit.data import audit_data, data_root
from orchestrator.audit.files import audit_run
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.machines import machine_lines
from orchestrator.folder.products import foreign
from orchestrator.folder.recipe_file import is_run, read_recipe
from orchestrator.recipe.provenance import drift_lines
from orchestrator.run.inputs import unnoted_settings
from querying.base.errors import DamagedError, InfrastructureError, UserError
from querying.base.redaction import one_line
from querying.base.storage.cache import made_cache_folder
from querying.base.storage.place import Place, Remote
from querying.base.storage.verbs import read
from querying.dataset.shards import DataIndex, verify


def verify_command(path: Place, data: Place | None = None) -> None:
    """Print every problem, and what else is to be known; DamagedError with the first problem and their number where
    there are any.  `data`: where a run's data set is now, if not where it was."""
    notes: list[str] = []
    if isinstance(path, Remote):
        found, remedy = _audit_remote(path, data, notes)
    elif is_project(path):
        from benchmarks.commands.people.project_files import audit_project

        found, remedy = list(audit_project(path)), "the same `s4al init` again makes plan and package anew"
    elif is_run(path):
        found, remedy = _audit_run(path, data, notes)
    elif (path / "index.json").exists():
        found, remedy = list(verify(DataIndex.load(path, shards_too=False))), "ingest again"
    else:
        raise UserError(f"{path}: neither a run folder (recipe.yaml) nor a data set (index.json)")
    for line in [*found, *notes]:
        print(one_line(line))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise DamagedError(f"{found[0]}{more}; {remedy}")
    print(f"{path}: intact")


def _audit_run(path: Path, data: Place | None, notes: list[str]) -> tuple[list[str], str]:
    """Problems of a run folder and its data, and what to do about them."""
    found, remedy = list(audit_run(RunLayout(path))), "the same `s4al run` again sets it aside and makes it anew"
    remedy += ", but for what contradicts itself: that was altered by hand"
    altered = list(_audit_surroundings(RunLayout(path), data, notes))
    if not found:
        remedy = "put the data set back as it was, or ingest it again"
    return found + altered, remedy


def _audit_remote(place: Remote, data: Place | None, notes: list[str]) -> tuple[list[str], str]:
    """The same of what lies in a bucket: a data set, or runs, each file of which is fetched from there."""
    from orchestrator.remote.log import RunLog

    if not RunLog(place).is_there():
        return list(verify(DataIndex.load(place, shards_too=False))), "ingest it to another place"
    from orchestrator.remote.audit import fetched_anew

    with TemporaryDirectory(dir=made_cache_folder()) as folder:
        root = Path(folder) / "run"
        found = list(fetched_anew(place, root))
        runs = [root] if is_run(root) else sorted(recipe.parent for recipe in root.rglob("recipe.yaml"))
        remedy = "the same command again makes anew what is missing"
        for run in runs:
            more, remedy = _audit_run(run, data, notes)
            found += more
        for lines in (found, notes):
            lines[:] = [line.replace(str(root), str(place)) for line in lines]
        return found, remedy


def _audit_surroundings(layout: RunLayout, data: Place | None, notes: list[str]) -> Iterator[str]:
    """Problems of the data set that the run was made with; adds what has drifted, or is not known, to `notes`."""
    try:
        provenance = read_recipe(layout.recipe)[1]
    except DamagedError:  # said already
        return
    notes += [line for part in (layout, layout.reference) for line in unnoted_settings(part)]
    notes += [*foreign(layout), *machine_lines(layout), *drift_lines(provenance)]
    root = data_root(provenance, data)
    if data or not (why := _absent(root)):
        yield from audit_data(provenance, root)
    else:
        notes.append(f"{root}: the data set {why}, so it was not checked (where it is now: --data DST)")


def _absent(root: Place) -> str:
    try:
        return "is not there" if read(root / "index.json") is None else ""
    except (UserError, InfrastructureError) as error:  # of a store, perhaps one that this machine may not see
        return f"can not be read ({error})"
