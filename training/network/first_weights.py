"""How pretrained weights get into an encoder, and a run's own copy of them, checked before anything is trained."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
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
from training.network.timm_encoder import PREFIX, classifier, own_names
from training.network.weight_file import weight_file
from training.settings.training import ModelSettings

if TYPE_CHECKING:
    from training.network.segmenter import Segmenter


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


def load_backbone(model: Segmenter, path: Path) -> None:
    """Load ImageNet weights with timm's names from a safetensors file or a folder (`training.network.weight_file`).

    Raises UserError, naming file and key, for a file that is missing, unreadable or does not fit.
    """
    file = weight_file(path, model.backbone)
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: not a readable safetensors file ({error})") from error
    load_encoder_state(model, state, source=str(file))


def load_previous(model: Segmenter, checkpoint: Path) -> None:
    """Copy what a checkpoint has of the model's parameters and buffers: a head that only one of them has stays fresh.
    DamagedError where it is not what was written."""
    fresh, (there, _) = model.state_dict(), load_model(checkpoint)
    model.load_state_dict({name: there.get(name, tensor) for name, tensor in fresh.items()})


def load_encoder_state(model: Segmenter, state: dict[str, Tensor], *, source: str) -> None:
    """Copy `state` (timm's names) into the encoder; `source` is named in a UserError.

    What only the classification network has is ignored.  Where names or shapes are others, timm's own conversion is
    tried: it knows the names of the authors, and interpolates the positions of a vision transformer to its grid.
    """
    wanted, backbone = model.encoder.state_dict(), model.backbone
    given, wrong = _fitting(wanted, state, backbone)
    if wrong:
        given, still_wrong = _fitting(wanted, _converted(backbone, state), backbone)
        if still_wrong:
            raise UserError(f"{source}: {wrong}")
    model.encoder.load_state_dict(given, strict=False)


def _fitting(wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], backbone: str) -> tuple[dict[str, Tensor], str]:
    """The tensors under the encoder's own names, and what is wrong with them; empty where nothing is."""
    given: dict[str, Tensor] = {}
    for key, value in state.items():
        own = next((name for name in own_names(key) if name in wanted), None)
        if own is None:
            if ":" not in backbone and key in classifier(backbone).state_dict():
                continue
            return given, f"{key} is no parameter of {backbone}"
        if value.shape != wanted[own].shape:
            return given, f"{key} has shape {tuple(value.shape)}, {backbone} needs {tuple(wanted[own].shape)}"
        given[own] = value
    for key in wanted:
        if key not in given and not key.endswith("num_batches_tracked"):
            return given, f"{key.removeprefix(PREFIX)} of {backbone} is missing"
    return given, ""


def _converted(backbone: str, state: dict[str, Tensor]) -> Mapping[str, Tensor]:
    """By timm's function for files of this network; the same where it has none, or can not, or it is the user's."""
    if ":" in backbone:
        return state
    convert = getattr(sys.modules[timm.model_entrypoint(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        found: Mapping[str, Tensor] = convert(dict(state), classifier(backbone))
    except (KeyError, ValueError, RuntimeError, AttributeError, TypeError, IndexError, AssertionError):
        return state  # of another network, which the comparison has named
    return found


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
