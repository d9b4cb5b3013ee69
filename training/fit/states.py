"""States from which a training goes on, without pickle, hashes over tensors and everything else."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from querying.base.errors import DamagedError
from querying.base.failpoints import failpoint
from querying.base.files import make_folder, read_json, remove_folder, sync
from training.fit.progress import TrainingProgress
from training.network.checkpoint import META, load_model, save_model

LOG = logging.getLogger(__name__)
STATES = "states"
"""In the training's scratch: where they are."""
MEMORY = {"momentum": "momentum_buffer", "mean": "exp_avg", "square": "exp_avg_sq", "steps": "step"}
"""What optimisers remember of a parameter: its name in a state, and in PyTorch."""


class TrainingStates:
    """Resumable states of one training, a folder each; the newest `keep` stay."""

    def __init__(self, root: Path, made_from: str, keep: int = 2, *, settings: Mapping[str, Any] | None = None) -> None:
        """`made_from` is a key of the inputs, `settings` are the recipe's keys that decide the training: a state of
        other ones is not continued from.  One of a version that noted no settings is believed."""
        self.root = root
        self.made_from = made_from
        self.settings = dict(settings or {})
        self.keep = keep
        self.saved: int | None = None
        """Step of the state that this process has published last."""
        self.best: dict[str, Tensor] = {}
        """Weights of the best epoch on val so far, where they are wanted; part of every state."""

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: TrainingProgress) -> None:
        """Publish the state after `progress.step` steps.

        No RNG state is kept: every step seeds its generators from (seed, cycle, step, rank).
        """
        if self.saved == progress.step:
            return
        folder = self.root / f"step-{progress.step:08d}"
        staging = self.root / f".tmp-{os.getpid()}-{folder.name}"
        make_folder(staging)
        tensors = {f"model/{name}": t for name, t in model.state_dict().items()}
        for name, parameter in model.named_parameters():
            kept = optimizer.state.get(parameter, {})
            tensors |= {f"{part}/{name}": kept[key] for part, key in MEMORY.items() if kept.get(key) is not None}
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        save_model(staging, tensors, {"progress": progress.to_json(), **self._made()})
        sync(staging)
        if folder.exists():  # damaged, made from something else, or stopped before its epoch was validated
            remove_folder(folder)
        failpoint(f"{folder.name}:written")
        os.replace(staging, folder)
        failpoint(f"{folder.name}:renamed")
        sync(self.root)
        self.saved = progress.step
        # Those of other inputs are never continued from, and may have come further than these.
        others = [folder for folder in self.root.glob("step-*") if not self._is_ours(folder)]
        for old in [*others, *sorted(set(self.root.glob("step-*")).difference(others))[: -self.keep]]:
            remove_folder(old)

    def _is_ours(self, folder: Path) -> bool:
        try:
            return not self._foreign(read_json(folder / META))
        except (DamagedError, KeyError):
            return False

    def _made(self) -> dict[str, Any]:
        return {"made_from": self.made_from, "settings": self.settings}

    def _foreign(self, meta: Mapping[str, Any]) -> str:
        """What makes it a state of another training; nothing where it is one of this training."""
        if meta["made_from"] != self.made_from:
            return "other inputs"
        noted, settings = meta.get("settings", {}), self.settings
        return next((f"{key} {noted[key]!r}" for key in settings if noted.get(key, settings[key]) != settings[key]), "")

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingProgress:
        """Load the newest intact state and return how far it is; the beginning where there is none."""
        for folder in sorted(self.root.glob("step-*"), reverse=True):
            try:
                tensors, meta = load_model(folder)
            except DamagedError as error:
                LOG.warning("%s: using the state before it", error)
                continue
            if foreign := self._foreign(meta):
                LOG.warning("%s: of a training with %s: not continued from", folder, foreign)
                continue
            if self.settings and "settings" not in meta:
                LOG.warning("%s: made by a version that noted no settings, believed to be of this recipe", folder)
            model.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
            for name, parameter in model.named_parameters():
                for part, key in MEMORY.items():
                    if f"{part}/{name}" in tensors:
                        optimizer.state[parameter][key] = _as_of(parameter, tensors[f"{part}/{name}"])
            self.best = {k.removeprefix("best/"): v for k, v in tensors.items() if k.startswith("best/")}
            return TrainingProgress(**meta["progress"])
        return TrainingProgress()


def _as_of(parameter: Tensor, kept: Tensor) -> Tensor:
    """On the parameter's device, in its memory format; a number of steps as it is."""
    return torch.empty_like(parameter if kept.shape == parameter.shape else kept, device=parameter.device).copy_(kept)
