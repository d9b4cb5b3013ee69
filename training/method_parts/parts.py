"""Pieces of a loss that methods share."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.batches.batch import Batch
from training.losses.cross_entropy import cross_entropy, hard_cross_entropy, mean_of
from training.losses.reco import reco_loss
from training.losses.upsampled import full_size, wide
from training.network.deeplab import Output
from training.settings.methods import MethodSettings
from training.settings.training import ReCoSettings, TrainSettings

Parts = dict[str, Tensor]
"""Named, weighted terms whose sum is the loss."""


class MethodContext(NamedTuple):
    """What a method may use besides the network and the batch."""

    train: TrainSettings
    reco: ReCoSettings
    generator: torch.Generator
    mean_count: Callable[[Tensor], Tensor]
    """Mean over the ranks of a number of pixels, so that a loss is the mean over the global batch."""
    methods: MethodSettings = MethodSettings()
    done: float = 0.0
    """Share of the training's steps that lie behind, 0 <= done < 1."""
    cycle: int = 0
    """Queries that the labels come from."""
    align_corners: bool = False
    """Whether logits are upsampled to full size with aligned corners (`model.align_corners`)."""
    whole: Batch | None = None
    """The step's batch, where the method gets a part of it (`train.micro_batch`): its pixels are those to count, so
    that the losses of the parts add up to that of the batch."""


def supervise(
    logits_BChw: Tensor, target_BHW: Tensor, context: MethodContext, among_BHW: Tensor | None = None
) -> Tensor:
    """Cross entropy of labelled images at full resolution; of the hard pixels alone where `train.ohem` says so."""
    if context.train.ohem is None:
        return classify(logits_BChw, target_BHW, context, among_BHW)
    return hard_cross_entropy(
        full_size(logits_BChw, target_BHW.shape[1:], context.align_corners),
        target_BHW,
        easy_from=context.train.ohem,
        keep=context.train.ohem_keep,
        mean_count=context.mean_count,
    )


def pixel_mean(cost_BHW: Tensor, chosen_BHW: Tensor, counted_BHW: Tensor, context: MethodContext) -> Tensor:
    """Sum of the costs of chosen pixels over the number of counted ones (in the global batch), or over the sum of their
    weights where these are given for `counted_BHW`; 0 where there is none.

    What is not chosen gets no gradient, even where its cost is not finite.
    """
    total = cost_BHW.masked_fill(~chosen_BHW, 0.0).sum()
    return mean_of(total, context.mean_count(counted_BHW.sum().to(total.dtype)))


def ramp_up(done: float, share: float) -> float:
    """exp(-5 (1 - done / share)^2), then 1 (Laine & Aila 2017)."""
    return 1.0 if done >= share else math.exp(-5.0 * (1.0 - done / share) ** 2)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Evaluation mode within, for pseudo-labels of a network that is in training."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)


def classify(
    logits_BChw: Tensor, target_BHW: Tensor, context: MethodContext, among_BHW: Tensor | None = None
) -> Tensor:
    """Cross entropy at full resolution, over the pixels of the target or of `among_BHW`, which it is a part of."""
    return cross_entropy(
        logits_BChw,
        target_BHW,
        among_BHW=among_BHW,
        normalise=context.train.normalise,
        mean_count=context.mean_count,
        align_corners=context.align_corners,
    )


def contrast(output: Output, target_BHW: Tensor, context: MethodContext) -> Parts:
    """ReCo at the head's resolution, labels nearest-downsampled (S4AL+ section 3.1); nothing without the head."""
    if output.embedding is None:
        return {}
    label_Bhw = F.interpolate(target_BHW[:, None].float(), output.logits.shape[2:], mode="nearest")[:, 0].long()
    with torch.no_grad():
        p_BChw = wide(output.logits).softmax(dim=1)
        own_Bhw = label_Bhw.clamp_max(p_BChw.shape[1] - 1)[:, None]  # ignored pixels are never looked at
        p_own_Bhw = p_BChw.gather(1, own_Bhw)[:, 0]
    loss = reco_loss(
        output.embedding,
        label_Bhw,
        p_own_Bhw,
        temperature=context.reco.temperature,
        queries=context.reco.queries,
        negatives=context.reco.negatives,
        hard_threshold=context.reco.hard_threshold,
        generator=context.generator,
    )
    return {"reco": context.reco.weight * loss}
