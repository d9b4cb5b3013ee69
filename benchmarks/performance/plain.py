"""The network as a plain port of research code runs it: the libraries' own layers, NCHW, the decoder's convolution over
concatenated maps."""

from __future__ import annotations

from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn

from training.kernels.depthwise import SparseDepthwiseConv
from training.kernels.expansion import ExpandingBlock
from training.network.decoder import Head, RepresentationHead
from training.network.deeplab import ConvBNReLU, Output
from training.network.segmenter import Segmenter

PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    ExpandingBlock: InvertedResidual,
    RepresentationHead: Head,
    ConvBNReLU: nn.Sequential,
    SparseDepthwiseConv: nn.Conv2d,
}
"""What each layer of ours computes, layer by layer and with PyTorch's gradients; with the same weights and names."""


def make_plain(network: Segmenter) -> Segmenter:
    """Exchange our layers, in place; the function stays the same."""
    for module in network.modules():
        if type(module) in PLAIN:
            module.__class__ = PLAIN[type(module)]  # each is a subclass that adds no weights
    network.set_fused(False)
    return network


def run_plain(network: Segmenter, image_BCHW: Tensor) -> Output:
    """Its forward pass in NCHW; `encode` would bring the channels last."""
    return network.decode(*network.encoder(image_BCHW.contiguous()))
