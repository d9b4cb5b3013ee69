"""CUDA graphs: a network of some hundred small kernels is launched as one, forward and backward."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from training.network.segmenter import Output, Segmenter


def capture(network: Segmenter, shape: tuple[int, int, int, int]) -> None:
    """Let a network in training mode replay its kernels on float32 images of `shape` (B, 3, H, W); all else runs as
    before.

    Call it under the autocast that the training uses, with `cache_enabled=False`.  A replay writes over the outputs of
    the one before it, so a method may call its network once a step only.  Parameters, statistics and random numbers are
    those of the plain network: dropout draws from the seed that holds when it is replayed.
    """
    assert network.training
    own, plain = weakref.ref(network), type(network).forward
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    sample = torch.zeros(shape, device=next(network.parameters()).device).contiguous(memory_format=torch.channels_last)
    if hasattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch"):  # a capture is on its own stream
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    tensors = _Tensors(network)
    replay: Any = torch.cuda.make_graphed_callables(tensors, (sample,))
    del tensors.network  # or network and graph would hold each other, and their memory, until Python looks for cycles
    for name, buffer in network.named_buffers():  # the warm-up has moved BatchNorm's statistics
        buffer.copy_(before[name])

    def forward(image_BCHW: Tensor) -> Output:
        network = own()
        assert network is not None
        if not network.training or image_BCHW.shape != sample.shape or not torch.is_grad_enabled():
            return plain(network, image_BCHW)
        logits, *embedding = replay(image_BCHW)
        return Output(logits, embedding[0] if embedding else None)

    network.forward = forward  # type: ignore[method-assign]


class _Tensors(nn.Module):
    """Only tensors can be outputs of a graph."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        return tuple(map_ for map_ in self.network(image_BCHW) if map_ is not None)
