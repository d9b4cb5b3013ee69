"""How pretrained weights get into an encoder, and a run's own copy of them, checked before anything is trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from querying.base.errors import InfrastructureError, UserError
from querying.base.files import written
from querying.base.redaction import cause
from training.network.checkpoint import load_model
from training.network.deeplab import build_model
from training.settings.training import ModelSettings

if TYPE_CHECKING:
    from training.network.deeplab import DeepLabV3Plus


def store_backbone(settings: ModelSettings, file: Path) -> None:
    """Fetch (`weights: imagenet`) or read the weights, check that they fit, and publish them as `file`.

    UserError names a file or key that does not fit; InfrastructureError where the download fails.
    """
    model = build_model(settings, num_classes=2, embedding=False)
    if settings.weights == "imagenet":
        load_encoder_state(model, download_backbone(settings.backbone), source=f"timm {settings.backbone}")
    else:
        load_backbone(model, Path(settings.weights))
    with written(file) as staged:
        save_file({name: tensor.contiguous() for name, tensor in model.encoder.state_dict().items()}, staged)


# What a classification network has and an encoder has not.
CLASSIFIER_PARTS = {
    "mobilenetv2_100": ("conv_head.", "bn2.", "classifier."),
    "resnet50": ("fc.",),
    "resnet101s": ("fc.",),
}


def load_backbone(model: DeepLabV3Plus, path: Path) -> None:
    """Load ImageNet weights with timm's names from a safetensors file, or from `<backbone>*.safetensors` in a folder.

    Raises UserError, naming file and key, for a file that is missing, unreadable or does not fit.
    """
    file = _weight_file(path, model.backbone)
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not a readable safetensors file ({error})") from error
    load_encoder_state(model, state, source=str(file))


def load_previous(model: DeepLabV3Plus, checkpoint: Path) -> None:
    """Copy what a checkpoint has of the model's parameters and buffers: a head that only one of them has stays fresh.
    DamagedError where it is not what was written."""
    fresh, (there, _) = model.state_dict(), load_model(checkpoint)
    model.load_state_dict({name: there.get(name, tensor) for name, tensor in fresh.items()})


def load_encoder_state(model: DeepLabV3Plus, state: dict[str, Tensor], *, source: str) -> None:
    """Copy `state` (timm's names) into the encoder.  The classifier is ignored; `source` is named in a UserError."""
    wanted = model.encoder.state_dict()
    given = {key: value for key, value in state.items() if not key.startswith(CLASSIFIER_PARTS.get(model.backbone, ()))}
    for key, value in given.items():
        if key not in wanted:
            raise UserError(f"{source}: {key} is no parameter of {model.backbone}")
        if value.shape != wanted[key].shape:
            shapes = f"shape {tuple(value.shape)}, {model.backbone} needs {tuple(wanted[key].shape)}"
            raise UserError(f"{source}: {key} has {shapes}")
    for key in wanted:
        if key not in given and not key.endswith("num_batches_tracked"):
            raise UserError(f"{source}: {key} of {model.backbone} is missing")
    model.encoder.load_state_dict(given, strict=False)


def download_backbone(backbone: str) -> dict[str, Tensor]:
    """ImageNet weights from timm's hub, as a state dict with timm's names; InfrastructureError without a network."""
    for library in ("timm", "huggingface_hub", "httpx", "urllib3"):  # they say each attempt twice; we say the outcome
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        state: dict[str, Tensor] = timm.create_model(backbone, pretrained=True).state_dict()
    except (OSError, RuntimeError) as error:
        hint = "set model.weights to a local safetensors file with timm's names, or to none"
        why = cause(str(error), 160) or type(error).__name__
        raise InfrastructureError(f"the weights of {backbone} can not be downloaded ({why}): {hint}") from error
    return state


def _weight_file(path: Path, backbone: str) -> Path:
    if not path.is_dir():
        return path
    files = sorted(path.glob(f"{backbone}*.safetensors"))
    if len(files) != 1:
        raise UserError(f"{path}: {len(files) or 'no'} files named {backbone}*.safetensors, exactly one is needed")
    return files[0]
