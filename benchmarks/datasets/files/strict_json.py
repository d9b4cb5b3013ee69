"""JSON from a file that nobody has checked: a key that is there twice, or a number that is not finite, is a mistake."""

from __future__ import annotations

import json
import math
from typing import Any


def strict_json(text: str) -> Any:
    """What the text says; ValueError or RecursionError where it is no JSON of that kind."""
    return json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:60]!r} is there twice")
        found[name] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is not a finite number")
    return number
