"""The encoder: which one, and what it gives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import timm
from torch import nn

from training.kernels.depthwise import SparseDepthwiseConv, computes
from training.kernels.expansion import join_expansions
from training.network.own_encoder import own_encoder
from training.network.timm_encoder import TimmEncoder
from training.settings.training import BACKBONES

if TYPE_CHECKING:
    from training.settings.training import ModelSettings


def maps_wanted(decoder: str) -> int:
    """How many of the encoder's maps a decoder reads (`model.decoder`): 2 are those at stride 4 and at the output
    stride (`plus` and `none`), 4 the four deepest levels, or four depths of a plain vision transformer."""
    return 2 if decoder in ("plus", "none") else 4


def build_encoder(settings: ModelSettings, modules: Path | None = None) -> nn.Module:
    """Untrained encoder: (B, 3, H, W) -> `maps_wanted` maps, the finest first: for DeepLabv3+ low-level features at
    stride 4 and features at `output_stride`; `channels` are theirs, and where `multiple` is above 1 they are those of
    an image padded to a multiple of it.  The user's own, which may lie in the folder `modules`, runs as it is
    written."""
    if settings.own_encoder:
        return own_encoder(settings, modules)
    wanted = maps_wanted(settings.decoder)
    if settings.backbone not in BACKBONES:
        encoder: nn.Module = TimmEncoder(settings.backbone, settings.output_stride, settings.drop_path, wanted)
        _use_own_kernels(encoder)
        return encoder
    encoder = timm.create_model(
        settings.backbone,
        pretrained=False,
        features_only=True,
        out_indices=(1, 4) if wanted == 2 else (1, 2, 3, 4),  # of timm's five levels the first has stride 2
        output_stride=settings.output_stride,
        drop_path_rate=settings.drop_path,
    )
    if (settings.dilation, settings.backbone, settings.output_stride) == ("last", "mobilenetv2_100", 16):
        for conv in encoder.blocks[-2].modules():  # type: ignore[union-attr,index]  # of 160 channels
            if isinstance(conv, nn.Conv2d) and conv.dilation == (2, 2):
                conv.dilation, conv.padding = (1, 1), (1, 1)
    _use_own_kernels(encoder)
    encoder.channels = tuple(encoder.feature_info.channels())  # type: ignore[union-attr,operator,assignment]
    encoder.strides = tuple(encoder.feature_info.reduction())  # type: ignore[union-attr,operator,assignment]
    return encoder


def _use_own_kernels(encoder: nn.Module) -> None:
    """The faster forms of layers that have one, of the same function; names and weights stay."""
    for module in list(encoder.modules()):
        for name, conv in module.named_children():
            if computes(conv):
                setattr(module, name, SparseDepthwiseConv(conv))
    join_expansions(encoder)
