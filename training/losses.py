"""Cross entropy with an explicit denominator, so that several workers together take the mean of the whole batch."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.labels import IGNORE


def cross_entropy(
    logits_BCHW: Tensor,
    target_BHW: Tensor,
    *,
    normalise: Literal["valid", "all"],
    mean_count: Callable[[Tensor], Tensor] = lambda count: count,
) -> Tensor:
    """Sum of -log p over known pixels, divided by their number ("valid") or that of all pixels ("all"); a scalar >= 0.

    Targets are class indices or IGNORE.  `mean_count` turns this worker's pixel count (float scalar) into the mean
    count over workers; the workers' mean of the loss is then the loss of the whole batch, whatever each one ignores.
    Without a known pixel the loss is zero and still carries a graph.
    """
    total = F.cross_entropy(logits_BCHW.float(), target_BHW.long(), ignore_index=IGNORE, reduction="sum")
    known = target_BHW != IGNORE if normalise == "valid" else torch.ones_like(target_BHW)
    count = mean_count(known.sum().to(total.dtype))
    return total / count.clamp_min(1)
