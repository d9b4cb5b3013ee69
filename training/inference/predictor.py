"""A checkpoint as a function from images to logits: evaluation mode, class head only, folded for inference."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from querying.base.errors import DamagedError, UserError, ran_out_of_memory
from querying.base.forms import plain_forms
from querying.base.own_code import check_source, read_source
from querying.dataset.limits import class_names, whole
from querying.settings import scaled_size
from training.inference.dropout_passes import dropout_passes
from training.inference.folding import fold_batch_norm, fuse_activations, round_to_bf16
from training.kernels.precision import keep_float32
from training.network.checkpoint import load_model
from training.network.deeplab import build_model, normalise
from training.network.difficulty_branch import DifficultyBranch
from training.network.segmenter import Segmenter
from training.settings.training import BACKBONES, ModelSettings

LOG = logging.getLogger(__name__)
Precision = Literal["fp32", "bf16"]
MOST_CHANNELS = 2**14
"""Most channels of a checkpoint's network, whoever made it."""


class Predictor:
    """Callable (uint8 images (B, 3, H, W), scale) -> float32 logits (B, C, h, w) at stride 4 of the scaled image.

    With `bf16` some 0.3 % of the labels differ, and a region's entropy by up to 0.05 nats
    (docs/how_it_works/performance.md).
    """

    def __init__(
        self,
        checkpoint: Path,
        device: str | None = None,
        *,
        precision: Precision = "fp32",
        modules: Path | None = None,
    ) -> None:
        """`modules` is where an encoder of the user's own may lie, besides PYTHONPATH."""
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        keep_float32()
        network = load_network(checkpoint, modules)
        self.align_corners = network.align_corners
        """Whether corners are aligned in the logits' upsampling to full size, as the network was trained."""
        self.difficulty, network.difficulty = network.difficulty, None
        """Logits of the classes -> float32 logits (B, 1, h, w) of an error; None where no such branch was trained."""
        if self.difficulty is not None:
            self.difficulty.to(self.device)
        self.model = for_inference(network, self.device, precision)
        self.dtype = next(self.model.encoder.parameters()).dtype

    @torch.inference_mode()
    def __call__(self, images_BCHW: Tensor, scale: float = 1.0) -> Tensor:
        logits: Tensor = self.model(self._input(images_BCHW, scale)).logits
        return logits.float()

    @torch.inference_mode()
    def with_features(self, images_BCHW: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        """The same logits, and the mean over each image of the deepest features that the class head
        reads (ASPP's map, or the joined one), float32 (B, channels)."""
        x_BCHW = self._input(images_BCHW, scale)
        first, *rest = self.model.neck(*self.model.encode(x_BCHW))
        logits: Tensor = self.model.fit(self.model.heads(first, *rest), x_BCHW.shape[2:]).logits
        seen_BChw = self.model.unpadded(first, x_BCHW.shape[2:])
        return logits.float(), torch.stack([one.float().mean(dim=(1, 2)) for one in seen_BChw])

    @torch.inference_mode()
    def dropout_passes(
        self, image_1CHW: Tensor, scales: Sequence[float], passes: int, seed: int
    ) -> Iterator[list[Tensor]]:
        """See `training.inference.dropout_passes`: uint8 image (1, 3, H, W) -> float32 logits (1, C, h, w) at every
        scale, per pass."""
        inputs = [self._input(image_1CHW, scale) for scale in scales]
        for logits in dropout_passes(self.model, inputs, passes, seed):
            yield [z_1Chw.float() for z_1Chw in logits]

    def _input(self, images_BCHW: Tensor, scale: float) -> Tensor:
        x_BCHW = normalise(images_BCHW.to(self.device, non_blocking=True))
        if scale != 1.0:
            size = scaled_size(x_BCHW.shape[2:], scale)
            x_BCHW = F.interpolate(x_BCHW, size, mode="bilinear", align_corners=self.align_corners)
        return x_BCHW.to(self.dtype, memory_format=torch.channels_last)


def load_network(checkpoint: Path, modules: Path | None = None) -> Segmenter:
    """The network of a checkpoint without its representation head, in evaluation mode on the CPU.

    UserError where its encoder is the user's own and is not there.  One that has changed since the training is said in
    a run, which names `modules`, where it may lie: its recipe asks for it.  Elsewhere it is refused before it is run.
    """
    state, meta = load_model(checkpoint)
    try:
        class_names(meta["classes"])
        settings = ModelSettings.model_validate(meta["model"])
        for name in ("aspp_channels", "decoder_channels", "low_level_channels", "embedding_dim"):
            whole(getattr(settings, name), name, 1, MOST_CHANNELS)  # before memory is taken for them
        if settings.own_encoder and modules is None:
            check_source("model.backbone", settings.backbone, meta.get("own_code", {}), checkpoint)
        model = build_model(settings, len(meta["classes"]), embedding=False, modules=modules)
        if "difficulty.gamma" in state:
            model.difficulty = DifficultyBranch(len(meta["classes"]), align_corners=model.align_corners)
        wanted = model.state_dict().keys()
        model.load_state_dict({name: tensor for name, tensor in state.items() if name in wanted})
    except (ValueError, KeyError, RuntimeError) as error:  # pydantic's and torch's among them
        if ran_out_of_memory(error) or isinstance(error, UserError):
            raise
        said = " ".join(str(error).split())[:200]
        raise DamagedError(f"{checkpoint}: its weights are not those of the network that it names: {said}") from None
    if settings.own_encoder and (changed := _changed(meta.get("own_code", {}), settings.backbone)):
        LOG.warning("%s: was trained with another source of %s", checkpoint, ", ".join(changed))
    return model.eval()


def _changed(trained_with: Mapping[str, str], encoder: str) -> list[str]:
    """Modules of an encoder of the user's own whose source is not that of the training."""
    now = read_source(encoder).hashes
    return [module for module in {**trained_with, **now} if trained_with.get(module) != now.get(module)]


def for_inference(model: Segmenter, device: torch.device, precision: Precision) -> Segmenter:
    """The network itself, folded in place; `bf16` rounds all but what would cost labels (decision 25).  Encoders but
    those of the shipped recipes are not folded: functions in them may read what no module reads."""
    shipped = model.backbone in BACKBONES
    left = [part for part in (None if shipped else model.encoder, model.unfolded) if part is not None]
    apart = nn.ModuleList(left)
    if not plain_forms():
        fold_batch_norm(model, apart)
    model = model.to(device).to(memory_format=torch.channels_last)
    if precision == "bf16":
        exact = {"class_head.out": torch.float32}  # rounded class scores would tie
        if shipped and hasattr(model.encoder, "blocks"):
            exact |= {"encoder.conv_stem": torch.float32, "encoder.blocks.0": torch.bfloat16}
        round_to_bf16(model, exact)
    elif not plain_forms():
        fuse_activations(model, apart)
    return model
