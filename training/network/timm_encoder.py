"""Any timm network that gives feature maps, as an encoder: what is known of it is read from timm, not from a table.

Shape suffixes: B = images, C = colour channels, H and W = pixels of the image.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from querying.base.errors import UserError
from training.network.normalisation import IMAGENET_MEAN, IMAGENET_STD

ODD = (70, 106)
"""Height and width of a trial image that no stride divides."""
STRIDES = (8, 14, 16, 32)
"""What `model.output_stride` may be."""
PREFIX = "net."
"""Of the names of an encoder's parameters: timm's network is a part of it."""
REFUSALS = (TypeError, ValueError, AssertionError, NotImplementedError, RuntimeError, KeyError, IndexError)
"""What timm's constructors raise for an argument that a network has not."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How an encoder is built, and what it gives."""

    arguments: dict[str, Any]
    """Of timm's `create_model`."""
    plain: bool
    """Whether it is a plain vision transformer, whose maps have one stride."""
    indices: tuple[int, ...]
    """Which of its levels, or blocks, are read."""
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    rows_last: bool
    """Whether its maps come as (B, H, W, C)."""
    multiple: int
    """What height and width must be multiples of."""

    def build(self, name: str) -> nn.Module:
        """The untrained network of maps, by the caller's generator."""
        if not self.plain:
            made: nn.Module = timm.create_model(name, features_only=True, out_indices=self.indices, **self.arguments)
            return made
        # `features_only` would cut the final norm off, through which DINOv2 and UniMatch V2 take all maps.
        return FeatureGetterNet(timm.create_model(name, num_classes=0, **self.arguments), self.indices, norm=True)


def facts(name: str) -> Any:
    """What timm knows of the weights of a network, or of those that its name says: timm's `PretrainedCfg`."""
    found = timm.get_pretrained_cfg(name)
    if found is None:
        raise UserError(f"model.backbone={name}: timm {timm.__version__} knows nothing of it")
    return found


def own_names(key: str) -> Iterator[str]:
    """What a parameter of timm's classification network may be called in an encoder: as it is, in a part of ours, with
    its first level joined, or in the network that timm takes intermediate maps from."""
    yield key
    yield PREFIX + key
    yield PREFIX + key.replace(".", "_", 1)
    yield f"{PREFIX}model.{key}"


@lru_cache(maxsize=4)
def classifier(name: str) -> nn.Module:
    """timm's classification network of this name, without memory for its weights."""
    with torch.random.fork_rng([]), torch.device("meta"):
        made: nn.Module = timm.create_model(name)
        return made


def next_multiple(side: int, of: int) -> int:
    """`side` rounded up, without a negative number: ONNX's division rounds towards 0, and an exported network has
    sizes that are not known yet."""
    return (side + of - 1) // of * of


class TimmEncoder(nn.Module):
    """(B, 3, H, W), normalised with ImageNet's mean and deviation -> maps, the finest first.

    An image whose sides are no multiples of `multiple` is padded with zeros at the right and bottom, and the maps are
    those of the padded image.  Weights that have seen another mean and deviation (`pretrained_cfg`) get theirs here:
    what every network is given, and what an exported one names, stays the same.
    """

    factor: Tensor
    offset: Tensor

    def __init__(self, name: str, output_stride: int, drop_path: float, maps: int) -> None:
        """UserError, one line, where timm has no such network, or one that can not be this encoder."""
        super().__init__()
        plan = plan_of(name, output_stride, drop_path, maps)
        self.net = plan.build(name)
        self.channels, self.strides, self.multiple = plan.channels, plan.strides, plan.multiple
        self.rows_last = plan.rows_last
        cfg = facts(name)
        mean, std = tuple(cfg.mean), tuple(cfg.std)
        self.renormalises = (mean, std) != (IMAGENET_MEAN, IMAGENET_STD)
        factor = [there / here for there, here in zip(IMAGENET_STD, std, strict=True)]
        offset = [(there - here) / by for there, here, by in zip(IMAGENET_MEAN, mean, std, strict=True)]
        self.register_buffer("factor", torch.tensor(factor).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("offset", torch.tensor(offset).view(1, 3, 1, 1), persistent=False)
        same = any(isinstance(part, Conv2dSame) and max(part.stride) > 1 for part in self.net.modules())
        turned = getattr(getattr(self.net, "model", None), "rope", None) is not None
        self.one_size = turned or (not plan.plain and ("output_stride" not in plan.arguments or same))
        """Whether an exported file takes images of one size alone: what depends on the size (a window, rotary
        positions, TensorFlow's padding) becomes a constant of it."""

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        bottom, right = (next_multiple(side, self.multiple) - side for side in image_BCHW.shape[2:])
        if torch.compiler.is_exporting() or bottom or right:  # an exported network has every branch that it may need
            image_BCHW = F.pad(image_BCHW, (0, right, 0, bottom))
        if self.renormalises:
            image_BCHW = image_BCHW * self.factor + self.offset
        maps: list[Tensor] = list(self.net(image_BCHW))
        return [map_BHWC.permute(0, 3, 1, 2) for map_BHWC in maps] if self.rows_last else maps


@lru_cache(maxsize=32)
def plan_of(name: str, output_stride: int, drop_path: float, maps: int) -> Plan:
    """How to build the encoder, found by building it without memory; UserError, one line, where it can not be."""
    where = f"model.backbone={name}"
    if not timm.is_model(name) or ("." in name and name not in timm.list_models(pretrained=True)):
        raise UserError(f"{where}: timm {timm.__version__} has no such network{_nearest(name)}")
    arguments, net = _found(name, output_stride, drop_path)
    if drop_path and "drop_path_rate" not in arguments:
        raise UserError(f"model.drop_path={drop_path}: {name} has no stochastic depth: set model.drop_path=0")
    levels: list[dict[str, Any]] = net.feature_info.info
    reductions = [int(level["reduction"]) for level in levels]
    plain = isinstance(net, FeatureGetterNet) and len(set(reductions)) == 1
    indices = _depths(len(levels)) if plain else _levels(where, reductions, maps)
    if plain and maps != 4:
        raise UserError(
            f"{where}: is a plain vision transformer, whose maps all have stride {reductions[0]}: DeepLabv3+ needs one"
            " at stride 4; set model.decoder=dpt or model.decoder=linear"
        )
    strides = tuple(reductions[i] for i in indices)
    if strides[-1] != output_stride:
        remedy = f"set model.output_stride={strides[-1]}" if strides[-1] in STRIDES else "take another encoder"
        raise UserError(
            f"model.output_stride={output_stride}: the last map of {name} has stride {strides[-1]}: {remedy}"
        )
    channels = tuple(int(levels[i]["num_chs"]) for i in indices)
    rows_last = not plain and str(getattr(net, "output_fmt", None) or "NCHW").endswith("NHWC")
    plan = Plan(arguments, plain, indices, channels, strides, rows_last, strides[-1])
    return _tried(where, name, plan)


def _found(name: str, output_stride: int, drop_path: float) -> tuple[dict[str, Any], Any]:
    """The arguments of ours that the network takes, and the network of all its levels, without memory."""
    said = ""
    depths: tuple[dict[str, Any], ...] = ({"drop_path_rate": drop_path}, {}) if drop_path else ({},)
    for depth, any_size, stride in product(
        depths, ({"dynamic_img_size": True}, {}), ({"output_stride": output_stride}, {})
    ):
        arguments: dict[str, Any] = {**any_size, **stride, **depth}
        try:
            with torch.random.fork_rng([]), torch.device("meta"):
                return arguments, timm.create_model(name, features_only=True, **arguments)
        except REFUSALS as error:
            said = " ".join(str(error).split())[:120] or type(error).__name__
    raise UserError(f"model.backbone={name}: timm makes no feature maps of it ({said})")


def _levels(where: str, reductions: Sequence[int], maps: int) -> tuple[int, ...]:
    """The level at stride 4 and the last one, or the last four."""
    if maps == 4 and len(reductions) >= 4:
        return tuple(range(len(reductions) - 4, len(reductions)))
    if maps == 2 and 4 in reductions[:-1]:
        return reductions.index(4), len(reductions) - 1
    strides = ", ".join(str(stride) for stride in reductions)
    needed = "one at stride 4 and a deeper one" if maps == 2 else "four"
    raise UserError(f"{where}: its maps have strides {strides}; the decoder needs {needed}")


def _depths(blocks: int) -> tuple[int, ...]:
    """Blocks of a plain vision transformer whose maps are read: those of DINOv2's DPT and of UniMatch V2."""
    return (4, 11, 17, 23) if blocks == 24 else tuple(blocks * k // 4 - 1 for k in (1, 2, 3, 4))


def _tried(where: str, name: str, plan: Plan) -> Plan:
    """The plan with its true `multiple`; UserError where the maps are not those that timm names."""
    with torch.random.fork_rng([]), torch.device("meta"):
        net = plan.build(name).eval()
    if not plan.plain and not _misses(net, plan, ODD):
        return replace(plan, multiple=1)
    if wrong := _misses(net, plan, (4 * plan.multiple, 6 * plan.multiple)):
        raise UserError(f"{where}: it is no encoder of images of any size: {wrong}")
    return plan


@torch.no_grad()
def _misses(net: nn.Module, plan: Plan, size: tuple[int, int]) -> str:
    """How the maps of an image of this size differ from those expected, which are rounded up; empty where they do
    not."""
    try:
        with torch.device("meta"):
            maps = list(net(torch.zeros(1, 3, *size)))
    except REFUSALS as error:
        return " ".join(str(error).split())[:120] or type(error).__name__
    maps = [map_BHWC.permute(0, 3, 1, 2) for map_BHWC in maps] if plan.rows_last else maps
    found = [tuple(map_.shape[1:]) for map_ in maps]
    sides = [tuple(-(-side // stride) for side in size) for stride in plan.strides]
    expected = [(count, *hw) for count, hw in zip(plan.channels, sides, strict=True)]
    return "" if found == expected else f"gives maps of {found} for {size[0]}x{size[1]} pixels, expected {expected}"


def _nearest(name: str) -> str:
    """Of timm's networks, with their weights' names where this one has a name of weights."""
    known = timm.list_models(pretrained="." in name) if "." in name else timm.list_models()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f": did you mean {close[0]!r}?" if close else ""
