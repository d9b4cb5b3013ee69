"""The cheapest decoders: a linear classifier of the encoder's features, and an MLP over its levels (SegFormer).

Shape suffixes: B = images, C = channels of a map of the encoder, D = channels of the joined map, O = output channels,
h and w = cells of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class JoinedMaps(nn.Module):
    """BatchNorm over the encoder's last map, joined with those before it that have its stride: all four of a plain
    transformer (what DINOv2's linear probe looks at), those of the dilated stages of a CNN, else the last alone."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.taken = [number for number, stride in enumerate(strides) if stride == strides[-1]]
        self.channels = sum(channels[number] for number in self.taken)
        self.bn = nn.BatchNorm2d(self.channels)

    def forward(self, *maps_BChw: Tensor) -> Tensor:
        """-> (B, D, h, w) at the last map's stride."""
        return self.bn(torch.cat([maps_BChw[number] for number in self.taken], dim=1))  # type: ignore[no-any-return]


class MixedMaps(nn.Module):
    """SegFormer's decoder (Xie et al. 2021): each map is projected to `channels`, brought to the finest map's size, and
    all are mixed by a 1x1 convolution with BatchNorm and ReLU."""

    def __init__(self, channels: Sequence[int], width: int, *, align_corners: bool = False) -> None:
        super().__init__()
        self.channels, self.align_corners = width, align_corners
        self.project = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.mix = nn.Conv2d(len(channels) * width, width, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, *maps_BChw: Tensor) -> Tensor:
        """-> (B, D, h, w) at the first map's stride."""
        size = maps_BChw[0].shape[2:]
        projected = [project(map_BChw) for project, map_BChw in zip(self.project, maps_BChw, strict=True)]
        # SegFormer has the coarsest first.
        x_BDhw = torch.cat([self._at(size, x_BChw) for x_BChw in reversed(projected)], dim=1)
        return self.act(self.bn(self.mix(x_BDhw)))  # type: ignore[no-any-return]

    def _at(self, size: torch.Size, x_BDhw: Tensor) -> Tensor:
        if x_BDhw.shape[2:] == size:
            return x_BDhw
        return F.interpolate(x_BDhw, size, mode="bilinear", align_corners=self.align_corners)


class LinearHead(nn.Module):
    """1x1 convolution of the joined map: the classifier, and the representation head too."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.out = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, O, h, w)."""
        return self.out(x_BDhw)  # type: ignore[no-any-return]
