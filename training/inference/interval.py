"""How far an mIoU would move with another draw of as many images: the bootstrap over the images that were measured.

Shape suffixes: N = images, C = classes, K = resamples of a block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from training.inference.confusion import Confusion

INTERVAL = ("miou_low", "miou_high")
"""What a row says beside its `miou`: None of one image; not there where images were not counted apart."""
RESAMPLES, LEVEL, SEED, BLOCK = 2000, 0.95, 20220101, 100
"""The seed is no run's: runs on the same images are measured on the same draws of them."""
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ImageCounts:
    """The pixels of each evaluated image and class that are right, true and predicted: all that an IoU is made of."""

    ids: Sequence[str]
    hit_NC: Counts
    true_NC: Counts
    predicted_NC: Counts

    @classmethod
    def of(cls, rows: Mapping[str, Sequence[Sequence[int]]]) -> ImageCounts:
        """From image id -> (right, true, predicted), in the order of the ids, whatever order they came in."""
        ids = sorted(rows)
        counts_N3C = np.array([rows[image_id] for image_id in ids], np.int64)
        return cls(ids, *(counts_N3C[:, part] for part in range(3)))

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> ImageCounts:
        return cls(found["ids"], *(np.array(found[name], np.int64) for name in ("right", "true", "predicted")))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        parts = {"right": self.hit_NC, "true": self.true_NC, "predicted": self.predicted_NC}
        return {"ids": list(self.ids), **{name: counts_NC.tolist() for name, counts_NC in parts.items()}}

    def adds_up_to(self, confusion: Confusion) -> bool:
        """Are these the images that were counted there?"""
        counts = confusion.counts.numpy()
        sums = (self.hit_NC.sum(axis=0), self.true_NC.sum(axis=0), self.predicted_NC.sum(axis=0))
        wanted = (counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0))
        return all(np.array_equal(a, b) for a, b in zip(sums, wanted, strict=True))

    def miou_N(self) -> npt.NDArray[np.float64]:
        """The mIoU of each image alone, in 0..1; NaN where nothing of it is known."""
        return _miou(self.hit_NC, self.true_NC + self.predicted_NC - self.hit_NC)

    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mIoU in 0..1, by percentiles; None of a single image.

        Images are drawn with replacement, as many as there are, and their counts added: a resample's mIoU is what
        `Confusion.mean_iou` would give.  Exact below 2^53 pixels, the same on every machine.
        """
        number = len(self.ids)
        if number < 2:
            return None
        draws = np.random.RandomState(SEED)  # its numbers stay the same in every version of numpy
        right_NC, union_NC = self.hit_NC.astype(float), (self.true_NC + self.predicted_NC - self.hit_NC).astype(float)
        found: list[npt.NDArray[np.float64]] = []
        for _ in range(0, RESAMPLES, BLOCK):
            weights_KN = draws.multinomial(number, np.full(number, 1 / number), size=BLOCK).astype(float)
            found.append(_miou(weights_KN @ right_NC, weights_KN @ union_NC))
        miou = np.concatenate(found)
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(miou[~np.isnan(miou)], (tail, 1 - tail))
        return float(low), float(high)


def image_row(confusion: Confusion) -> list[list[int]]:
    """What `ImageCounts.of` takes of one image."""
    counts = confusion.counts
    return [counts.diagonal().tolist(), counts.sum(1).tolist(), counts.sum(0).tolist()]


def _miou(right: npt.NDArray[Any], union: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Mean over the classes that are present or predicted; NaN where there is none."""
    seen = union > 0
    iou = np.divide(right, union, out=np.zeros(union.shape), where=seen)
    number = seen.sum(axis=-1)
    means: npt.NDArray[np.float64] = np.divide(
        iou.sum(axis=-1), number, out=np.full(number.shape, np.nan), where=number > 0
    )
    return means
