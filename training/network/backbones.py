"""The encoder: which one, and what it gives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import timm
from torch import nn

from training.kernels.depthwise import SparseDepthwiseConv
from training.kernels.expansion import join_expansions
from training.network.own_encoder import own_encoder

if TYPE_CHECKING:
    from training.settings.training import ModelSettings


LOW_LEVEL_STAGE, LAST_STAGE = 1, 4  # of timm's five feature levels: stride 4, and the deepest


def build_encoder(settings: ModelSettings, modules: Path | None = None) -> nn.Module:
    """Untrained encoder: (B, 3, H, W) -> [low-level features at stride 4, features at `output_stride`]; its `channels`
    are theirs.  The user's own, which may lie in the folder `modules`, runs as it is written."""
    if settings.own_encoder:
        return own_encoder(settings, modules)
    encoder: nn.Module = timm.create_model(
        settings.backbone,
        pretrained=False,
        features_only=True,
        out_indices=(LOW_LEVEL_STAGE, LAST_STAGE),
        output_stride=settings.output_stride,
        drop_path_rate=settings.drop_path,
    )
    if (settings.dilation, settings.backbone, settings.output_stride) == ("last", "mobilenetv2_100", 16):
        for conv in encoder.blocks[-2].modules():  # type: ignore[union-attr,index]  # of 160 channels
            if isinstance(conv, nn.Conv2d) and conv.dilation == (2, 2):
                conv.dilation, conv.padding = (1, 1), (1, 1)
    for module in list(encoder.modules()):
        for name, conv in module.named_children():
            if type(conv) is nn.Conv2d and conv.groups > 1 and max(*conv.stride, *conv.dilation) > 1:
                setattr(module, name, SparseDepthwiseConv(conv))
    join_expansions(encoder)
    encoder.channels = tuple(encoder.feature_info.channels())  # type: ignore[union-attr,operator,assignment]
    return encoder
