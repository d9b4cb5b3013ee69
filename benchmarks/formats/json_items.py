"""The items of a JSON list, one at a time, from a file that nobody has checked: bounded in size, depth and memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.datasets.files.strict_json import strict_json
from querying.base.errors import UserError
from querying.base.redaction import one_line

MOST_BYTES = 512 * 2**20
MOST_OF_AN_ITEM = 32 * 2**20
"""Bytes of one item.  A whole answer for 1024 x 2048 pixels has 205 KB."""
MOST_PARTS = 2**18
"""Lists, mappings and texts in one item: in memory each takes a hundred times its two bytes in the file."""
MOST_ITEMS = 1_000_000
"""As Label Studio has it for a project's tasks."""
DEEPEST = 32
_CHUNK = 2**20
_SPACE = re.compile(rb"[ \t\r\n]*")
_OUTSIDE, _INSIDE = re.compile(rb'["\[\]{},]'), re.compile(rb'["\[\]{}]')
"""Of an item: only outside does a comma end it, and inside there are millions."""
_IN_TEXT = re.compile(rb'["\\]')


def items(path: Path, what: str) -> Iterator[Any]:
    """The items of the list in a file; `what` they are is said where one is not right, with its number from 0.

    UserError names file and item: no UTF-8, no list, deeper than DEEPEST, a key twice, a number that is not finite.  A
    byte order mark is passed over.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"{path}: {size / 2**20:.0f} MB of JSON, more than {MOST_BYTES >> 20}: export fewer at a time")
    for number, text in enumerate(_Scanner(path, what)):
        if number >= MOST_ITEMS:
            raise UserError(f"{path}: more than {MOST_ITEMS} {what}s: export fewer at a time")
        yield _parsed(text, f"{path}: {what} {number}")


def _parsed(text: bytes, where: str) -> Any:
    try:
        return strict_json(text.decode())
    except UnicodeDecodeError:
        raise UserError(f"{where}: is not UTF-8; export it again as JSON") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not valid JSON ({one_line(str(error))[:120]}); export it again as JSON") from None


class _Scanner:
    """The text of each item.  Only brackets, commas and texts are looked at, in one pass over the file."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what

    def __iter__(self) -> Iterator[bytes]:
        with self.path.open("rb") as self.file:
            self.buffer, self.number = self.file.read(_CHUNK), 0
            place = self._start()
            if self._peek(place) == b"]":
                place = self._space(place) + 1
            else:
                more = True
                while more:
                    end = self._end(place)
                    yield self.buffer[place:end]
                    more = self.buffer[end : end + 1] == b","
                    place = end + 1
                    if place > _CHUNK:
                        self.buffer, place = self.buffer[place:], 0
                    self.number += 1
            while self._fill(place):
                place = self._space(place)
                if place < len(self.buffer):
                    raise self._wrong("something follows the list; export it again as JSON")

    def _start(self) -> int:
        """The place behind the list's bracket."""
        if self.buffer[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in self.buffer[:4]:
            raise self._wrong("is UTF-16 or binary, where JSON in UTF-8 was expected; save it as UTF-8")
        place = 3 if self.buffer[:3] == b"\xef\xbb\xbf" else 0
        first = self._peek(place)
        if first != b"[":
            kind = "a mapping" if first == b"{" else "empty" if not first else "something else"
            raise self._wrong(f"is {kind}, where a JSON list of {self.what}s was expected; export it as JSON")
        return self._space(place) + 1

    def _space(self, place: int) -> int:
        found = _SPACE.match(self.buffer, place)
        assert found is not None
        return found.end()

    def _peek(self, place: int) -> bytes:
        """The next byte that is no space."""
        while self._space(place) == len(self.buffer) and self._fill(len(self.buffer)):
            pass
        at = self._space(place)
        return self.buffer[at : at + 1]

    def _fill(self, place: int) -> bool:
        """Is there anything from `place` on?  Reads on where the buffer is used up."""
        if place < len(self.buffer):
            return True
        more = self.file.read(_CHUNK)
        self.buffer += more
        if len(self.buffer) - _CHUNK > MOST_OF_AN_ITEM + _CHUNK:
            raise self._wrong(f"{self.what} {self.number} has more than {MOST_OF_AN_ITEM >> 20} MB; leave it out")
        return bool(more)

    def _end(self, start: int) -> int:
        """Where the item that begins at `start` ends: at the place of the comma or bracket behind it."""
        place, depth, parts, text = start, 0, 0, False
        where = f"{self.what} {self.number}"
        while True:
            found = (_IN_TEXT if text else _INSIDE if depth else _OUTSIDE).search(self.buffer, place)
            if found is None:
                place = max(place, len(self.buffer))  # what is escaped may come with the next bytes
                if not self._fill(place):
                    raise self._wrong(f"ends within {where}: it was cut off; export it again")
                continue
            mark, place = found[0], found.end()
            if text:
                if mark == b"\\":
                    place += 1
                else:
                    text = False
            elif mark == b'"':
                text, parts = True, parts + 1
            elif mark in b"[{":
                depth, parts = depth + 1, parts + 1
            elif depth == 0 and mark in b",]":
                return found.start()
            elif mark in b"]}":
                depth -= 1
                if depth < 0:
                    raise self._wrong(f"{where}: a bracket is closed that was not opened; export it again as JSON")
            if depth > DEEPEST or parts > MOST_PARTS:
                why = f"is nested more than {DEEPEST} deep" if depth > DEEPEST else f"has over {MOST_PARTS} parts"
                raise self._wrong(f"{where} {why}, as no export of an annotation tool; leave it out")

    def _wrong(self, why: str) -> UserError:
        return UserError(f"{self.path}: {why}")
