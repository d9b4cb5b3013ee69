"""Forward passes with dropout (Gal and Ghahramani 2016): everything but what is random stays in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from training.network.segmenter import Segmenter

RANDOM = (nn.Dropout, nn.Dropout2d, DropPath)


def dropout_passes(model: Segmenter, inputs: Sequence[Tensor], passes: int, seed: int) -> Iterator[list[Tensor]]:
    """The logits (1, C, h, w) of each pass for every input (1, 3, H, W), at stride 4 of it.

    What comes before the first random module is computed once.  The draws of a pass depend on `seed`, its number and
    the order of inputs alone; the generators outside are left as they were, and the modules are in evaluation mode
    whenever the caller has control.
    """
    assert not model.training, "the network is in evaluation mode, BatchNorm above all"
    last = model.last_dropout
    deep = [module for module in model.modules() if isinstance(module, RANDOM) and module is not last and _on(module)]
    device = inputs[0].device
    necks: list[tuple[Tensor, ...]] = []
    for number in range(passes):
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed + number)
            try:
                for module in deep:
                    module.train()
                if deep or not necks:
                    necks = [model.neck(*model.encode(x_1CHW)) for x_1CHW in inputs]
                logits = []
                for x_1CHW, (first, *rest) in zip(inputs, necks, strict=True):
                    seen = first if last is None else last.train()(first)
                    logits.append(model.fit(model.heads(seen, *rest), x_1CHW.shape[2:]).logits)
            finally:
                for part in (*deep, *([] if last is None else [last])):
                    part.eval()
        yield logits


def _on(module: nn.Module) -> bool:
    return bool(module.drop_prob if isinstance(module, DropPath) else module.p)
