"""Forms of one computation timed in turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Generic, TypeVar

import torch

from querying.base.allocator import give_freed_memory_back, keep_freed_memory

T = TypeVar("T")


def interleaved(forms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each form over so many rounds; one round before them warms up."""
    return {name: median(values) for name, values in in_turns(forms, rounds).items()}


def times(one: Sequence[float], other: Sequence[float]) -> float:
    """How many times as long one form takes as another: the median over the rounds, each of which compares what ran in
    the same seconds."""
    return median(mine / its for mine, its in zip(one, other, strict=True))


def in_turns(forms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each form in each round, after one round that warms up.

    What `ByDefaultAllocator` gave back to the system, the form after it takes again before its time starts.
    """
    spent: dict[str, list[float]] = {name: [] for name in forms}
    last: Callable[[], object] | None = None
    for turn in range(rounds + 1):
        for name, form in forms.items():
            if isinstance(last, ByDefaultAllocator):
                form()
            last = form
            started = time.perf_counter()
            form()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                spent[name].append(time.perf_counter() - started)
    return spent


class ByDefaultAllocator(Generic[T]):
    """`form` as it runs in a process that says nothing to its allocator, unlike our stages."""

    def __init__(self, form: Callable[[], T]) -> None:
        self.form = form

    def __call__(self) -> T:
        give_freed_memory_back()
        try:
            return self.form()
        finally:
            keep_freed_memory()


def milliseconds(seconds: Mapping[str, float | Sequence[float]]) -> dict[str, float]:
    """Seconds to milliseconds; of several rounds the median."""
    return {
        name: round(1e3 * (value if isinstance(value, float) else median(value)), 3) for name, value in seconds.items()
    }
