"""Where a training stands: plain numbers, which are kept with the weights."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from training.batches.batch import Batch

TIMINGS = ("train/images_per_second", "train/waiting_for_data")
"""Metrics of an epoch that differ from run to run."""


@dataclass(slots=True)
class TrainingProgress:
    """How far a training is, and what its unfinished epoch has summed up so far."""

    step: int = 0
    """Finished steps."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the finished epochs."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the unfinished epoch: losses, added up."""
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Of these seconds: until a batch was there."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches; the time until each is there counts as waited."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.waited += time.perf_counter() - asked
            yield batch

    def add(self, losses: Mapping[str, float], images: int, seconds: float) -> None:
        """Count a finished step; `seconds` are those of the epoch so far."""
        self.step += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.images += images
        self.seconds = seconds

    def means(self, steps: int, lr: float) -> dict[str, float]:
        """Metrics of the epoch, whose steps are all done."""
        metrics = {f"train/{name}": total / steps for name, total in self.sums.items()}
        metrics["train/loss"] = sum(self.sums.values()) / steps
        metrics["train/lr"] = lr
        metrics["train/images_per_second"] = self.images / self.seconds
        metrics["train/waiting_for_data"] = self.waited / self.seconds
        return metrics

    def finish_epoch(self, metrics: Mapping[str, float]) -> None:
        """Put the epoch into the history, and begin the next."""
        self.history.append({"epoch": len(self.history), **metrics})
        self.sums, self.images, self.seconds, self.waited = {}, 0, 0.0, 0.0
