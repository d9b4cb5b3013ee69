"""How many pixels of the pool are pseudo-labelled as what and, where there is truth, how many of them rightly.

Whole numbers that add up over shards.  Opens the pool's truth: it serves reports alone, and nothing of it reaches a
training or a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from querying.base import pulse
from querying.base.arrow_file import scored_file, unaltered
from querying.base.errors import DamagedError
from querying.base.storage.ahead import File
from querying.base.storage.place import Place
from querying.dataset.codecs import UNREADABLE
from querying.dataset.schemas import PSEUDO_LABELS
from querying.dataset.shards import Shard, decode_label, read_truth


@dataclass(frozen=True, slots=True)
class PoolCounts:
    """counts[t, p] = pixels of true class t that are labelled p, int64 (C + 1, C + 1).  The last row is of pixels whose
    class nobody knows (void, or an image without a mask), the last column of those that got no label."""

    counts: npt.NDArray[np.int64]
    images: int = 0
    masks: int = 0
    """Of these images."""

    @classmethod
    def empty(cls, num_classes: int) -> PoolCounts:
        return cls(np.zeros((num_classes + 1, num_classes + 1), np.int64))

    @classmethod
    def of(cls, pseudo_HW: npt.NDArray[np.uint8], truth_HW: npt.NDArray[np.uint8] | None, classes: int) -> PoolCounts:
        """Of one image; IGNORE, which is above every class, is no label."""
        true_HW: Any = classes if truth_HW is None else np.minimum(truth_HW, classes).astype(np.int64)
        pair_HW = true_HW * (classes + 1) + np.minimum(pseudo_HW, classes).astype(np.int64)  # bytes hold 15 classes
        counts = np.bincount(pair_HW.ravel(), minlength=(classes + 1) ** 2).reshape(classes + 1, classes + 1)
        return cls(counts, 1, int(truth_HW is not None))

    def __add__(self, other: PoolCounts) -> PoolCounts:
        return PoolCounts(self.counts + other.counts, self.images + other.images, self.masks + other.masks)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"images": self.images, "masks": self.masks, "counts": self.counts.tolist()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PoolCounts:
        """ValueError where it is none of `to_dict`'s."""
        counts = np.array(data["counts"])
        if counts.dtype != np.int64 or counts.ndim != 2 or len(set(counts.shape)) > 1 or (counts < 0).any():
            raise ValueError("not the counts of a pool")
        return cls(counts, int(data["images"]), int(data["masks"]))

    def summary(self, classes: list[str]) -> dict[str, Any]:
        """Shares in 0..1.  `kept`: of the pool's pixels that have a label, `class_share` of those that have this one.
        Where pixels have a known class, `precision` is the share of their labels that are right and `class_recall` the
        share of a class's pixels that are labelled so; else they are None.  `vanished`: classes that no pixel is
        labelled as, though the pool shows them or nobody knows whether it does."""
        known = self.counts[:-1]
        right_C, true_C, labelled_C = known.diagonal(), known.sum(1), known[:, :-1].sum(0)
        pixels, share_C = int(self.counts.sum()), self.counts[:, :-1].sum(0)

        def by_class(part_C: npt.NDArray[np.int64], of_C: npt.NDArray[np.int64]) -> dict[str, float | None]:
            rows = zip(classes, part_C.tolist(), of_C.tolist(), strict=True)
            return {name: part / of if of else None for name, part, of in rows}

        return {
            "images": self.images,
            "masks": self.masks,
            "kept": int(share_C.sum()) / pixels if pixels else None,
            "precision": int(right_C.sum()) / int(labelled_C.sum()) if labelled_C.any() else None,
            "class_share": by_class(share_C, np.full_like(share_C, pixels)),
            "class_precision": by_class(right_C, labelled_C),
            "class_recall": by_class(right_C, true_C),
            "vanished": [
                name
                for name, share, true in zip(classes, share_C, true_C, strict=True)
                if self.images and not share and (true or self.masks < self.images)
            ],
        }


@dataclass(frozen=True, slots=True)
class CountTask:
    """A shard whose images were pseudo-labelled."""

    number: int
    root: Place
    shard: Shard

    def files(self) -> list[File]:
        """What it reads of the data set."""
        return [(self.root / self.shard.truth, self.shard.truth_sha256)]


class PoolCounter:
    """Counts the pseudo-labels in a folder of scores, a shard at a time."""

    def __init__(self, scores: Path, num_classes: int) -> None:
        self.scores, self.num_classes = scores, num_classes

    def count_shard(self, task: CountTask) -> dict[str, Any]:
        """As `PoolCounts.to_dict`.  DamagedError where the labels are not what was written, or are about other images
        than the shard's."""
        counts = PoolCounts.empty(self.num_classes)
        path = self.scores / f"pseudo-{task.number:05d}.arrow"
        with unaltered():
            file = scored_file(path, PSEUDO_LABELS)
            ids = [image_id for batch in file.batches() for image_id in batch["image_id"].to_pylist()]
            truth = read_truth(task.root, task.shard, ids=set(ids))
            for batch in file.batches():
                for image_id, label in zip(batch["image_id"].to_pylist(), batch["label"], strict=True):
                    there, truth_HW = next(truth, ("", None))
                    if there != image_id:
                        raise DamagedError(f"{path}: image {image_id} is not the next of {task.shard.truth}")
                    try:
                        pseudo_HW = decode_label(label.as_buffer())
                    except UNREADABLE as error:
                        raise DamagedError(f"{path}: image {image_id} can not be decoded: {error}") from None
                    counts += PoolCounts.of(pseudo_HW, truth_HW, self.num_classes)
                pulse.done(batch.num_rows)
        return counts.to_dict()
