"""One process of a training, as the training sees it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


def _identity(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True, slots=True)
class Worker:
    """What differs between one process and a group of them."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda model: model
    mean: Callable[[Tensor], Tensor] = _identity
    """Mean of a tensor over the ranks."""
    broadcast: Callable[[Tensor], None] = lambda value: None
    """Makes a tensor that of rank 0."""
    report: Callable[[dict[str, float]], None] = lambda metrics: None
