"""The optimiser, and its learning rate as a function of the step: no scheduler object, nothing to checkpoint."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from training.fit.groups import parameter_groups

if TYPE_CHECKING:
    from training.settings.training import TrainSettings


def new_optimizer(model: nn.Module, train: TrainSettings) -> Optimizer:
    """`train.optimizer` for all that is trained in `model`; one kernel a group, the same bits in every run."""
    groups = parameter_groups(model, train)
    if train.optimizer == "adamw":
        return AdamW(groups, lr=train.lr, betas=train.betas, fused=True)
    nesterov = train.nesterov and train.momentum > 0
    return SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=nesterov, fused=True)


def learning_rate(step: int, train: TrainSettings) -> float:
    """The encoder's rate in step 0, 1, ... of `train.epochs * train.steps_per_epoch`.

    It rises linearly, step by step, over the share `warmup` of the steps and falls, epoch by epoch, over those that are
    left: with d the share of these that lies behind, as (1 - d) ** poly_power or as (1 + cos(pi d)) / 2.
    """
    total = train.epochs * train.steps_per_epoch
    assert 0 <= step < total
    done = max(0.0, step // train.steps_per_epoch / train.epochs - train.warmup) / (1 - train.warmup)
    cosine = train.schedule == "cosine"
    rate = train.lr * ((1 + math.cos(math.pi * done)) / 2 if cosine else math.pow(1.0 - done, train.poly_power))
    rise = (step + 1) / (train.warmup * total) if train.warmup else 1.0
    return rate * min(1.0, rise)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group `lr` times its own `lr_scale` (see `training.fit.groups.parameter_groups`)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def clip(optimizer: Optimizer, norm: float) -> None:
    """Shorten the gradient of all parameters together to at most `norm`.  Where workers have joined theirs, all have
    the same and shorten it alike."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    torch.nn.utils.clip_grad_norm_(parameters, norm)
