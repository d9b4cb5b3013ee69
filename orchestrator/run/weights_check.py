"""Can ImageNet weights be had?  Known within seconds, before anything is written; a download tries for minutes."""

from __future__ import annotations

import os
import socket
import threading
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.folder.layout import RunLayout
from orchestrator.recipe.config import RunConfig
from querying.base.errors import InfrastructureError

ANSWER_WITHIN_S = 5.0
HUB = "https://huggingface.co"


def check_weights(config: RunConfig, layout: RunLayout | None = None) -> None:
    """InfrastructureError where a run must download its first weights and can not: nothing answers, and the hub's cache
    has none of this encoder."""
    if config.model.weights != "imagenet" or (layout and layout.backbone.exists()) or _cached(config.model.backbone):
        return
    hub = os.environ.get("HF_ENDPOINT", HUB)
    through = urllib.request.getproxies().get(urlsplit(hub).scheme)
    why = (
        "HF_HUB_OFFLINE is set"
        if os.environ.get("HF_HUB_OFFLINE", "0") in ("1", "true", "True")
        else _silent(through or hub)
    )
    if why:
        raise InfrastructureError(
            f"the weights of {config.model.backbone} can not be downloaded from {urlsplit(hub).hostname} ({why}): set"
            " model.weights to a local safetensors file with timm's names, or to none"
        )


def _silent(url: str) -> str:
    """Why nothing answers there; empty where something does."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    address = parts.hostname or "", parts.port or (80 if parts.scheme == "http" else 443)
    found = ["no answer"]

    def ask() -> None:
        try:
            socket.create_connection(address, timeout=ANSWER_WITHIN_S).close()
            found[0] = ""
        except (OSError, ValueError, OverflowError) as error:
            found[0] = getattr(error, "strerror", None) or str(error) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)  # a resolver has time-outs of its own
    thread.start()
    thread.join(ANSWER_WITHIN_S)
    return found[0]


def _cached(backbone: str) -> bool:
    """Has the hub's cache weights of this encoder, of whatever training?"""
    home = (
        os.environ.get("HF_HOME")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "huggingface"
    )
    cache = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")
    name = backbone if "." in backbone else f"{backbone}.*"
    return any(cache.glob(f"models--timm--{name}/snapshots/*/*.safetensors"))
