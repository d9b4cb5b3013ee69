"""The training loop.  It knows no Ray, no rank and no tracker: those arrive as arguments."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.batch import Batch
from training.optim import set_lr

Report = Callable[[int, dict[str, float]], None]


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_parts: Callable[[nn.Module, Batch, int], dict[str, Tensor]],
    batches: Callable[[range], Iterator[Batch]],
    *,
    first_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    lr_at: Callable[[int], float],
    seed_at: Callable[[int], None],
    mean_over_ranks: Callable[[Tensor], Tensor],
    on_step: Callable[[int, float], None],
    on_epoch: Report,
) -> None:
    """Epochs `first_epoch` to `epochs` - 1; each step is a function of its number alone.

    FloatingPointError names the epoch and step of a loss that is not finite; every rank raises it together.
    """
    for epoch in range(first_epoch, epochs):
        model.train()
        started, images = time.perf_counter(), 0
        sums: Counter[str] = Counter()
        lr = lr_at(epoch)
        set_lr(optimizer, lr)

        steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        for step, batch in zip(steps, batches(steps), strict=True):
            # forward, backward, update
            seed_at(step)
            parts = loss_parts(model, batch, step)
            loss = torch.stack(list(parts.values())).sum()
            values = mean_over_ranks(torch.stack([part.detach() for part in parts.values()])).tolist()
            if not all(map(math.isfinite, values)):
                shown = ", ".join(f"{name} {value:g}" for name, value in zip(parts, values, strict=True))
                raise FloatingPointError(f"epoch {epoch}, step {step}: the loss is not finite ({shown})")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

            # account
            sums.update(dict(zip(parts, values, strict=True)))
            images += len(batch.image) + len(batch.image_u)
            on_step(step + 1, sum(values))
        metrics: dict[str, Any] = {f"train/{name}": total / steps_per_epoch for name, total in sums.items()}
        metrics["train/loss"] = sum(sums.values()) / steps_per_epoch
        metrics["train/lr"] = lr
        metrics["train/images_per_second"] = images / (time.perf_counter() - started)
        on_epoch(epoch, metrics)
