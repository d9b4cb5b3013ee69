"""DeepLabv3+ (Chen et al. 2018) with a class head and, where a method asks for it, a representation head; or
DeepLabv3 (Chen et al. 2017), which has no decoder.

Shape suffixes: B = images, C = colour channels, H and W = pixels of the image, h and w = cells of a feature map.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from training.kernels.expansion import expand
from training.network.decoder import Classifier, DeepHead, Head, RepresentationHead, UpsampleConcatConv
from training.network.normalisation import normalise
from training.network.one_map import OneMapNetwork
from training.network.segmenter import Output, Segmenter, Widths

if TYPE_CHECKING:
    from training.settings.training import ModelSettings

__all__ = ["ASPP", "DeepLabV3Plus", "Output", "Widths", "build_model", "normalise"]

ASPP_RATES = {32: (3, 6, 9), 16: (6, 12, 18), 14: (6, 12, 18), 8: (12, 24, 36)}


class ConvBNReLU(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int, *, dilation: int | None = None) -> None:
        """A 1x1 convolution, or a dilated 3x3 one that keeps the size."""
        if dilation is None:
            conv = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        else:
            conv = nn.Conv2d(channels_in, channels_out, 3, padding=dilation, dilation=dilation, bias=False)
        super().__init__(conv, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return expand(self[0], self[1], self[2], x_BCHW)  # type: ignore[arg-type]


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: 1x1, three dilated 3x3 and the image's mean, projected, then dropout."""

    def __init__(self, channels_in: int, channels: int, *, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        dilated = [ConvBNReLU(channels_in, channels, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList([ConvBNReLU(channels_in, channels), *dilated])
        self.pool = ConvBNReLU(channels_in, channels)
        self.project = ConvBNReLU((len(rates) + 2) * channels, channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, deep_BChw: Tensor) -> Tensor:
        """(B, channels_in, h, w) -> (B, channels, h, w).

        Raises ValueError in training mode at batch 1, where BatchNorm would see one value per channel.
        """
        if self.training and len(deep_BChw) < 2 and not isinstance(self.pool[1], nn.SyncBatchNorm):
            raise ValueError("image-pool BatchNorm needs at least 2 images per worker")
        pooled_BC11 = self.pool(deep_BChw.mean(dim=(2, 3), keepdim=True))
        pooled_BChw = pooled_BC11.expand(-1, -1, *deep_BChw.shape[2:])
        pooled_BChw = pooled_BChw.contiguous(memory_format=torch.channels_last)  # else all would be put together NCHW
        maps = [*(branch(deep_BChw) for branch in self.branches), pooled_BChw]
        return self.dropout(self.project(torch.cat(maps, dim=1)))  # type: ignore[no-any-return]


class DeepLabV3Plus(Segmenter):
    """Built by `build_model`."""

    def __init__(
        self, settings: ModelSettings, num_classes: int, *, embedding: bool, modules: Path | None = None
    ) -> None:
        super().__init__(settings, modules)
        low_channels, deep_channels = self.encoder.channels  # type: ignore[misc]
        rates = ASPP_RATES[settings.output_stride]
        self.aspp = ASPP(deep_channels, settings.aspp_channels, rates=rates, dropout=settings.dropout)
        plus = settings.decoder == "plus"
        assert plus or not embedding, "the settings refuse a representation head without decoder"
        self.low_level = ConvBNReLU(low_channels, settings.low_level_channels) if plus else None
        widths = (settings.aspp_channels, settings.low_level_channels, settings.decoder_channels)
        kind = DeepHead if settings.class_head == "deal" else Head
        self.class_head = kind(*widths, num_classes) if plus else Classifier(settings.aspp_channels, num_classes)
        # A head that no loss uses would stall distributed training, so it exists only on request.
        self.embedding_head = RepresentationHead(*widths, settings.embedding_dim) if embedding else None
        self.aspp_channels = settings.aspp_channels
        for module in self.modules():
            if isinstance(module, UpsampleConcatConv):
                module.align_corners = settings.align_corners

    def neck(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """ASPP's map at the output stride, and the low-level one at stride 4; without decoder the encoder's own."""
        low, deep = maps
        return self.aspp(deep), low if self.low_level is None else self.low_level(low)

    def heads(self, *features: Tensor) -> Output:
        aspp, low = features
        embedding = None if self.embedding_head is None else self.embedding_head(aspp, low)
        return Output(self.class_head(aspp, low), embedding)

    @property
    def last_dropout(self) -> nn.Module:
        return self.aspp.dropout

    def widths(self) -> Widths:
        embedding = 0 if self.embedding_head is None else self.embedding_head.out.out_channels
        return Widths(self.class_head.out.out_channels, self.aspp_channels, embedding)


def build_model(
    settings: ModelSettings, num_classes: int, *, embedding: bool, modules: Path | None = None
) -> Segmenter:
    """A network without pretrained weights; the caller's torch.manual_seed decides every value.  `modules` is where an
    encoder of the user's own may lie, besides PYTHONPATH."""
    kind = DeepLabV3Plus if settings.decoder in ("plus", "none") else OneMapNetwork
    model = kind(settings, num_classes, embedding=embedding, modules=modules)
    for name, part in model.named_children():
        if name != "encoder" and settings.head_init != "pytorch":
            part.apply(_initialise)
    if settings.head_init == "ours":
        nn.init.normal_(model.class_head.out.weight, std=0.01)  # start from nearly equal probabilities
    return model


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
