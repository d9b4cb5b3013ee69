"""The images of a shard that are to be scored."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from querying.base import pulse
from querying.base.storage.ahead import File
from querying.base.storage.place import Place
from querying.dataset.shards import Shard, read_images


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """One shard's work.  `whole` images are fully labelled and left out; `bought` cells get no score."""

    number: int
    root: Place
    shard: Shard
    whole: frozenset[str]
    bought: dict[str, list[int]]

    def files(self) -> list[File]:
        """What it reads."""
        return [(self.root / self.shard.images, self.shard.images_sha256)]


def pool_batches(task: ScoreTask, batch_size: int, *, whole: bool = False) -> Iterator[tuple[list[str], Tensor]]:
    """Ids and uint8 images (B, 3, H, W) of a shard without the `whole` ones, or of these alone, in its order."""
    ids: list[str] = []
    images: list[np.ndarray] = []
    for image_id, image_HWC in read_images(task.root, task.shard):
        if (image_id in task.whole) != whole:
            continue
        ids.append(image_id)
        images.append(image_HWC)
        if len(ids) == batch_size:
            yield ids, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            pulse.done(len(ids))
            ids, images = [], []
    if ids:
        yield ids, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
        pulse.done(len(ids))
