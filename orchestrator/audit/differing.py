"""What a file of a run says, beside what the others give."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from querying.base.errors import DamagedError
from querying.base.files import read_json


def differences(where: str, said: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        there = said.get(key)
        if isinstance(value, dict):
            yield from differences(f"{where}, {key}", there if isinstance(there, dict) else {}, value)
        elif not (there == value or (isinstance(value, float) and isinstance(there, float) and _close(there, value))):
            yield f"{where}: {key} is {there!r}, the other files of the run give {value!r}"


def _close(a: float, b: float) -> bool:
    """To the rounding of another version of a library."""
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(a) and math.isnan(b))


def readable(path: Path, read: Callable[[Path], dict[str, Any]] = read_json) -> dict[str, Any] | None:
    with suppress(DamagedError):
        return read(path)
    return None
