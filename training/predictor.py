"""A checkpoint as a function from images to logits: evaluation mode, class head only."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from training.checkpoint import load_model
from training.model import DeepLabV3Plus, build_model, normalise
from training.settings import ModelSettings


class Predictor:
    """Callable (uint8 images (B, 3, H, W), scale) -> float32 logits (B, C, h, w) at stride 4 of the scaled image."""

    def __init__(self, checkpoint: Path, device: str | None = None, *, bf16: bool = False) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = load_network(checkpoint).to(memory_format=torch.channels_last).to(self.device)
        self.bf16 = bf16

    @torch.inference_mode()
    def __call__(self, images_BCHW: Tensor, scale: float = 1.0) -> Tensor:
        x_BCHW = normalise(images_BCHW.to(self.device)).contiguous(memory_format=torch.channels_last)
        if scale != 1.0:
            size = [max(1, round(side * scale)) for side in x_BCHW.shape[2:]]
            x_BCHW = F.interpolate(x_BCHW, size, mode="bilinear", align_corners=False)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            logits: Tensor = self.model(x_BCHW).logits
        return logits.float()


def load_network(checkpoint: Path) -> DeepLabV3Plus:
    """The network of a checkpoint without its representation head, in evaluation mode on the CPU."""
    state, meta = load_model(checkpoint)
    model = build_model(ModelSettings.model_validate(meta["model"]), len(meta["classes"]), embedding=False)
    wanted = model.state_dict().keys()
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted})
    return model.eval()
