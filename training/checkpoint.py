"""Checkpoints without pickle: safetensors for tensors, JSON for everything else, hashes over both."""

import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from querying.errors import DamagedError
from querying.failpoints import failpoint
from querying.files import make_folder, read_json, sha256, sync, write_json, written
from querying.limits import class_names, image_size, palette
from training.loop import Progress

LOG = logging.getLogger(__name__)
MODEL = "model.safetensors"
META = "meta.json"


def save_model(folder: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `meta.json` (sealed, with the model's SHA-256) into an existing folder."""
    _save(folder / MODEL, state)
    write_json(folder / META, {**meta, "sha256": sha256(folder / MODEL)})


def early_folder(checkpoint: Path, step: int) -> Path:
    return checkpoint / f"step-{step:08d}"


def early_folders(checkpoint: Path) -> list[Path]:
    """Of the networks of earlier steps that a training has kept, the first first."""
    return sorted(checkpoint.glob("step-*"))


def best_folder(checkpoint: Path) -> Path:
    """Of the network of the best epoch on val, where one was asked for."""
    return checkpoint / "best_on_val"


def load_model(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dict and metadata.  DamagedError names a file that is missing or differs from its hash."""
    try:
        meta = read_json(folder / META)
        if sha256(folder / MODEL) != meta["sha256"]:
            raise DamagedError(f"{folder / MODEL}: its SHA-256 differs from the one in {META}")
        return load_file(folder / MODEL), meta
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise DamagedError(f"{folder}: not a readable checkpoint: {error}") from None


def read_meta(folder: Path) -> dict[str, Any]:
    """Metadata of a finished checkpoint.  DamagedError where its classes, colours or size are none that a data set may
    have (`querying.limits`)."""
    meta, where = read_json(folder / META), folder / META
    try:
        classes = class_names(meta["classes"])
        palette(meta["palette"], classes)
        image_size(meta["height"], meta["width"])
    except KeyError as missing:
        raise DamagedError(f"{where}: not of a checkpoint: key {missing} is missing") from None
    except ValueError as error:
        raise DamagedError(f"{where}: not of a checkpoint: {error}") from None
    return meta


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

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
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
            buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum/{name}"] = buffer
        tensors |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        save_model(staging, tensors, {"progress": progress.to_json(), **self._made()})
        sync(staging)
        if folder.exists():  # damaged, made from something else, or stopped before its epoch was validated
            shutil.rmtree(folder)
        failpoint(f"{folder.name}:written")
        os.replace(staging, folder)
        failpoint(f"{folder.name}:renamed")
        sync(self.root)
        self.saved = progress.step
        # Those of other inputs are never continued from, and may have come further than these.
        others = [folder for folder in self.root.glob("step-*") if not self._is_ours(folder)]
        for old in [*others, *sorted(set(self.root.glob("step-*")).difference(others))[: -self.keep]]:
            shutil.rmtree(old)

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

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
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
                if f"momentum/{name}" in tensors:
                    buffer = torch.empty_like(parameter).copy_(tensors[f"momentum/{name}"])  # keeps the memory format
                    optimizer.state[parameter]["momentum_buffer"] = buffer
            self.best = {k.removeprefix("best/"): v for k, v in tensors.items() if k.startswith("best/")}
            return Progress(**meta["progress"])
        return Progress()


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with written(path) as staged:
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, staged)
        except SafetensorError as error:  # what a full disk is to this library
            raise OSError(f"{path}: can not be written: {error}") from None
