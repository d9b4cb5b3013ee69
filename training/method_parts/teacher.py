"""The mean teacher (Tarvainen & Valpola 2017): an exponential moving average of a network over the steps."""

import copy

import torch
from torch import Tensor, nn

from training.network.deeplab import Output
from training.network.segmenter import Segmenter


class Teacher(nn.Module):
    """Averages parameters and buffers (BatchNorm's statistics, too), never trains, always in evaluation mode.

    Starts as a copy of the student.
    """

    def __init__(self, student: Segmenter) -> None:
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Teacher":
        return super().train(False)

    @torch.no_grad()
    def forward(self, image_BCHW: Tensor) -> Output:
        output: Output = self.network(image_BCHW)
        return output

    @torch.no_grad()
    def follow(self, student: nn.Module, number: int, decay: float) -> None:
        """After step `number` (from 0): own = a * own + (1 - a) * student with a = min(1 - 1 / (number + 1), decay).

        The ramp forgets the first values, which say nothing; counters are copied.
        """
        keep = min(1 - 1 / (number + 1), decay)
        for own, new in zip(self.network.state_dict().values(), student.state_dict().values(), strict=True):
            if own.is_floating_point():
                own.lerp_(new, 1 - keep)
            else:
                own.copy_(new)
