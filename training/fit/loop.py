"""The training loop.  It knows no Ray, no rank and no tracker: those arrive as arguments."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from querying.base.errors import Interrupted
from training.batches.batch import Batch
from training.fit.optim import set_lr

TIMINGS = ("train/images_per_second", "train/waiting_for_data")
"""Metrics of an epoch that differ from run to run."""
STOPPED = "stopped after step {}, state saved: the same command continues there"


@dataclass(slots=True)
class Progress:
    """Where a training stands: plain numbers, kept with the weights."""

    step: int = 0
    """Finished steps."""
    history: list[dict[str, float]] = field(default_factory=list)
    """Metrics of the finished epochs."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of the unfinished epoch: losses, added up."""
    images: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Of these seconds: until a batch was there."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_parts: Callable[[nn.Module, Batch, int], dict[str, Tensor]],
    batches: Callable[[range], Iterator[Batch]],
    progress: Progress,
    *,
    epochs: int,
    steps_per_epoch: int,
    lr_at: Callable[[int], float],
    seed_at: Callable[[int], None],
    mean_over_ranks: Callable[[Tensor], Tensor],
    should_stop: Callable[[], bool],
    after_step: Callable[[int], None],
    on_step: Callable[[Progress, float], None],
    validate: Callable[[], dict[str, float]],
    on_epoch: Callable[[dict[str, float]], None],
    save: Callable[[], None],
) -> None:
    """Go on from `progress` to the end of the last epoch; each step is a function of its number alone.

    FloatingPointError names the epoch and step of a loss that is not finite; every rank raises it together.  Where
    any rank should stop, all of them finish the step, `save`, and raise Interrupted.  `validate` adds metrics when the
    steps of an epoch are done; where it raises, the epoch is not finished, and the next attempt begins with it.
    """
    stop = 0.0
    for epoch in range(len(progress.history), epochs):
        model.train()
        lr = lr_at(epoch)
        set_lr(optimizer, lr)

        started = time.perf_counter() - progress.seconds
        steps = range(progress.step, (epoch + 1) * steps_per_epoch)
        for step, batch in zip(steps, _timed(batches(steps), progress), strict=True):
            # forward, backward, update
            seed_at(step)
            parts = loss_parts(model, batch, step)
            loss = torch.stack(list(parts.values())).sum()
            own = torch.stack([*(part.detach() for part in parts.values()), loss.new_tensor(float(should_stop()))])
            mean = mean_over_ranks(own)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            *values, stop = mean.tolist()  # a GPU is waited for here, when it has all of the step to do
            if not all(map(math.isfinite, values)):
                shown = ", ".join(f"{name} {value:g}" for name, value in zip(parts, values, strict=True))
                raise FloatingPointError(f"epoch {epoch}, step {step}: the loss is not finite ({shown})")
            after_step(step)

            # account
            progress.step = step + 1
            for name, value in zip(parts, values, strict=True):
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.images += len(batch.image) + len(batch.image_u)
            progress.seconds = time.perf_counter() - started
            on_step(progress, sum(values))
            if stop and progress.step < steps.stop:
                save()
                raise Interrupted(STOPPED.format(progress.step))

        metrics = {f"train/{name}": total / steps_per_epoch for name, total in progress.sums.items()}
        metrics["train/loss"] = sum(progress.sums.values()) / steps_per_epoch
        metrics["train/lr"] = lr
        metrics["train/images_per_second"] = progress.images / progress.seconds
        metrics["train/waiting_for_data"] = progress.waited / progress.seconds
        metrics |= validate()
        progress.history.append({"epoch": epoch, **metrics})
        progress.sums, progress.images, progress.seconds, progress.waited = {}, 0, 0.0, 0.0
        on_epoch(metrics)
        if stop:
            save()
            raise Interrupted(STOPPED.format(progress.step))


def _timed(batches: Iterator[Batch], progress: Progress) -> Iterator[Batch]:
    """The batches; the time until each is there counts as waited."""
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            return
        progress.waited += time.perf_counter() - asked
        yield batch
