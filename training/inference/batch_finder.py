"""How many images at a time are fastest to score, tried on the machine that scores (`query.batch_size=auto`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from querying.base import pulse
from querying.base.allocator import keep_freed_memory
from querying.base.errors import ran_out_of_memory

FASTER = 1.03
"""A batch of twice as many images must be so many times as fast; less is noise, for twice the memory."""
ROUNDS = 3
"""Passes of a batch size, of which the fastest counts: others only had to wait."""
SHARE = 0.5
"""Of the memory that was free, what a batch may take: labels, maps of full size and other processes need some, too."""


class FoundBatch(TypedDict):
    """What was tried, and what was found."""

    batch_size: int
    seconds_per_image: dict[str, float]
    """By batch size."""
    stopped_by: str


class BatchFinder:
    """Doubles the batch until it is no faster, memory is short, or there are no more images."""

    def __init__(
        self,
        load_predict: Callable[[], Callable[[Tensor, float], Tensor]],
        size: tuple[int, int],
        scales: Sequence[float],
        threads: int,
    ) -> None:
        """`size`: height and width of the images; all `scales` are passed one after the other, as when scoring."""
        torch.set_num_threads(threads)
        keep_freed_memory()
        self.predict = load_predict()
        self.size, self.scales = size, tuple(scales)

    def find(self, most: int) -> FoundBatch:
        """The batch to score with, at most `most` images."""
        tried: dict[int, float] = {}
        count, stopped_by = 1, "no more images"
        free, before = _free(self._cuda), _taken(self._cuda)
        while count <= most:
            seconds = self._seconds_per_image(count)
            if seconds is None:
                stopped_by = "out of memory"
                break
            tried[count] = seconds
            if count > 1 and tried[count // 2] < FASTER * seconds:
                stopped_by = "no faster"
                break
            if 2 * (_taken(self._cuda) - before) > SHARE * free:
                stopped_by = "memory"
                break
            count *= 2
        best = 1
        for count in sorted(tried):
            if tried[best] >= FASTER * tried[count]:
                best = count
        shown = {str(count): round(seconds, 6) for count, seconds in tried.items()}
        return FoundBatch(batch_size=best, seconds_per_image=shown, stopped_by=stopped_by)

    @property
    def _cuda(self) -> bool:
        return getattr(self.predict, "device", torch.device("cpu")).type == "cuda"

    @torch.inference_mode()
    def _seconds_per_image(self, count: int) -> float | None:
        """Of the fastest round; None where memory does not suffice for more than one image."""
        images_BCHW = torch.randint(0, 256, (count, *self.size, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
        fastest = float("inf")
        try:
            for number in range(ROUNDS + 1):
                started = time.perf_counter()
                for scale in self.scales:
                    self.predict(images_BCHW, scale)
                if self._cuda:
                    torch.cuda.synchronize()
                pulse.done(count)
                if number:  # the first one plans and allocates
                    fastest = min(fastest, time.perf_counter() - started)
        except (RuntimeError, MemoryError) as error:
            if count == 1 or not ran_out_of_memory(error):
                raise
            if self._cuda:
                torch.cuda.empty_cache()
            return None
        return fastest / count


def _free(cuda: bool) -> int:
    """Bytes that a batch could take now."""
    if cuda:
        return torch.cuda.mem_get_info()[0]
    return 1024 * _kilobytes("/proc/meminfo", "MemAvailable")


def _taken(cuda: bool) -> int:
    """Bytes that this process has taken at most so far."""
    if cuda:
        return torch.cuda.max_memory_reserved()
    return 1024 * _kilobytes("/proc/self/status", "VmHWM")


def _kilobytes(path: str, name: str) -> int:
    """A line of Linux's tables of memory."""
    [line] = [line for line in Path(path).read_text().splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1])
