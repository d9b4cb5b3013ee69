"""Tables and bars on standard output: what is given to them is text, and nothing in it is obeyed there."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from orchestrator.process.guard import Guarded
from querying.base.redaction import printable


def console(elsewhere: int | None = None) -> Console:
    """The console of standard output: it has no markup, and obeys only what is drawn here.

    `elsewhere`: columns where standard output is no terminal.
    """
    stream = sys.stdout
    below: TextIO = stream.stream if isinstance(stream, Guarded) else stream
    return _Console(file=below, width=None if below.isatty() else elsewhere, markup=False, highlight=False, emoji=False)


class _Console(Console):
    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text, "\n"))
