"""Count agreements with the truth, shard by shard, at the resolution of the data; whole images or windows."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from querying.base import pulse
from querying.base.arrow_file import unaltered
from querying.base.errors import UserError
from querying.base.storage.ahead import File
from querying.base.storage.place import Place
from querying.dataset.shards import Shard, paired, read_images, read_truth
from querying.labels.pseudo_labels import top_class
from training.inference.confusion import Confusion
from training.inference.interval import image_row
from training.inference.sliding import probabilities
from training.settings.training import EvaluateSettings


@dataclass(frozen=True, slots=True)
class EvaluationTask:
    root: Place
    shard: Shard
    ids: Collection[str] | None = None
    """The images to count; None is all of them."""

    def files(self) -> list[File]:
        """What it reads."""
        shard = self.shard
        return [(self.root / shard.images, shard.images_sha256), (self.root / shard.truth, shard.truth_sha256)]


class ShardEvaluator:
    """Opens images and truth of a shard; its counts merge by addition, whatever the split into shards."""

    def __init__(
        self,
        load_predict: Callable[[], Callable[[Tensor, float], Tensor]],
        num_classes: int,
        batch_size: int,
        threads: int,
        settings: EvaluateSettings | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self.predict = load_predict()
        self.align_corners = bool(getattr(self.predict, "align_corners", False))
        self.num_classes = num_classes
        self.batch_size = batch_size
        self.settings = settings or EvaluateSettings()

    def evaluate_shard(self, task: EvaluationTask) -> list[list[int]]:
        """Confusion counts [true][predicted].  UserError names an image without a mask."""
        return self.evaluate_images(task)[0]

    def evaluate_images(self, task: EvaluationTask) -> tuple[list[list[int]], dict[str, list[list[int]]]]:
        """`evaluate_shard`, and for each image what `ImageCounts.of` takes."""
        confusion, rows = Confusion.empty(self.num_classes), dict[str, list[list[int]]]()
        ids: list[str] = []
        images: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        files = task.root, task.shard, task.ids
        pairs = paired(task.root, task.shard, read_images(*files), read_truth(*files))
        with unaltered():
            for image_id, image_HWC, mask_HW in pairs:
                if mask_HW is None:
                    raise UserError(f"image {image_id}: no mask, so it can not be evaluated")
                ids.append(image_id)
                images.append(image_HWC)
                masks.append(mask_HW)
                if len(images) == self.batch_size:
                    confusion += self._count(ids, images, masks, rows)
                    ids, images, masks = [], [], []
            if images:
                confusion += self._count(ids, images, masks, rows)
        return confusion.to_list(), rows

    @torch.inference_mode()
    def labels(self, images: list[np.ndarray]) -> Iterator[Tensor]:
        """The predicted classes (1, H, W) of each of some images (H, W, 3), computed together, at their own size."""
        images_BCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        window = self.settings.window
        if window is None:
            output_BChw = self.predict(images_BCHW, 1.0)
        else:
            output_BChw = probabilities(self.predict, images_BCHW, window=window, stride=self.settings.strides())
        if not torch.isfinite(output_BChw).all():
            raise FloatingPointError("evaluation: the network's output is not finite")
        pulse.done(len(images))
        for output_Chw in output_BChw:
            size = images_BCHW.shape[2:]
            full = F.interpolate(output_Chw[None], size, mode="bilinear", align_corners=self.align_corners)
            yield top_class(full)[1].cpu()

    @torch.inference_mode()
    def _count(
        self, ids: list[str], images: list[np.ndarray], masks: list[np.ndarray], rows: dict[str, list[list[int]]]
    ) -> Confusion:
        """Counts of all of them; each one's own go to `rows`."""
        truth_BHW = torch.from_numpy(np.stack(masks))
        confusion = Confusion.empty(self.num_classes)
        for image_id, label_1HW, truth_HW in zip(ids, self.labels(images), truth_BHW, strict=True):
            of_image = Confusion.of(label_1HW, truth_HW[None], self.num_classes)
            rows[image_id] = image_row(of_image)
            confusion += of_image
        return confusion
