"""The items of a stage in their order, and which worker gets which of them."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from itertools import chain
from typing import Generic, TypeVar

from querying.base.storage.ahead import far_files
from querying.base.storage.place import Remote

T = TypeVar("T")


class Line(Generic[T]):
    """Where items are read from a bucket, a worker is promised the one that it gets next, and can fetch it meanwhile.
    When there are no others, one who has nothing to do takes what was promised to somebody who works."""

    def __init__(self, items: Iterable[T]) -> None:
        self._todo: Iterator[T] = iter(items)  # never a list: the shards of a large pool are described one by one
        self._promised: dict[Hashable, T] = {}

    def take(self, worker: Hashable) -> T | None:
        """What a worker, or with None a new one, does next; None where nothing is left."""
        if worker in self._promised:
            return self._promised.pop(worker)
        item = next(self._todo, None)
        if item is None and self._promised:
            return self._promised.popitem()[1]  # of who has begun his last one last
        return item

    def promise(self, worker: Hashable, item: T) -> list[tuple[Remote, str]]:
        """What the item reads from a bucket that the worker gets after this one."""
        following = next(self._todo, None) if far_files(item) else None
        if following is None:
            return []
        self._promised[worker] = following
        return far_files(following)

    def back(self, worker: Hashable, item: T) -> None:
        """The worker is lost: its item, and what it was promised, are for others."""
        promised = [self._promised.pop(worker)] if worker in self._promised else []
        self._todo = chain([item, *promised], self._todo)
