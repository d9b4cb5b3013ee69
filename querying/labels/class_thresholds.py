"""A threshold of its own for each class, so that classes a network is never sure of keep pseudo-labels.

Class-balanced self-training (CBST, Zou et al. 2018): the threshold of a class is the confidence that a share of the
pixels predicted as it reach, counted over the whole pool; a pixel gets the class whose probability is the largest
multiple of its threshold, where it reaches that threshold.  Here a threshold is never above `query.threshold`; with 1
for that it is CBST's.

Shape suffixes: B = images, C = classes, H and W = pixels, L = levels of confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from querying.dataset.label_values import IGNORE
from querying.labels.pseudo_labels import top_class

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 1000
"""Confidences are counted in steps of a thousandth, as whole numbers, which add up in any order."""


def confidence_counts(log_p_BCHW: Tensor) -> npt.NDArray[np.int64]:
    """Pixels by the class that they are predicted as and by its probability, int64 (C, L)."""
    classes = log_p_BCHW.shape[1]
    top_BHW, class_BHW = top_class(log_p_BCHW)
    level_BHW = (top_BHW.exp() * LEVELS).long().clamp_(0, LEVELS - 1)
    pair = (class_BHW * LEVELS + level_BHW).flatten().cpu()
    return np.bincount(pair.numpy(), minlength=classes * LEVELS).reshape(classes, LEVELS)


def class_thresholds(counts_CL: npt.NDArray[np.int64], share: float, most: float) -> list[float]:
    """Of each class the highest confidence that at least `share` of the pixels predicted as it reach, but no more than
    `most`; `most` for a class that no pixel is predicted as."""
    found = []
    for count_L in counts_CL:
        reaching_L = count_L[::-1].cumsum()[::-1]  # pixels at this level or above
        enough_L = np.flatnonzero(reaching_L >= max(1, math.ceil(share * int(count_L.sum()) - 1e-6)))
        found.append(min(most, int(enough_L[-1]) / LEVELS) if count_L.any() else most)
    return found


def class_pseudo_label(log_p_BCHW: Tensor, thresholds: Sequence[float]) -> Tensor:
    """The class whose probability is the largest multiple of its threshold, IGNORE where that is below 1; uint8
    (B, H, W).  With one threshold for all it is `pseudo_label`."""
    log_threshold_C11 = log_p_BCHW.new_tensor(thresholds).log().view(-1, 1, 1)
    above_BHW, label_BHW = top_class(log_p_BCHW - log_threshold_C11)
    return label_BHW.byte().masked_fill_(above_BHW < 0, IGNORE)
