"""What a benchmark found, as plain numbers: one line of `bench.json`, one row of `bench.md`, one bar of `bench.png`."""

from __future__ import annotations

import json
from typing import Any

Result = dict[str, Any]
"""`name`, `what`, `setting`; `ratio` is the figure that is held against `bar` (None: it has none), in `unit`; with
`at_most` it must not be higher, else not lower; `passes` says whether it holds, other conditions included."""


def found(
    name: str, what: str, setting: str, value: float, *, bar: float | None = None, at_most: bool = False,
    unit: str = "x", holds: bool = True, **details: Any,
) -> Result:  # fmt: skip
    """A result, printed as one line of JSON; `holds` is a further condition that the bar has."""
    met = True if bar is None else (value <= bar if at_most else value >= bar)
    result = {
        "name": name, "what": what, "setting": setting, **details,
        "ratio": round(value, 4), "unit": unit, "bar": bar, "at_most": at_most, "passes": met and holds,
    }  # fmt: skip
    print(json.dumps(result), flush=True)
    return result


def as_markdown(results: list[Result]) -> str:
    lines = ["| what | measured | bar | |", "|---|---|---|---|"]
    for result in results:
        unit = result.get("unit", "x")
        bar, verdict = "-", ""
        if result["bar"] is not None:
            bar = f"{'<=' if result.get('at_most') else '>='} {shown(result['bar'], unit)}"
            verdict = "holds" if result["passes"] else "falls short"
        lines.append(f"| {result.get('what', result['name'])} | {shown(result['ratio'], unit)} | {bar} | {verdict} |")
    return "\n".join(lines) + "\n"


def shown(value: float, unit: str) -> str:
    """A number with its unit; ratios carry an x."""
    return f"{value:.4g}x" if unit == "x" else f"{value:,.4g} {unit}"
