"""Accuracy against labels as numbers: area under a curve, labels for a level, paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

EQUAL = 1e-12
"""Two values that are nearer to each other, by their size, differ by rounding alone."""


@dataclass(frozen=True, slots=True)
class Curve:
    """mIoU of one run against its labelled share, both in 0..1; the shares ascend."""

    shares: Sequence[float]
    mious: Sequence[float]

    def at(self, share: float) -> float:
        """Linear between the cycles; ValueError outside of them."""
        if not self.shares[0] <= share <= self.shares[-1]:
            raise ValueError(f"{share} is outside of {self.shares[0]}..{self.shares[-1]}")
        return float(np.interp(share, self.shares, self.mious))

    def area(self, low: float, high: float) -> float:
        """Mean mIoU between two shares: the area under the curve over its width."""
        x = [low, *(share for share in self.shares if low < share < high), high]
        return float(np.trapezoid([self.at(share) for share in x], x)) / (high - low)

    def labels_for(self, level: float) -> float | None:
        """The smallest share at which the curve reaches `level`; None where it does not."""
        if self.mious[0] >= level:
            return self.shares[0]
        for left in range(len(self.shares) - 1):
            (x0, x1), (y0, y1) = self.shares[left : left + 2], self.mious[left : left + 2]
            if y1 >= level:
                return x0 + (x1 - x0) * (level - y0) / (y1 - y0)
        return None


def common_range(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """The shares that all curves cover, those of a single point left out; None where there are not two shares."""
    curves = [curve for curve in curves if len(curve.shares) > 1]
    if not curves:
        return None
    low, high = max(curve.shares[0] for curve in curves), min(curve.shares[-1] for curve in curves)
    return (low, high) if low < high else None


@dataclass(frozen=True, slots=True)
class Paired:
    """Differences over common seeds."""

    mean: float
    half_interval: float | None
    """Half the width of the 95 % interval (Student); None below two seeds."""
    p: float | None
    """Two-sided, of Student's paired t-test; None below two seeds or where all differences are equal."""
    seeds: int


def paired(differences: Sequence[float]) -> Paired | None:
    """None without a common seed."""
    if not differences:
        return None
    half, p = 0.0 if len(differences) > 1 else None, None
    if max(differences) - min(differences) > EQUAL * max(map(abs, differences)):  # else the t-test divides by zero
        from scipy.stats import ttest_1samp

        found = ttest_1samp(differences, 0)
        low, high = found.confidence_interval(0.95)
        half, p = float(high - low) / 2, float(found.pvalue)
    return Paired(mean(differences), half, p, len(differences))
