"""Metrics that merge: counts travel between processes, ratios are taken once, at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from querying.dataset.label_values import IGNORE

LEVELS = 256  # of a uint8 label map


@dataclass(frozen=True, slots=True)
class Confusion:
    """counts[t, p] = pixels of true class t predicted as p.  `+` merges shards, workers or batches in any order."""

    counts: Tensor
    """int64 (C, C), on the CPU."""

    @classmethod
    def empty(cls, num_classes: int) -> Confusion:
        return cls(torch.zeros(num_classes, num_classes, dtype=torch.int64))

    @classmethod
    def of(cls, predicted_BHW: Tensor, true_BHW: Tensor, num_classes: int) -> Confusion:
        """Count two maps of class indices; pixels that are IGNORE in `true_BHW` are left out.

        Raises ValueError for a label, or a prediction where the label is known, that is not below `num_classes`.
        """
        if predicted_BHW.shape != true_BHW.shape:
            raise ValueError(f"predictions {tuple(predicted_BHW.shape)} and labels {tuple(true_BHW.shape)} differ")
        assert 0 < num_classes <= IGNORE
        # One histogram over all pairs of bytes both counts and finds what is out of range: no mask, no second pass.
        pair = _bytes(true_BHW, "label").int().mul_(LEVELS).add_(_bytes(predicted_BHW, "prediction"))
        pairs = torch.bincount(pair.flatten(), minlength=LEVELS**2).view(LEVELS, LEVELS)[:IGNORE].cpu()
        if pairs[num_classes:].any():
            label = int(pairs[num_classes:].sum(1).nonzero()[0]) + num_classes
            raise ValueError(f"label {label} is not a class (0..{num_classes - 1}) and not {IGNORE}")
        if pairs[:, num_classes:].any():
            label = int(pairs[:, num_classes:].sum(0).nonzero()[0]) + num_classes
            raise ValueError(f"prediction {label} is not a class (0..{num_classes - 1})")
        return cls(pairs[:num_classes, :num_classes].clone())

    @classmethod
    def from_list(cls, counts: list[list[int]]) -> Confusion:
        return cls(torch.tensor(counts, dtype=torch.int64))

    def to_list(self) -> list[list[int]]:
        """Plain integers, for JSON."""
        return self.counts.tolist()

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(self.counts + other.counts)

    def iou(self) -> Tensor:
        """float64 (C,) in 0..1; NaN where a class is neither present nor predicted."""
        hit = self.counts.diagonal().double()
        return hit / (self.counts.sum(0) + self.counts.sum(1) - hit)

    def mean_iou(self) -> float:
        """Mean over the classes that are present or predicted, in 0..1; NaN where nothing was counted."""
        return self.iou().nanmean().item()

    def pixel_accuracy(self) -> float:
        """Share of known pixels that are right, in 0..1; NaN where nothing was counted."""
        return (self.counts.diagonal().sum().double() / self.counts.sum()).item()


def _bytes(map_BHW: Tensor, what: str) -> Tensor:
    if map_BHW.dtype == torch.uint8 or not map_BHW.numel():
        return map_BHW.to(torch.uint8)
    low, high = map_BHW.aminmax()
    if low < 0 or high >= LEVELS:
        raise ValueError(f"{what} {int(low if low < 0 else high)} is not in 0..{LEVELS - 1}")
    return map_BHW.to(torch.uint8)
