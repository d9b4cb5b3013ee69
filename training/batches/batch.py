"""What a training step sees."""

from typing import NamedTuple

import torch
from torch import Tensor

_NO_VIEWS = torch.zeros(0, 0, 3, 0, 0, dtype=torch.uint8)
_NO_LOOKS = torch.zeros(0, 0, 0)
_NOTHING_SEEN = torch.zeros(0, 0, 0, 0, dtype=torch.bool)


class Batch(NamedTuple):
    """uint8 images (B, 3, h, w) and targets (B, h, w); 255 is unknown.  `_u` is the pool; empty in cycle 0.

    For a method that labels the pool on the fly, `image_u` is weakly augmented, and `target_u` has bought cells alone.
    """

    image: Tensor
    target: Tensor
    image_u: Tensor
    target_u: Tensor
    strong_u: Tensor = _NO_VIEWS
    """(V, B, 3, h, w): strong augmentations of `image_u`, pixel by pixel the same place."""
    seen_u: Tensor = _NOTHING_SEEN
    """(1 + V, B, h, w): False where `image_u` (first) and the strong views show padding or a CutOut hole."""

    looks: Tensor = _NO_LOOKS
    """(V, B, numbers): strong augmentations that are still to be made (`training/batches/strong_view.py`); stays on the
    CPU."""

    def parts(self, most: int) -> "list[Batch]":
        """Labelled and pool images in parts of at most `most`, as equal as can be; views are left out."""
        known, total = len(self.image), len(self.image) + len(self.image_u)
        found, first = [], 0
        for part in torch.arange(total).tensor_split(-(-total // most)):
            last = first + len(part)
            own, pool = slice(first, last), slice(max(0, first - known), max(0, last - known))
            found.append(Batch(self.image[own], self.target[own], self.image_u[pool], self.target_u[pool]))
            first = last
        return found

    def pinned(self) -> "Batch":
        return Batch._make([*(tensor.pin_memory() for tensor in self[:-1]), self.looks])

    def to(self, device: torch.device) -> "Batch":
        if device.type == "cpu":
            return self
        return Batch._make([*(tensor.to(device, non_blocking=True) for tensor in self[:-1]), self.looks])
