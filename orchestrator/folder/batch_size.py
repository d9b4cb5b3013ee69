"""`query.batch_size=auto`: found once, before the first pass, and kept with the run, since another batch may change the
last bits of a score."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.folder.shapes import BatchSize, read_shaped
from querying.base.errors import DamagedError
from querying.base.files import write_json

LOG = logging.getLogger(__name__)
MOST = 64
"""Images at a time: beyond, nothing gains."""


def kept_batch_size(path: Path, find: Callable[[], dict[str, Any]], say: Callable[[str], None]) -> int:
    """What `path` holds; where it holds nothing, what is found, which is then kept there and said."""
    if path.exists():
        try:
            return int(read_shaped(path, BatchSize)["batch_size"])
        except DamagedError as error:
            LOG.warning("%s: finding the batch size again", error)
    found = find()
    write_json(path, found)
    chosen, seconds = found["batch_size"], found["seconds_per_image"]
    rates = ", ".join(f"{count}: {1 / one:.3g}" for count, one in seconds.items())
    say(f"query.batch_size=auto: {chosen} images at a time, kept in {path.name} (images/s by size: {rates})")
    return chosen  # type: ignore[no-any-return]
