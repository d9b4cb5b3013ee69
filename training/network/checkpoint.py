"""A network on the disk without pickle: safetensors for tensors, JSON for everything else, hashes over both."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from querying.base.errors import DamagedError
from querying.base.files import read_json, sha256, write_json, written
from querying.dataset.limits import class_names, image_size, palette

MODEL = "model.safetensors"
META = "meta.json"


def save_model(folder: Path, state: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `meta.json` (sealed, with the model's SHA-256) into an existing folder."""
    _save(folder / MODEL, state)
    write_json(folder / META, {**meta, "sha256": sha256(folder / MODEL)})


def early_folder(checkpoint: Path, step: int) -> Path:
    return checkpoint / f"step-{step:08d}"


def early_folders(checkpoint: Path) -> list[Path]:
    """Folders of the networks of earlier steps that a training has kept, the first first."""
    return sorted(checkpoint.glob("step-*"))


def best_folder(checkpoint: Path) -> Path:
    """Folder of the network of the best epoch on val, where one was asked for."""
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
    have (`querying.dataset.limits`)."""
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


def _save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    with written(path) as staged:
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, staged)
        except SafetensorError as error:  # what a full disk is to this library
            raise OSError(f"{path}: can not be written: {error}") from None
