"""A scorer on a node that does not see the run folder: its files come before an item, and go after it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from querying.base.errors import S4ALError
from querying.base.relay.mirror import Far, Mirror, mirror_of
from querying.base.relay.places import Places


class Away:
    """The mirror of one worker, made when the first item comes, so that an error is raised like any other."""

    def __init__(self, far: Far, places: Places) -> None:
        self.far, self.places = far, places
        self.token = secrets.token_hex(8)
        self.stack = ExitStack()
        self.mirror: Mirror | None = None
        self.made: dict[str, dict[Path, int]] = {}
        """By number of an item: what a killed attempt has made of it."""

    def beat(self, path: Path, number: int, row: bytes) -> None:
        """A sign of life, also before the mirror is there."""
        self.far.beat(path, self.token, number, row)

    @contextmanager
    def files_of(self, item: Any) -> Iterator[Mirror]:
        """What is read, with the files of the item; what was written is the driver's before this is left, and gone
        here."""
        mirror = self.mirror or self._begin()
        if self.places.by_item:
            mirror.pull_files(self.made.pop(f"{item.number:05d}", {}))
        try:
            yield mirror
        except S4ALError as error:
            raise type(error)(mirror.there(str(error))) from None
        for folder in self.places.writes:
            mirror.push(folder, flush=False)
            mirror.clear(folder)

    def leave(self) -> None:
        """Remove the mirror."""
        self.stack.close()

    def _begin(self) -> Mirror:
        mirror = self.stack.enter_context(mirror_of(self.far, self.places))
        for place in self.places.reads:
            mirror.pull(place)
        for path, size in mirror.far.files(self.places.by_item).items() if self.places.by_item else ():
            self.made.setdefault(path.stem.rpartition("-")[2], {})[path] = size
        self.mirror = mirror
        return mirror
