"""What a training step sees."""

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """uint8 images (B, 3, h, w) and targets (B, h, w); 255 is unknown.  `_u` is the pool; empty in cycle 0."""

    image: Tensor
    target: Tensor
    image_u: Tensor
    target_u: Tensor

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        return Batch(*(t.pin_memory().to(device, non_blocking=True) for t in self))
