"""Tables as Markdown and as CSV, whatever their cells say: a cell stays a cell, and no spreadsheet computes it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from querying.base.redaction import printable

FORMULA = re.compile(r"\s*[=+\-@]")
"""With these a spreadsheet takes a cell for a formula."""


def markdown_cell(text: str) -> str:
    """On one line, with `|` and `<` escaped."""
    return printable(" ".join(text.splitlines())).replace("|", "\\|").replace("<", "&lt;")


def markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(map(markdown_cell, cells))} |"


def markdown_heads(heads: Sequence[str], numbers: bool = False) -> list[str]:
    """The first two lines of a table; its columns but the first stand to the right where they are `numbers`."""
    return [markdown_row(heads), f"|---|{('--:|' if numbers else '---|') * (len(heads) - 1)}"]


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV; a text that a spreadsheet would compute gets a `'` before it, numbers do not."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    shown = printable(cell)
    return f"'{shown}" if FORMULA.match(cell) and not _is_number(shown) else shown


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
