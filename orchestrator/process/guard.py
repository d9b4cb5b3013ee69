"""What stands between this process and the terminal: of what somebody else wrote, nothing is obeyed there."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from querying.base.redaction import one_line, printable

LAYOUT = "\n\t"
"""Control characters that a text of many lines may have."""


class Guarded:
    """A stream in which what is not printable is escaped; everything else is that of the stream below."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text, LAYOUT))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class OneLine(logging.Formatter):
    """What is logged is one line, without passwords; a traceback below it stays as it is."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return one_line(super().formatMessage(record))


@contextmanager
def guarded() -> Iterator[None]:
    """Standard output and error escape what a terminal may obey, as long as this lasts."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (Guarded(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
