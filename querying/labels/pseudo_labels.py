"""Pseudo-labels: confident predictions become labels, everything else is ignored."""

from __future__ import annotations

from typing import TYPE_CHECKING

from querying.dataset.label_values import IGNORE

if TYPE_CHECKING:
    from torch import Tensor


def top_class(score_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The highest score of each pixel (B, H, W), and its class in int64; of equals the first, of NaN any.  At most 254
    classes."""
    if score_BCHW.device.type != "cpu":
        top_BHW, label_BHW = score_BCHW.max(dim=1)
        return top_BHW, label_BHW
    # On a CPU the index of a maximum takes 40 to 200 times as long as the maximum: so, of the classes that reach it,
    # the one with the highest rank, which falls from C to 1.
    top_B1HW = score_BCHW.amax(dim=1, keepdim=True)
    hit_BCHW = score_BCHW == top_B1HW
    best_BHW = (hit_BCHW * rank(score_BCHW).byte()).amax(dim=1).clamp_min_(1)  # no class reaches a maximum that is NaN
    return top_B1HW[:, 0], (score_BCHW.shape[1] - best_BHW).long()


def rank(score_BCHW: Tensor) -> Tensor:
    """C, C - 1, ..., 1 for the classes in their order, of the type of the scores; (C, 1, 1), to go with them."""
    classes = score_BCHW.shape[1]
    return score_BCHW.new_tensor(range(classes, 0, -1)).view(-1, *[1] * (score_BCHW.ndim - 2))


def pseudo_label(log_p_BCHW: Tensor, threshold: float) -> Tensor:
    """Class index where the top probability is at least `threshold`, IGNORE elsewhere (S4AL+ section 3.2).

    Takes log-probabilities, returns uint8 (B, H, W).
    """
    top_BHW, label_BHW = top_class(log_p_BCHW)
    return label_BHW.byte().masked_fill_(top_BHW.exp() < threshold, IGNORE)
