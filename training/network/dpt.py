"""The decoder of dense prediction transformers (Ranftl et al. 2021), in the form that UniMatch V2 uses with DINOv2.

Four maps of the encoder become a pyramid of strides and are fused from the coarsest to the finest; there is no
BatchNorm, so that a batch of one image is enough.  The map in front of the classifier is twice as fine as the
pyramid's finest: 8 cells for a patch of a plain vision transformer along a side, stride 2 behind an encoder whose
finest map has stride 4.  What reads the logits upsamples them from there.

Shape suffixes: B = images, C = channels of a map of the encoder, F = channels of the fused map, O = output channels,
h and w = cells of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 4
PUBLISHED_WIDTHS = {1024: ((256, 512, 1024, 1024), 256), 1536: ((1536, 1536, 1536, 1536), 384)}
"""Of ViT-L and ViT-g, which are not what the rule gives."""


def dpt_widths(dimension: int) -> tuple[tuple[int, ...], int]:
    """Channels of the four levels of a transformer of this width, and of the fused map: its eighth, quarter, half and
    all, and its sixth, as published for ViT-S and ViT-B; a smaller one's follow the same rule."""
    if dimension in PUBLISHED_WIDTHS:
        return PUBLISHED_WIDTHS[dimension]
    return tuple(max(8, dimension >> shift) for shift in (3, 2, 1, 0)), fused_channels(dimension)


def fused_channels(dimension: int) -> int:
    """A sixth, rounded up to a multiple of 8."""
    return -(-dimension // 48) * 8


class DPT(nn.Module):
    """Four maps of an encoder, the finest or first block first -> the fused map, of `channels`.

    Maps of one stride, a plain transformer's, are first brought to four strides; maps of an encoder that has a pyramid
    of its own are taken as they are.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        assert len(channels) == len(strides) == LEVELS, "the settings refuse an encoder with fewer maps"
        plain = len(set(strides)) == 1
        levels, self.channels = dpt_widths(max(channels)) if plain else (tuple(channels), fused_channels(max(channels)))
        self.reassemble = nn.ModuleList(
            _reassembled(channels[level], width, level) if plain else nn.Identity()
            for level, width in enumerate(levels)
        )
        self.reduce = nn.ModuleList(nn.Conv2d(width, self.channels, 3, padding=1, bias=False) for width in levels)
        coarsest = LEVELS - 1
        self.fuse = nn.ModuleList(Fusion(self.channels, joins=level != coarsest) for level in range(LEVELS))

    def forward(self, *maps_BChw: Tensor) -> Tensor:
        """-> (B, F, h, w), twice as fine as the finest level."""
        levels = [
            reduce(reassemble(map_BChw))
            for reduce, reassemble, map_BChw in zip(self.reduce, self.reassemble, maps_BChw, strict=True)
        ]
        x_BFhw: Tensor | None = None
        for number in reversed(range(LEVELS)):
            size = [2 * side for side in levels[0].shape[2:]] if number == 0 else list(levels[number - 1].shape[2:])
            x_BFhw = self.fuse[number](levels[number], x_BFhw, size)
        assert x_BFhw is not None
        return x_BFhw


class Fusion(nn.Module):
    """One step from a coarser level to a finer one: R2(coarser + R1(level)), then to the next level's size, then a 1x1
    convolution.  The coarsest level has nothing to join, and no R1: a parameter without gradient would stall several
    workers."""

    def __init__(self, channels: int, *, joins: bool) -> None:
        super().__init__()
        self.join = ResidualUnit(channels) if joins else None
        self.refine = ResidualUnit(channels)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, level_BFhw: Tensor, coarser_BFhw: Tensor | None, size: list[int]) -> Tensor:
        if self.join is not None:
            assert coarser_BFhw is not None
            level_BFhw = coarser_BFhw + self.join(level_BFhw)
        x_BFhw = F.interpolate(self.refine(level_BFhw), size, mode="bilinear", align_corners=True)
        return self.out(x_BFhw)  # type: ignore[no-any-return]


class ResidualUnit(nn.Module):
    """x + two 3x3 convolutions, each with a ReLU in front."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x_BFhw: Tensor) -> Tensor:
        # No module: the convolution that made x could take it for its own activation (`training.inference.folding`),
        # but x is added, too.
        return x_BFhw + self.conv2(self.act(self.conv1(F.relu(x_BFhw))))  # type: ignore[no-any-return]


class DPTHead(nn.Module):
    """3x3 convolution of the fused map, ReLU, 1x1 convolution: the classifier, and the representation head too."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x_BFhw: Tensor) -> Tensor:
        """(B, F, h, w) -> (B, O, h, w)."""
        return self.out(self.act(self.conv(x_BFhw)))  # type: ignore[no-any-return]


def _reassembled(channels: int, width: int, level: int) -> nn.Sequential:
    """A plain transformer's map as level 0 to 3 of the pyramid: 4 times, twice, once and half as fine."""
    resize = (
        nn.ConvTranspose2d(width, width, 4, stride=4),
        nn.ConvTranspose2d(width, width, 2, stride=2),
        nn.Identity(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
    )[level]
    return nn.Sequential(nn.Conv2d(channels, width, 1), resize)
