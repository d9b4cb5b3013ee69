"""Per-pixel acquisition functions: log-probabilities in, one score per pixel out.  Higher means "ask about this".

They take log-probabilities because one log-softmax then serves the score and the pseudo-label, and because
`p log p` stays finite: log p is never computed from a p that was rounded to zero.

Shape suffixes: B = images, C = classes, H and W = pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor


def entropy(log_p_BCHW: Tensor) -> Tensor:
    """Shannon entropy in nats, in [0, ln C] (S4AL+ section 3.3)."""
    return -(log_p_BCHW.exp() * log_p_BCHW).sum(dim=1)


def least_confidence(log_p_BCHW: Tensor) -> Tensor:
    """One minus the top probability, in [0, 1 - 1/C]."""
    return 1.0 - log_p_BCHW.amax(dim=1).exp()


def margin(log_p_BCHW: Tensor) -> Tensor:
    """One minus the gap between the two top probabilities (best versus second best), in [0, 1]."""
    top = log_p_BCHW.topk(2, dim=1).values.exp()
    return 1.0 - (top[:, 0] - top[:, 1])


ACQUISITIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "entropy": entropy,
    "least_confidence": least_confidence,
    "margin": margin,
}


def random_scores(seed: int, cycle: int, image_id: str, num_regions: int) -> np.ndarray:
    """Uniform in [0, 1), float32 (R,): a function of its arguments alone, so any actor draws the same."""
    digest = hashlib.sha256(f"{seed}/{cycle}/{image_id}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16]))).random(num_regions, dtype=np.float32)
