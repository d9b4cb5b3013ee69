"""`s4al verify`: what is not what was written, a line each."""

from __future__ import annotations

from pathlib import Path

from orchestrator.layout import RunLayout
from orchestrator.recipe_file import is_run
from orchestrator.verify import audit_run
from querying.errors import DamagedError, UserError
from querying.shards import DataIndex, verify


def verify_command(path: Path) -> None:
    """Print every problem; DamagedError with the first and their number where there are any."""
    if is_run(path):
        found, remedy = list(audit_run(RunLayout(path))), "the same `s4al run` again sets it aside and makes it anew"
    elif (path / "index.json").exists():
        found, remedy = list(verify(DataIndex.load(path, shards_too=False))), "ingest again"
    else:
        raise UserError(f"{path}: neither a run folder (recipe.yaml) nor a data set (index.json)")
    for line in found:
        print(line)
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise DamagedError(f"{found[0]}{more}; {remedy}")
    print(f"{path}: intact")
