"""Learning-rate schedule as a function of the step: no scheduler object, nothing to checkpoint."""

import math

from torch.optim import Optimizer


def poly_lr(step: int, *, total: int, base: float, power: float = 0.9) -> float:
    """base * (1 - step / total) ** power for step in 0..total."""
    assert 0 <= step <= total
    return base * math.pow(1.0 - step / total, power)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Give every parameter group `lr` times its own `lr_scale` (see `training.network.deeplab.parameter_groups`)."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
