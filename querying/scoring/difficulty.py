"""DEAL's acquisitions (Xie et al. 2020), from the probability that a pixel's class is wrong.

Shape suffixes: B = images, C = classes, H and W = pixels, h and w = a head's pixels, U = units (cells, or the image).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.base.errors import UserError


class DifficultyMaps:
    """One map per image, whose mean over a unit is the unit's score: `deal_ds`, the mean difficulty, or `deal_de`, the
    entropy of its histogram."""

    def __init__(self, acquisition: str, predict: object, unit_HW: Tensor, *, levels: int) -> None:
        """`unit_HW` numbers the unit of each pixel (int64, from 0): its cell, or 0 everywhere where whole images are
        asked about.  UserError where the network has no difficulty branch."""
        branch: Callable[[Tensor], Tensor] | None = getattr(predict, "difficulty", None)
        if branch is None:
            raise UserError(
                f"query.acquisition={acquisition}: the network has no difficulty branch (train.method=deal)"
            )
        self.branch = branch
        self.align_corners = bool(getattr(predict, "align_corners", False))
        self.entropy = acquisition == "deal_de"
        self.unit_HW, self.levels = unit_HW, levels

    def maps(self, ids: Sequence[str], images_BCHW: Tensor, logits: Sequence[Tensor]) -> Iterator[Tensor]:
        """The scores (1, H, W) of each image in turn; `logits` (B, C, h, w) are those of all scales."""
        for i in range(len(ids)):  # one by one: attention over a batch is no faster
            d_1HW = self._difficulty([z_BChw[i : i + 1] for z_BChw in logits])
            if self.entropy:
                unit_HW = self.unit_HW.to(d_1HW.device)
                d_1HW = histogram_entropy(d_1HW, unit_HW, self.levels)[:, unit_HW]
            yield d_1HW

    def _difficulty(self, logits: Sequence[Tensor]) -> Tensor:
        """In 0..1, (B, H, W): the branch's logits averaged over the scales at full resolution, as the classes' are."""
        size = list(self.unit_HW.shape)
        full = [F.interpolate(self.branch(z), size, mode="bilinear", align_corners=self.align_corners) for z in logits]
        return torch.stack(full).mean(0).sigmoid()[:, 0]


def histogram_entropy(difficulty_BHW: Tensor, unit_HW: Tensor, levels: int) -> Tensor:
    """Entropy in nats, in [0, ln levels], of the difficulties of each unit's pixels by level; (B, U).

    Levels are equal parts of the range from an image's smallest to its largest difficulty (authors' code), whatever
    the unit; in an image of one difficulty all pixels share a level.
    """
    low_B11, high_B11 = difficulty_BHW.amin((1, 2), keepdim=True), difficulty_BHW.amax((1, 2), keepdim=True)
    part_BHW = (difficulty_BHW - low_B11) / (high_B11 - low_B11).clamp_min(1e-12)
    level_BHW = (part_BHW.nan_to_num() * levels).long().clamp(0, levels - 1)
    units = int(unit_HW.max()) + 1
    entropy = []
    for level_HW in level_BHW:
        count_UL = torch.bincount((unit_HW * levels + level_HW).flatten(), minlength=units * levels)
        share_UL = count_UL.view(units, levels).to(difficulty_BHW.dtype)
        share_UL = share_UL / share_UL.sum(1, keepdim=True).clamp_min(1)  # a number that no pixel has
        entropy.append(torch.special.entr(share_UL).sum(1))
    return torch.stack(entropy) + 0 * low_B11[:, 0]  # NaN where the image's difficulties are
