"""What every network is: an encoder that gives feature maps, and a decoder that makes class scores of them.

Shape suffixes: B = images, C = colour channels, H and W = pixels of the image, h and w = cells of a feature map.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.network.backbones import build_encoder
from training.network.decoder import UpsampleConcatConv
from training.network.difficulty_branch import DifficultyBranch
from training.network.timm_encoder import next_multiple

if TYPE_CHECKING:
    from training.settings.training import ModelSettings


class Output(NamedTuple):
    """Both maps at the same stride, which is 4 of DeepLabv3+ (rounded up), the output stride of a network without
    decoder, and what `OneMapNetwork` says of the others; at the size of the image where that was padded (see
    `Segmenter.fit`)."""

    logits: Tensor
    """(B, classes, h, w)"""
    embedding: Tensor | None
    """(B, embedding_dim, h, w); None where the model has no representation head."""


class Widths(NamedTuple):
    """Channels."""

    classes: int
    features: int
    """Channels of the first map that `neck` gives."""
    embedding: int
    """0 without a representation head."""
    doublings: int = 2
    """How often that map's side is doubled up to the logits', about: 4 times of 16 pixels; 0 where it is as fine."""


class Segmenter(nn.Module):
    """A network of an encoder and a decoder.  A decoder is a subclass: it says by the setting `model.decoder` which
    maps it wants (`training.network.backbones.maps_wanted`), and defines `neck`, `heads` and `widths`.

    Sizes.  Encoders of plain convolutions take images of any size.  One that does not (`encoder.multiple` above 1: a
    vision transformer's patches, ConvNeXt's strides) pads the image with zeros, which are ImageNet's mean colour, at
    the right and bottom to the next multiple, and gives the maps of the padded image.  Logits made of them belong to
    the padded image: `fit` upsamples them to its pixels and cuts off the padding, so that each pixel's logits are
    exactly those that it has in an image padded by hand.
    """

    def __init__(self, settings: ModelSettings, modules: Path | None = None) -> None:
        super().__init__()
        self.backbone = settings.backbone
        """Names the encoder."""
        self.encoder = build_encoder(settings, modules)
        self.multiple: int = getattr(self.encoder, "multiple", 1)
        """Height and width of what the encoder sees are multiples of it."""
        self.align_corners = settings.align_corners
        """Whether corners are aligned, also in the logits' upsampling to full size, which is the caller's."""
        self.difficulty: DifficultyBranch | None = None
        """DEAL's, which reads the logits: no part of the forward pass."""

    def forward(self, image_BCHW: Tensor) -> Output:
        """(B, 3, H, W) normalised float -> logits and embedding."""
        return self.decode(*self.encode(image_BCHW), size=image_BCHW.shape[2:])

    def encode(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """The encoder's maps, of the padded image, the finest first: as many as the decoder wants."""
        return tuple(self.encoder(image_BCHW.contiguous(memory_format=torch.channels_last)))

    def decode(self, *maps: Tensor, size: Sequence[int] | None = None) -> Output:
        """The heads' output from `encode`'s maps, or from what a method has made of them; `size` is the image's height
        and width, which may only be left out where the encoder takes every size."""
        return self.fit(self.heads(*self.neck(*maps)), size)

    def neck(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """What the heads read, of the padded image: first the deep features that extras, core-sets and CCT take."""
        raise NotImplementedError

    def heads(self, *features: Tensor) -> Output:
        """Logits and embedding of the padded image, from what `neck` gives."""
        raise NotImplementedError

    def widths(self) -> Widths:
        raise NotImplementedError

    @property
    def last_dropout(self) -> nn.Module | None:
        """Dropout of `neck`'s first map, with nothing random and nothing else behind it in `neck`; None without."""
        return None

    def set_fused(self, fused: bool) -> None:
        """Choose the form of the decoder's 3x3 convolutions: fused (default), or plain as a reference."""
        for module in self.modules():
            if isinstance(module, UpsampleConcatConv):
                module.fused = fused

    @property
    def unfolded(self) -> nn.Module | None:
        """A part whose BatchNorm follows no convolution, so that none can take it over; None without."""
        return None

    def padded(self, size: Sequence[int]) -> tuple[int, int]:
        """Height and width that the encoder sees of an image of this size."""
        height, width = (next_multiple(side, self.multiple) for side in size)
        return height, width

    def unpadded(self, map_BChw: Tensor, size: Sequence[int]) -> Tensor:
        """The cells of a map of the padded image in which an image of `size` lies, at least in part."""
        sides = zip(map_BChw.shape[2:], size, self.padded(size), strict=True)
        rows, columns = ((cells * side + padded - 1) // padded for cells, side, padded in sides)
        return map_BChw[..., :rows, :columns]

    def fit(self, output: Output, size: Sequence[int] | None) -> Output:
        """The output of an image of `size` from that of the padded image: itself where nothing was padded, else
        upsampled (bilinear) to the padded image's pixels, of which the image's remain."""
        if self.multiple == 1:
            return output
        if size is None:
            raise ValueError(f"decode: {self.backbone} pads images to a multiple of {self.multiple}: say their `size`")
        height, width = size
        padded = self.padded(size)
        if not torch.compiler.is_exporting() and padded == (height, width):
            return output

        def cut(map_BChw: Tensor) -> Tensor:
            full = F.interpolate(map_BChw, padded, mode="bilinear", align_corners=self.align_corners)
            return full[..., :height, :width]

        return Output(cut(output.logits), None if output.embedding is None else cut(output.embedding))
