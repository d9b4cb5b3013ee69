"""How reliable a pseudo-label is (ST++, Yang et al. 2022): whether the teacher said the same while it was learning."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.base.arrow_file import unaltered
from querying.labels.pseudo_labels import top_class
from querying.scoring.pool import ScoreTask, pool_batches
from querying.scoring.scorer import Predict
from training.inference.confusion import Confusion
from training.inference.predictor import Predictor
from training.network.checkpoint import early_folders


def reliability(early_KHW: Sequence[Tensor], last_HW: Tensor, num_classes: int) -> float:
    """Mean over the early predictions of their mIoU with the last one, in 0..1; classes in neither are left out."""
    agreement = [Confusion.of(one_HW[None], last_HW[None], num_classes).mean_iou() for one_HW in early_KHW]
    return sum(agreement) / len(agreement)


class ShardRanker:
    """Images of a shard in, a number for each out; at scale 1, as published."""

    def __init__(self, early: Sequence[Predict], last: Predict, num_classes: int, batch_size: int) -> None:
        self.predicts = [*early, last]
        self.align_corners = bool(getattr(last, "align_corners", False))
        self.num_classes = num_classes
        self.batch_size = batch_size

    @torch.inference_mode()
    def rank_shard(self, task: ScoreTask) -> list[tuple[str, float]]:
        """(image, reliability) of all that are not `whole`.  FloatingPointError names an image with broken logits."""
        found = []
        with unaltered():
            for ids, images_BCHW in pool_batches(task, self.batch_size):
                logits = [predict(images_BCHW, 1.0) for predict in self.predicts]
                for i, image_id in enumerate(ids):
                    *early, last = (self._classes(image_id, z_BChw[i : i + 1], images_BCHW) for z_BChw in logits)
                    found.append((image_id, reliability(early, last, self.num_classes)))
        return found

    def _classes(self, image_id: str, logits_1Chw: Tensor, images_BCHW: Tensor) -> Tensor:
        if not torch.isfinite(logits_1Chw).all():
            raise FloatingPointError(f"image {image_id}: the network's output is not finite")
        full = F.interpolate(logits_1Chw, images_BCHW.shape[2:], mode="bilinear", align_corners=self.align_corners)
        return top_class(full)[1][0].cpu()


def ranker_of(
    checkpoint: Path, num_classes: int, batch_size: int, threads: int, device: str, modules: Path | None = None
) -> ShardRanker:
    """A ranker with a checkpoint's network and those of earlier steps in it."""
    torch.set_num_threads(threads)
    early = [Predictor(folder, device, modules=modules) for folder in early_folders(checkpoint)]
    return ShardRanker(early, Predictor(checkpoint, device, modules=modules), num_classes, batch_size)
