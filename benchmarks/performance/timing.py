"""Forms of one computation timed in turns, so that what else the machine does meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def interleaved(forms: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each form over so many rounds; one round before them warms up."""
    spent: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            started = time.perf_counter()
            form()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                spent[name].append(time.perf_counter() - started)
    return {name: median(values) for name, values in spent.items()}
