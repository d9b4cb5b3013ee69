"""Something made of parts that nobody waits for: one that fails is named and left out, and costs no other."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from querying.base.errors import DamagedError, Interrupted
from querying.base.redaction import one_line

T = TypeVar("T")
LOG = logging.getLogger(__name__)


class Parts:
    """What has failed so far: `failed` has a line for each, with the kind of its error."""

    def __init__(self) -> None:
        self.failed: list[str] = []
        self._damage: DamagedError | None = None

    def make(self, name: str, make: Callable[[], T], otherwise: T) -> T:
        """What `make` returns; `otherwise` where it fails, whatever the reason: what it was made for has a result
        of its own that must not be lost.  Passes on that somebody asked the program to stop."""
        try:
            return make()
        except Interrupted:
            raise
        except Exception as error:
            if isinstance(error, DamagedError):
                self._damage = self._damage or error
            self.failed.append(f"{name}: {in_words(error)}")
            LOG.warning("left out: %s", self.failed[-1])
            return otherwise

    def raise_damage(self) -> None:
        """DamagedError where a part failed because a file is not what was written."""
        if self._damage:
            raise self._damage


def in_words(error: BaseException) -> str:
    """The error's kind and text on one line."""
    return f"{type(error).__name__}: {one_line(str(error))[:300]}".rstrip(": ")
