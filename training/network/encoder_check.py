"""Is a timm encoder one that a run can have?  Found before anything starts; and what its weights' licence is."""

from __future__ import annotations

import logging

import timm

from querying.base.errors import UserError
from training.network.backbones import maps_wanted
from training.network.timm_encoder import facts, plan_of
from training.settings.training import ModelSettings

_log = logging.getLogger(__name__)
FREE = ("apache-2.0", "mit", "bsd-3-clause", "bsd-2-clause", "cc-by-4.0")
"""Licences, as timm names them, that ask for no more than that they are named."""


def check_encoder(settings: ModelSettings) -> None:
    """UserError, one line, where timm has no such encoder, or the other keys of `model` do not fit it.  A licence of
    its weights with conditions is said in the log."""
    name = settings.backbone
    plan_of(name, settings.output_stride, settings.drop_path, maps_wanted(settings.decoder))
    if settings.dilation != "stages":
        raise UserError(
            f"model.dilation={settings.dilation}: is of mobilenetv2_100, not of {name}: set model.dilation=stages"
        )
    if settings.weights == "imagenet" and not facts(name).has_weights:
        known = timm.list_pretrained(f"{name.split('.')[0]}.*")
        others = f" (it has {', '.join(known[:3])})" if known else ""
        raise UserError(
            f"model.weights=imagenet: timm has no weights of {name}{others}: set model.weights to a file, or to none"
        )
    if settings.weights != "none" and (said := conditions(name)):
        _log.warning("%s", said)


def weights_line(backbone: str) -> str:
    """What `s4al show` says of timm's weights, or of a name that timm does not know."""
    if not timm.is_model(backbone):
        return f"model.backbone={backbone}: timm {timm.__version__} has no such network"
    return conditions(backbone) or licence(backbone) or f"timm has no weights of {backbone}"


def licence(backbone: str) -> str:
    """A line about the weights that timm has of this encoder; empty where it has none."""
    cfg = facts(backbone)
    if not cfg.has_weights:
        return ""
    named = cfg.license or "not named by timm"
    tag = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else cfg.architecture
    where = f" (https://huggingface.co/{_hub(backbone)})" if cfg.hf_hub_id else ""
    return f"weights of {tag}{where}: licence {named}"


def conditions(backbone: str) -> str:
    """The same, with what is to be done first, where the licence has conditions or is not known; else empty."""
    cfg = facts(backbone)
    named = (cfg.license or "").lower()
    if not cfg.has_weights or named in FREE:
        return ""
    if "-nc" in named or "noncommercial" in named:
        return f"{licence(backbone)}: not for commercial use"
    if named:
        return f"{licence(backbone)}, a text of its own: read and accept it there before these weights are used"
    return f"{licence(backbone)}: ask where they come from before they are used"


def _hub(backbone: str) -> str:
    cfg = facts(backbone)
    name = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)
    return f"{cfg.hf_hub_id}{name}" if str(cfg.hf_hub_id).endswith("/") else str(cfg.hf_hub_id)
