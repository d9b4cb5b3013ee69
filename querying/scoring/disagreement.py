"""What several predictions of the same pixels say together, and how surely: BALD, EquAL, and the consistency under a
flip.

Shape suffixes: B = images, C = classes, H and W = pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class Predictions:
    """Sums over predictions of the same pixels: two maps stay in memory, however many predictions there are."""

    def __init__(self) -> None:
        self.count = 0
        self._p_BCHW: Tensor | None = None
        self._entropy_BHW: Tensor | None = None

    def add(self, log_p_BCHW: Tensor) -> None:
        """One more prediction, as log-probabilities."""
        p_BCHW = log_p_BCHW.exp()
        entropy_BHW = -(p_BCHW * log_p_BCHW).sum(dim=1)
        self.count += 1
        if self._p_BCHW is None or self._entropy_BHW is None:
            self._p_BCHW, self._entropy_BHW = p_BCHW, entropy_BHW
        else:
            self._p_BCHW += p_BCHW
            self._entropy_BHW += entropy_BHW

    def sum_of_entropies(self) -> Tensor:
        """In nats, in [0, count ln C], (B, H, W): EquAL's score, with an image and its mirror image."""
        assert self._entropy_BHW is not None
        return self._entropy_BHW

    def entropy_of_mean(self) -> Tensor:
        """Entropy of the mean probabilities in nats, in [0, ln C], (B, H, W): the mean of the entropies plus
        `mutual_information`, hence unsure and inconsistent pixels alike."""
        assert self._p_BCHW is not None
        p_BCHW = self._p_BCHW / self.count
        return p_BCHW.mul_(-p_BCHW.clamp(min=TINY).log()).sum(dim=1)  # 0 log 0 = 0, and a NaN stays one

    def mutual_information(self) -> Tensor:
        """Entropy of the mean minus the mean of the entropies, in nats, (B, H, W).

        Between 0 (all alike) and the logarithm of the smaller of C and the number of predictions.  Over dropout passes
        it is BALD (Houlsby et al. 2011; Gal et al. 2017); of two predictions, their Jensen-Shannon divergence.
        """
        assert self._entropy_BHW is not None
        return (self.entropy_of_mean() - self._entropy_BHW / self.count).clamp_(min=0.0)  # rounding may end below


TINY = 1e-38
"""The smallest normal float32, about: what is below adds nothing to an entropy."""

FURTHER: dict[str, Callable[[Predictions], Tensor]] = {
    "bald": Predictions.mutual_information,
    "flip": Predictions.mutual_information,
    "equal": Predictions.sum_of_entropies,
    "flip_entropy": Predictions.entropy_of_mean,
}
"""Acquisitions of more than one prediction: over dropout passes (`bald`), or of an image and its mirror image."""
