"""Is everything in the bucket that a folder there is said to hold, and is it what was published?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.remote.checkout import readable, shown
from orchestrator.remote.log import RunLog
from orchestrator.remote.working_copy import WorkingCopy
from querying.base.errors import DamagedError
from querying.base.storage.place import Remote


def fetched_anew(place: Remote, into: Path) -> Iterator[str]:
    """Fetch all files into an empty folder, each from the bucket itself; a line for each that is missing or is not what
    was published."""
    log = RunLog(place)
    copy = WorkingCopy(into, log)
    for path, one in readable(log).files.items():
        if not shown(path):
            continue
        try:
            copy.fetch(path, one)
        except FileNotFoundError:
            yield f"{log.place_of(one)}: does not exist, and {path} was published as it"
        except DamagedError as error:
            yield str(error)
