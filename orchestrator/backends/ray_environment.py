"""Variables for processes that actors start, passwords among them: in memory alone, in no argument and no file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray


class _Kept:
    def __init__(self, values: dict[str, str]) -> None:
        self.values = values

    def get(self) -> dict[str, str]:
        return self.values


@contextmanager
def kept(name: str, values: Mapping[str, str]) -> Iterator[None]:
    """An actor of that name hands them out; it ends with the last reference to it."""
    actor = ray.remote(_Kept).options(name=name, num_cpus=0, max_restarts=-1).remote(dict(values))
    yield
    del actor


def environment_of(name: str) -> dict[str, str]:
    actor: Any = ray.get_actor(name)
    values: dict[str, str] = ray.get(actor.get.remote())
    return values
