"""Acquisitions that look at an image more than once: dropout passes, and the mirrored image.

Shape suffixes: B = images, C = classes, H and W = pixels, h and w = the head's stride-4 pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, cast

from querying.scoring.disagreement import FURTHER, Predictions

if TYPE_CHECKING:
    from torch import Tensor

Predict = Callable[["Tensor", float], "Tensor"]


class Dropout(Protocol):
    """What BALD needs of a network beside its ordinary pass."""

    def dropout_passes(
        self, image_1CHW: Tensor, scales: Sequence[float], passes: int, seed: int
    ) -> Iterator[list[Tensor]]:
        """The logits (1, C, h, w) of each pass at every scale; the same for the same seed, whatever ran before."""


class FurtherPasses:
    """One map per image for the acquisitions in FURTHER."""

    def __init__(
        self,
        acquisition: str,
        predict: Predict,
        log_probabilities: Callable[[list[Tensor]], Tensor],
        *,
        scales: Sequence[float],
        passes: int,
        seed: int,
        cycle: int,
    ) -> None:
        """`log_probabilities` takes logits at all scales to log-probabilities at full size; `passes` counts those
        with dropout."""
        self.acquisition, self.score = acquisition, FURTHER[acquisition]
        self.predict = predict
        self.log_probabilities = log_probabilities
        self.scales, self.passes = scales, passes
        self.seed, self.cycle = seed, cycle

    def maps(self, ids: Sequence[str], images_BCHW: Tensor, logits: Sequence[Tensor]) -> Iterator[Tensor]:
        """The scores (1, H, W) of each image in turn; `logits` (B, C, h, w) are those of the ordinary pass."""
        if self.acquisition == "bald":
            return self._dropout(ids, images_BCHW)
        return self._mirrored(images_BCHW, logits)

    def _dropout(self, ids: Sequence[str], images_BCHW: Tensor) -> Iterator[Tensor]:
        network = cast(Dropout, self.predict)
        for i, image_id in enumerate(ids):  # one by one: neither the batch nor the actor decides what is dropped
            seed = dropout_seed(self.seed, self.cycle, image_id)
            found = Predictions()
            for logits in network.dropout_passes(images_BCHW[i : i + 1], self.scales, self.passes, seed):
                found.add(self.log_probabilities(logits))
            yield self.score(found)

    def _mirrored(self, images_BCHW: Tensor, logits: Sequence[Tensor]) -> Iterator[Tensor]:
        mirrored_BCHW = images_BCHW.flip(3)
        back = [self.predict(mirrored_BCHW, scale).flip(3) for scale in self.scales]
        for i in range(len(images_BCHW)):
            found = Predictions()
            for one in (logits, back):
                found.add(self.log_probabilities([z_BChw[i : i + 1] for z_BChw in one]))
            yield self.score(found)


def dropout_seed(seed: int, cycle: int, image_id: str) -> int:
    """In [0, 2^62): a function of its arguments alone; a pass adds its number to it."""
    digest = hashlib.sha256(f"dropout/{seed}/{cycle}/{image_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2
