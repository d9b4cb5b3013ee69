"""Pseudo-labels: confident predictions become labels, everything else is ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

IGNORE = 255
"""The label of a pixel that is not known: void, padding, CutOut, or below the confidence threshold."""


def pseudo_label(log_p_BCHW: Tensor, threshold: float) -> Tensor:
    """Class index where the top probability is at least `threshold`, IGNORE elsewhere (S4AL+ section 3.2); of equals
    the first.

    Takes log-probabilities of at most 254 classes, returns uint8 (B, H, W).
    """
    if log_p_BCHW.device.type != "cpu":
        top_BHW, label_BHW = log_p_BCHW.max(dim=1)
        return label_BHW.masked_fill(top_BHW.exp() < threshold, IGNORE).byte()
    # On a CPU, where the index of a maximum takes 40 times as long as the maximum: of the classes that reach it, the
    # one with the highest rank, which falls from C to 1.
    classes = log_p_BCHW.shape[1]
    top_B1HW = log_p_BCHW.amax(dim=1, keepdim=True)
    rank_C11 = top_B1HW.new_ones(classes).cumsum(0).flip(0).byte().view(-1, 1, 1)
    label_BHW = classes - ((log_p_BCHW == top_B1HW) * rank_C11).amax(dim=1)
    return label_BHW.masked_fill_(top_B1HW[:, 0].exp() < threshold, IGNORE)
