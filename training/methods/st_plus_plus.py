"""The teacher of ST++ (Yang et al. 2022): supervised, and remembers what it was after one and two thirds of its steps.

How far these agree with the last network on an image of the pool says how reliable its pseudo-label is
(`training/inference/ranking.py`).  The two students are plain self-training.
"""

import copy

from torch import nn

from training.method_parts.method import NewNetwork
from training.method_parts.parts import MethodContext
from training.methods.supervised import Supervised
from training.network.segmenter import Segmenter


class STPlusPlus(Supervised):
    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        super().__init__(new_network, context)
        total = context.train.epochs * context.train.steps_per_epoch
        self.steps = sorted({-(-third * total // 3) for third in (1, 2)})
        # Modules, so that every saved state of the training holds them.
        self.copies = nn.ModuleList(copy.deepcopy(self.network).requires_grad_(False) for _ in self.steps)

    def after_step(self, number: int) -> None:
        if number + 1 in self.steps:
            self.copies[self.steps.index(number + 1)].load_state_dict(self.network.state_dict())

    def early(self) -> dict[int, Segmenter]:
        return dict(zip(self.steps, self.copies, strict=True))  # type: ignore[arg-type]  # ModuleList forgets the type
