"""BatchNorm folded into the convolution before it, for a network that is only evaluated: the same function, with fewer
passes over memory."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
PROBE = 64
"""Side of the image whose way through the network says which BatchNorm follows which convolution."""


@torch.no_grad()
def fold(network: Network) -> Network:
    """In place, in evaluation mode, and with what follows a BatchNorm (timm's has an activation) left where it is.

    A BatchNorm is folded where its input is what a convolution has just given.  Dropout stays.
    """
    network.eval()
    names = {module: name for name, module in network.named_modules()}
    for bn, conv in _pairs(network).items():
        # In float64: the product of two rounded numbers would be rounded once more.
        weight, bias = (value.double() for value in _scale_and_shift(bn))
        conv.weight.data = (conv.weight.double() * weight.view(-1, 1, 1, 1)).to(conv.weight.dtype)
        before = 0.0 if conv.bias is None else conv.bias.double()
        conv.bias = nn.Parameter((before * weight + bias).to(conv.weight.dtype))
        parent, _, name = names[bn].rpartition(".")
        setattr(network.get_submodule(parent), name, getattr(bn, "act", nn.Identity()))
    return network


def _scale_and_shift(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = bn.weight.double() * (bn.running_var.double() + bn.eps).rsqrt()
    return scale, bn.bias.double() - bn.running_mean.double() * scale


def _pairs(network: nn.Module) -> dict[nn.BatchNorm2d, nn.Conv2d]:
    """Each BatchNorm whose input is the very tensor that a convolution gives.

    Were that tensor read by anything else, too, folding would change what that reads; no network here does so.
    """
    given: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            given[id(output)] = module, output  # kept, so that no other tensor gets this id
        elif isinstance(module, nn.BatchNorm2d) and (found := given.get(id(inputs[0]))):
            pairs[module] = found[0]

    handles = [
        module.register_forward_hook(after)
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
    ]
    first = next(network.parameters())
    try:
        network(torch.zeros(1, 3, PROBE, PROBE, dtype=first.dtype, device=first.device))
    finally:
        for handle in handles:
            handle.remove()
    return pairs
