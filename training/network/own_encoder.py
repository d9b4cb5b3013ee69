"""A user's own encoder: a function, named by import path, that builds the first part of the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from querying.base.errors import UserError, ran_out_of_memory
from querying.base.own_code import load_own, said

if TYPE_CHECKING:
    from training.settings.training import ModelSettings

PROBE = (2, 3, 72, 104)
"""Shape of the images that an encoder is tried with; no output stride divides both sides."""


def own_encoder(settings: ModelSettings, folder: Path | None = None) -> nn.Module:
    """What `package.module:function` builds.  UserError, one line, where there is none, or it builds something else."""
    where = f"model.backbone={settings.backbone}"
    build = load_own("model.backbone", settings.backbone, folder)
    if not callable(build):
        raise UserError(f"{where}: is not a function")
    try:
        encoder = build(output_stride=settings.output_stride, drop_path=settings.drop_path)
    except (Exception, SystemExit) as error:  # whatever the user's function does
        raise _refused(where, error) from None
    if not isinstance(encoder, nn.Module):
        raise UserError(f"{where}: gives {type(encoder).__name__}, not a torch.nn.Module")
    channels = getattr(encoder, "channels", None)
    if not isinstance(channels, (tuple, list)) or len(channels) != 2 or not all(isinstance(c, int) for c in channels):
        raise UserError(
            f"{where}: what it gives has no `channels`: two numbers, of its map at stride 4 and of its last"
        )
    return encoder


def try_encoder(settings: ModelSettings) -> None:
    """Build the encoder and train it on a small input; UserError, one line, where its maps are not those of its
    `channels` and strides, or where it has parameters that they do not need, for which several workers would wait."""
    where = f"model.backbone={settings.backbone}"
    with torch.random.fork_rng([]):
        encoder = own_encoder(settings).train()
        images_BCHW = torch.randn(PROBE, generator=torch.Generator().manual_seed(0))
        try:
            maps = encoder(images_BCHW.contiguous(memory_format=torch.channels_last))
            last_alone = settings.decoder in ("none", "linear")  # nothing reads the first
            read = list(maps[1:] if last_alone else maps)
            sum(map_.sum() for map_ in read).backward()
        except (Exception, SystemExit) as error:
            raise _refused(where, error) from None
    channels: Any = encoder.channels
    sides = [tuple(-(-side // stride) for side in PROBE[2:]) for stride in (4, settings.output_stride)]
    expected = [(PROBE[0], count, *side) for count, side in zip(channels, sides, strict=True)]
    found = [tuple(map_.shape) for map_ in maps]
    if found != expected:
        raise UserError(
            f"{where}: gives maps of {found} for images of {PROBE}; expected {expected}: strides 4 and"
            f" {settings.output_stride} (model.output_stride), rounded up, and the numbers in its `channels`"
        )
    unused = [
        name for name, parameter in encoder.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    if unused:
        raise UserError(f"{where}: its maps do not need {unused[0]}: remove it, or set its requires_grad to False")


def _refused(where: str, error: BaseException) -> BaseException:
    return error if ran_out_of_memory(error) else UserError(f"{where}: {said(error)}")
