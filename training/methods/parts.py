"""Pieces of a loss that methods share."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses import cross_entropy
from training.model import Output
from training.reco import reco_loss
from training.settings import ReCoSettings, TrainSettings

Parts = dict[str, Tensor]
"""Named, weighted terms whose sum is the loss."""


class Step(NamedTuple):
    """What a method may use besides the network and the batch."""

    train: TrainSettings
    reco: ReCoSettings
    generator: torch.Generator
    mean_count: Callable[[Tensor], Tensor]
    """Mean over the ranks of a number of pixels, so that a loss is the mean over the global batch."""


def classify(logits_BChw: Tensor, target_BHW: Tensor, step: Step) -> Tensor:
    """Cross entropy at full resolution."""
    logits_BCHW = F.interpolate(logits_BChw, target_BHW.shape[1:], mode="bilinear", align_corners=False)
    return cross_entropy(logits_BCHW, target_BHW, normalise=step.train.normalise, mean_count=step.mean_count)


def contrast(output: Output, target_BHW: Tensor, step: Step) -> Parts:
    """ReCo at the head's resolution, labels nearest-downsampled (S4AL+ section 3.1); nothing without the head."""
    if output.embedding is None:
        return {}
    label_Bhw = F.interpolate(target_BHW[:, None].float(), output.logits.shape[2:], mode="nearest")[:, 0].long()
    with torch.no_grad():
        p_BChw = output.logits.float().softmax(dim=1)
        own_Bhw = label_Bhw.clamp_max(p_BChw.shape[1] - 1)[:, None]  # ignored pixels are never looked at
        p_own_Bhw = p_BChw.gather(1, own_Bhw)[:, 0]
    loss = reco_loss(
        output.embedding,
        label_Bhw,
        p_own_Bhw,
        temperature=step.reco.temperature,
        queries=step.reco.queries,
        negatives=step.reco.negatives,
        hard_threshold=step.reco.hard_threshold,
        generator=step.generator,
    )
    return {"reco": step.reco.weight * loss}
