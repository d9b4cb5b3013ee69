"""What the true labels of a pool bring over supervision.  A method has only pseudo-labels in their place, so where they
bring nothing, the schedule says nothing of methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev


@dataclass(frozen=True, slots=True)
class Control:
    gain: float
    """Mean over seeds, in points of mIoU."""
    spread: float | None
    """Sample standard deviation over seeds; None of a single one."""
    seeds: int

    @property
    def shows(self) -> bool:
        """Could the schedule have shown a difference between methods?"""
        return self.spread is not None and self.gain > self.spread

    @property
    def verdict(self) -> str:
        """What it says of the schedule, as a sentence without its full stop."""
        gain = f"the pool's true labels bring {self.gain:+z.2f} points"
        if self.spread is None:
            return f"{gain} in one seed: two or more are needed to judge (--seeds)"
        gain += f" (standard deviation {self.spread:.2f}, {self.seeds} seeds)"
        if self.shows:
            return f"{gain}: this schedule can show what a pool brings"
        return f"{gain}, no more than seeds differ: this schedule ranks no semi-supervised methods; train longer"


def control(gains: Sequence[float]) -> Control | None:
    """Of differences of pairs with one seed, in points; None without one."""
    return Control(mean(gains), stdev(gains) if len(gains) > 1 else None, len(gains)) if gains else None
