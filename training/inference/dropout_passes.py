"""Forward passes with dropout (Gal and Ghahramani 2016): everything but what is random stays in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from training.network.deeplab import DeepLabV3Plus

RANDOM = (nn.Dropout, nn.Dropout2d, DropPath)


def dropout_passes(model: DeepLabV3Plus, inputs: Sequence[Tensor], passes: int, seed: int) -> Iterator[list[Tensor]]:
    """The logits (1, C, h, w) of each pass for every input (1, 3, H, W), at stride 4 of it.

    What comes before the first random module is computed once.  The draws of a pass depend on `seed`, its number and
    the order of inputs alone; the generators outside are left as they were, and the modules are in evaluation mode
    whenever the caller has control.
    """
    assert not model.training, "the network is in evaluation mode, BatchNorm above all"
    last = model.aspp.dropout
    deep = [module for module in model.modules() if isinstance(module, RANDOM) and module is not last and _on(module)]
    device = inputs[0].device
    necks: list[tuple[Tensor, Tensor]] = []
    for number in range(passes):
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed + number)
            try:
                for module in deep:
                    module.train()
                if deep or not necks:
                    necks = [model.neck(*model.encode(x_1CHW)) for x_1CHW in inputs]
                last.train()
                logits = [model.heads(last(aspp), low).logits for aspp, low in necks]
            finally:
                for module in (*deep, last):
                    module.eval()
        yield logits


def _on(module: nn.Module) -> bool:
    return bool(module.drop_prob if isinstance(module, DropPath) else module.p)
