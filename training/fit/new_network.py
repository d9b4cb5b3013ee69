"""The network that a training begins with."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import torch

from training.method_parts.method import NewNetwork
from training.network.deeplab import DeepLabV3Plus, build_model
from training.network.first_weights import load_backbone

if TYPE_CHECKING:
    from training.fit.job import TrainJob


def new_networks(job: TrainJob, num_classes: int, device: torch.device) -> NewNetwork:
    """Makes networks with the ImageNet encoder and fresh heads from the seed: every cycle starts anew (S4AL+ section
    4.1), and every network of a method with other heads."""
    made = itertools.count()

    def new_network(embedding: bool) -> DeepLabV3Plus:
        number = next(made)
        entropy = [job.seed, job.cycle, *([0, 0, number] if number else [])]  # a step's seed has four numbers
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))
        model = build_model(job.model, num_classes, embedding=embedding)
        if job.backbone:
            load_backbone(model, job.backbone)
        if job.train.sync_bn and device.type == "cuda":
            from timm.layers.norm_act import convert_sync_batchnorm  # knows timm's BatchNorm with activation

            model = convert_sync_batchnorm(model)
        return model.to(memory_format=torch.channels_last)

    return new_network
