"""Pseudo-labels: confident predictions become labels, everything else is ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""The label of a pixel that is not known: void, padding, CutOut, or below the confidence threshold."""


def pseudo_label(log_p_BCHW: Tensor, threshold: float) -> Tensor:
    """Class index where the top probability is at least `threshold`, IGNORE elsewhere (S4AL+ section 3.2).

    Takes log-probabilities, returns uint8 (B, H, W).
    """
    top_BHW, label_BHW = log_p_BCHW.max(dim=1)
    return label_BHW.masked_fill(top_BHW.exp() < threshold, IGNORE).byte()
