"""A run's own copy of the encoder's first weights, checked before anything is trained."""

from pathlib import Path

from safetensors.torch import save_file

from querying.files import written
from training.backbones import download_backbone, load_backbone, load_encoder_state
from training.model import build_model
from training.settings import ModelSettings


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
