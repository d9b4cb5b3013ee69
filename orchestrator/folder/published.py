"""A query as a run publishes it, and read back: by its hash first, then what it may say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from orchestrator.folder.manifest import problems
from querying.base.errors import DamagedError
from querying.base.files import written
from querying.dataset.limits import is_id
from querying.dataset.schemas import QUERY
from querying.labels.regions import WHOLE

_AT_ONCE = 65_536


def write_query(select: Callable[[], pa.Table], out: Path) -> None:
    """Write what `select` gives as `query.parquet` into a folder that is to be published."""
    with written(out / "query.parquet") as staged:
        pq.write_table(select(), staged, write_page_checksum=True)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """A Parquet file with these columns; DamagedError where it can not be read or has others."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise DamagedError(f"{path}: {' '.join(str(error).split())[:200]}") from None
    if not table.schema.equals(schema):
        raise DamagedError(f"{path}: its columns are not {', '.join(schema.names)}")
    return table


def read_query(folder: Path, num_regions: int) -> pa.Table:
    """The cells (schema QUERY).  DamagedError names the file where it is not what was written, or names a cell that a
    grid of so many regions does not have."""
    path = folder / "query.parquet"
    if found := problems(folder):
        raise DamagedError(found[0])
    table = read_table(path, QUERY)
    ids = pc.unique(table["image_id"])
    for first in range(0, len(ids), _AT_ONCE):
        for image_id in ids[first : first + _AT_ONCE].to_pylist():
            if image_id is None or not is_id(image_id):
                where = f"{path}: image {str(image_id)[:80]!r}"
                raise DamagedError(f"{where}: an id that can not be printed, or is too long")
    for region in pc.unique(table["region"]).to_pylist():
        if region is None or not (region == WHOLE or 0 <= region < num_regions):
            raise DamagedError(f"{path}: region {region} is none of the {num_regions} of an image")
    return table
