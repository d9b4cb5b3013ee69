"""`s4al verify`: what is not what was written, a line each."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from orchestrator.layout import RunLayout
from orchestrator.provenance import drift_lines
from orchestrator.recipe_file import is_run, read_recipe
from orchestrator.verify import audit_run
from querying.errors import DamagedError, UserError
from querying.shards import DataIndex, verify


def verify_command(path: Path) -> None:
    """Print every problem; DamagedError with the first and their number where there are any."""
    notes: list[str] = []
    """What is as it was written, and yet to be known."""
    if is_run(path):
        with suppress(DamagedError):  # said below
            notes += drift_lines(read_recipe(RunLayout(path).recipe)[1])
        found, remedy = list(audit_run(RunLayout(path))), "the same `s4al run` again sets it aside and makes it anew"
    elif (path / "index.json").exists():
        found, remedy = list(verify(DataIndex.load(path, shards_too=False))), "ingest again"
    else:
        raise UserError(f"{path}: neither a run folder (recipe.yaml) nor a data set (index.json)")
    for line in [*found, *notes]:
        print(line)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise DamagedError(f"{found[0]}{more}; {remedy}")
    print(f"{path}: intact")
