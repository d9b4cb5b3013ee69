"""Cross entropy with an explicit denominator, so that several workers together take the mean of the whole batch."""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.dataset.label_values import IGNORE
from training.losses.upsampled import upsampled_cross_entropy, wide


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """total / count, and 0 where nothing is counted and the total is 0, too.

    The count may lie below 1: as a sum of weights, or as the mean over workers of which one has the only pixel.
    """
    return total / count.clamp_min(1e-12)


def cross_entropy(
    logits_BChw: Tensor,
    target_BHW: Tensor,
    *,
    normalise: Literal["valid", "all"],
    mean_count: Callable[[Tensor], Tensor] = lambda count: count,
    among_BHW: Tensor | None = None,
    align_corners: bool = False,
) -> Tensor:
    """Sum of -log p over known pixels, divided by their number ("valid") or that of all pixels ("all"); a scalar >= 0.

    The pixels that are counted are those of the target, or of `among_BHW`, the targets of a larger batch.

    Logits of a lower resolution are upsampled bilinearly; targets are class indices or IGNORE.  `mean_count` turns
    this worker's pixel count (float scalar) into the mean count over workers; the workers' mean of the loss is then the
    loss of the whole batch, whatever each one ignores.
    Without a known pixel the loss is zero and still carries a graph.
    """
    total = upsampled_cross_entropy(logits_BChw, target_BHW, align_corners)
    counted_BHW = target_BHW if among_BHW is None else among_BHW
    known = counted_BHW != IGNORE if normalise == "valid" else torch.ones_like(counted_BHW)
    count = mean_count(known.sum().to(total.dtype))
    return mean_of(total, count)


def hard_cross_entropy(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    *,
    easy_from: float,
    keep: int,
    mean_count: Callable[[Tensor], Tensor] = lambda count: count,
) -> Tensor:
    """Mean of -log p over the known pixels with p <= `easy_from`, but at least over the `keep` hardest (OHEM).

    As CPS, AEL, U2PL and UniMatch use it on Cityscapes.  `keep` counts this worker's pixels; for `mean_count` see
    `cross_entropy`.
    """
    cost_BHW = F.cross_entropy(wide(logits_BCHW), target_BHW.long(), ignore_index=IGNORE, reduction="none")
    known_BHW = target_BHW != IGNORE
    ranked = cost_BHW.detach().masked_fill(~known_BHW, -torch.inf).flatten()
    bound = ranked.topk(min(keep, len(ranked))).values[-1].clamp_max(-math.log(easy_from))
    hard_BHW = known_BHW & (cost_BHW.detach() >= bound)
    total = cost_BHW.masked_fill(~hard_BHW, 0.0).sum()
    return mean_of(total, mean_count(hard_BHW.sum().to(total.dtype)))
