"""Which parameters learn at which rate, and which of them weight decay shrinks: the optimiser's groups."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, NamedTuple

from timm.models import group_parameters
from torch import nn

from querying.base.errors import UserError
from training.network.deeplab import build_model
from training.network.segmenter import Segmenter
from training.network.timm_encoder import classifier
from training.settings.training import ModelSettings, TrainSettings


class Rules(NamedTuple):
    """What timm says of an encoder; names are its whole network's, with `_` for each dot."""

    names: frozenset[str]
    depth: dict[str, int]
    """The layer of each parameter, from 0; empty where the network does not say."""
    undecayed: tuple[str, ...]
    """Patterns of parameters that weight decay leaves alone beside biases and norms: position, class tokens."""


def parameter_groups(model: nn.Module, train: TrainSettings) -> list[dict[str, Any]]:
    """Optimiser groups: encoders at `lr`, less by `layer_decay` the nearer a layer is to the image, all else at
    `lr * head_lr_scale`; `lr_scale` is kept for the schedule.

    `model` is a network or holds some; parameters that are not trained (a teacher's) are in no group.
    """
    scale, spared = _of_encoders(model, train)
    spares = train.spares_small
    groups: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        known = id(parameter) in scale
        small = parameter.ndim <= 1 or name.endswith(".bias") or id(parameter) in spared
        decay = 0.0 if spares and small else train.weight_decay
        rate = scale[id(parameter)] if known else train.head_lr_scale
        groups.setdefault((known, rate, decay), []).append(parameter)
    order = sorted(groups, key=lambda key: not key[0])  # encoders first
    return [
        {"params": groups[key], "lr": train.lr * key[1], "lr_scale": key[1], "weight_decay": key[2]} for key in order
    ]


def check_layers(model: ModelSettings) -> None:
    """UserError, one line, where `train.layer_decay` finds no layers in the encoder."""
    _layers(build_model(model, num_classes=2, embedding=False))


def _of_encoders(model: nn.Module, train: TrainSettings) -> tuple[dict[int, float], set[int]]:
    """Of each parameter of an encoder, by `id`: the multiple of `lr`; and those that weight decay leaves alone."""
    scale: dict[int, float] = {}
    spared: set[int] = set()
    for network in (module for module in model.modules() if isinstance(module, Segmenter)):
        own = dict(network.encoder.named_parameters())
        scale |= {id(parameter): 1.0 for parameter in own.values()}
        if train.layer_decay < 1:
            layers = _layers(network)
            deepest = max(layers.values())
            # The heads stand where timm has the classifier, one layer above the encoder's last: as in BEiT.
            scale |= {id(own[name]): train.layer_decay ** (deepest + 1 - at) for name, at in layers.items()}
        if train.spares_small:
            patterns = _rules(network).undecayed
            for name, whole in _whole_names(network).items():
                if any(fnmatchcase(whole, pattern) for pattern in patterns):
                    spared.add(id(own[name]))
    return scale, spared


def _layers(network: Segmenter) -> dict[str, int]:
    """The layer of each of the encoder's parameters that timm's network has, by its name in the encoder."""
    depth = _rules(network).depth
    found = {name: depth[whole] for name, whole in _whole_names(network).items() if whole in depth}
    if not found:
        raise UserError(
            f"train.layer_decay: model.backbone={network.backbone} does not say which layers it has (`group_matcher`,"
            " as timm's networks do): set train.layer_decay=1"
        )
    return found


def _whole_names(network: Segmenter) -> dict[str, str]:
    """The encoder's parameters and what timm's whole network calls them: what gives feature maps may wrap it
    (`model.blocks.0`) and have its stages side by side (`stages_0`)."""
    known = _rules(network).names
    found: dict[str, str] = {}
    for wrappers in range(4):
        names = {name: "_".join(name.split(".")[wrappers:]) for name, _ in network.encoder.named_parameters()}
        here = {name: whole for name, whole in names.items() if whole in known}
        found = max(found, here, key=len)
    return found


def _rules(network: Segmenter) -> Rules:
    """Those of timm's network of that name, or of the user's own encoder."""
    return _rules_of(network.encoder) if ":" in network.backbone else _timm_rules(network.backbone)


@lru_cache
def _timm_rules(name: str) -> Rules:
    return _rules_of(classifier(name))


def _rules_of(whole: nn.Module) -> Rules:
    matcher: Any = getattr(whole, "group_matcher", None)
    undecayed: Any = getattr(whole, "no_weight_decay", None)
    depth = group_parameters(whole, matcher(coarse=False), reverse=True) if matcher else {}
    return Rules(
        frozenset(_flat(name) for name, _ in whole.named_parameters()),
        {_flat(name): layer for name, layer in depth.items()},
        tuple(map(_flat, undecayed())) if undecayed else (),
    )


def _flat(name: str) -> str:
    return name.replace(".", "_")
