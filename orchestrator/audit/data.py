"""Are the data at hand still those that a run was made with?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from querying.base.errors import DamagedError, UserError
from querying.base.storage.place import Place, place
from querying.dataset.shards import DataIndex, verify


def data_root(provenance: Mapping[str, Any], moved: Place | None = None) -> Place:
    """Where the run found its data set, or where it has `moved` to."""
    return moved or place(str(provenance.get("data", {}).get("root", "")))


def audit_data(provenance: Mapping[str, Any], root: Place) -> Iterator[str]:
    """A line for the index where it is not the one that the run was made with, else for every shard that is missing or
    is not what was ingested.  Reads and hashes the whole data set."""
    try:
        index = DataIndex.load(root, shards_too=False)
    except (UserError, DamagedError) as error:
        yield str(error)
        return
    if not index.is_that(provenance["data"]["sha256"]):
        yield f"{root}/index.json: not the data set that the run was made with (another SHA-256)"
        return
    yield from verify(index)
