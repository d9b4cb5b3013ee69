"""A checkpoint as a function from images to logits: evaluation mode, class head only, folded for inference."""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from querying.allocator import keep_freed_memory
from training.checkpoint import load_model
from training.folding import WideConv, fold_batch_norm, fuse_activations
from training.model import DeepLabV3Plus, build_model, normalise
from training.settings import ModelSettings

Precision = Literal["fp32", "bf16"]


class Predictor:
    """Callable (uint8 images (B, 3, H, W), scale) -> float32 logits (B, C, h, w) at stride 4 of the scaled image."""

    def __init__(self, checkpoint: Path, device: str | None = None, *, precision: Precision = "fp32") -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.model = for_inference(load_network(checkpoint), self.device, precision)
        self.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        if self.device.type == "cpu":
            keep_freed_memory()

    @torch.inference_mode()
    def __call__(self, images_BCHW: Tensor, scale: float = 1.0) -> Tensor:
        x_BCHW = normalise(images_BCHW.to(self.device, non_blocking=True))
        if scale != 1.0:
            size = [max(1, round(side * scale)) for side in x_BCHW.shape[2:]]
            x_BCHW = F.interpolate(x_BCHW, size, mode="bilinear", align_corners=False)
        logits: Tensor = self.model(x_BCHW.to(self.dtype, memory_format=torch.channels_last)).logits
        return logits.float()


def load_network(checkpoint: Path) -> DeepLabV3Plus:
    """The network of a checkpoint without its representation head, in evaluation mode on the CPU."""
    state, meta = load_model(checkpoint)
    model = build_model(ModelSettings.model_validate(meta["model"]), len(meta["classes"]), embedding=False)
    wanted = model.state_dict().keys()
    model.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted})
    return model.eval()


def for_inference(model: DeepLabV3Plus, device: torch.device, precision: Precision) -> DeepLabV3Plus:
    """The network itself, folded in place.  `bf16` rounds the weights but for the last convolution, which gives the
    class scores: rounded scores would tie."""
    fold_batch_norm(model)
    model = model.to(device).to(memory_format=torch.channels_last)
    if precision == "bf16":
        last, model.class_head.out = model.class_head.out, nn.Identity()  # type: ignore[assignment]
        model = model.to(torch.bfloat16)
        model.class_head.out = WideConv(last)  # type: ignore[assignment]
    else:
        fuse_activations(model)
    return model
