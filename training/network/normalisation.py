"""What every network is given: float32 images, with ImageNet's mean and standard deviation taken out."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(image_BCHW: Tensor) -> Tensor:
    """uint8 RGB -> float32 with ImageNet's mean and standard deviation, channels last in memory.

    The input of every network, exported ones among them; an encoder whose weights have seen others changes it itself
    (`training.network.timm_encoder`).
    """
    assert image_BCHW.dtype == torch.uint8
    mean, std = _imagenet(image_BCHW.device)
    return image_BCHW.to(torch.float32, memory_format=torch.channels_last).div_(255).sub_(mean).div_(std)


@cache
@torch.inference_mode(False)
def _imagenet(device: torch.device) -> tuple[Tensor, Tensor]:
    """Kept, because a GPU is waited for when it is given numbers."""
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return mean, std
