"""Score and pseudo-label of every pixel together, from logits.

Shape suffixes: S = rows of a stripe, C = classes, W = pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from querying.dataset.label_values import IGNORE
from querying.labels.pseudo_labels import pseudo_label, rank
from querying.scoring.acquisition import ACQUISITIONS

if TYPE_CHECKING:
    from torch import Tensor


def score_and_label(acquisition: str, z_SCW: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """`ACQUISITIONS[acquisition]`, float32 (S, W), and `pseudo_label`, uint8 (S, W), of float32 logits, which are
    overwritten."""
    if acquisition == "entropy":
        return _entropy_and_label(z_SCW, threshold)
    log_p_SCW = z_SCW.log_softmax(dim=1)
    return ACQUISITIONS[acquisition](log_p_SCW), pseudo_label(log_p_SCW, threshold)


def _entropy_and_label(z_SCW: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """With d = z - max z and T = sum exp d the entropy is ln T - (sum d exp d) / T, and 1 / T is the top probability:
    one exponential for both, and neither log-softmax nor probabilities."""
    d_SCW = z_SCW.sub_(z_SCW.amax(dim=1, keepdim=True))
    e_SCW = d_SCW.exp()
    total_SW = e_SCW.sum(dim=1)
    entropy_SW = total_SW.log() - e_SCW.mul_(d_SCW).sum(dim=1).div_(total_SW)
    # The classes of the highest logit, d = 0, as 1 in place: a comparison into bool takes four times as long.
    label_SW = d_SCW.shape[1] - d_SCW.eq_(0).mul_(rank(d_SCW)).amax(dim=1)
    return entropy_SW, label_SW.byte().masked_fill_(total_SW.reciprocal_() < threshold, IGNORE)
