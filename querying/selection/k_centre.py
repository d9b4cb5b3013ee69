"""k-centre greedy: the next centre is the point that is farthest from all centres so far.

Shape suffixes: N = points, D = their coordinates, S = selected points, M = centres that are there already.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

_BLOCK = 1 << 16
"""Numbers that a step of `_approach` works on: they stay in the cache, and memory does not grow with the pool."""


def k_centre_greedy(
    points_ND: npt.NDArray[np.float32], count: int, centres: Iterable[np.ndarray] = ()
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Indices (S,) of the next `count` centres in the order of choice, fewer where there are fewer points, and of each
    its distance from the nearest centre when it was chosen (Sener and Savarese 2018, algorithm 1; Euclidean).

    `centres` are blocks (M, D) that are chosen already; with none, the first point is the first centre, at distance
    inf.  Of points that are equally far, the lower index is chosen; a point is chosen once, even where all that are
    left lie on centres.  Distances are updated, never made anew: O(N D) time a centre, O(N) memory beside the points.
    """
    nearest_N = np.full(len(points_ND), np.inf)
    for block_MD in centres:
        for centre_D in block_MD:
            _approach(nearest_N, points_ND, centre_D)
    picks = np.zeros(min(count, len(points_ND)), np.int64)
    distance_S = np.zeros(len(picks))
    for turn in range(len(picks)):
        pick = int(nearest_N.argmax())  # the first of equals
        picks[turn], distance_S[turn] = pick, np.sqrt(nearest_N[pick])
        _approach(nearest_N, points_ND, points_ND[pick])
        nearest_N[pick] = -1.0  # below every distance, for good
    return picks, distance_S


def _approach(nearest_N: npt.NDArray[np.float64], points_ND: np.ndarray, centre_D: np.ndarray) -> None:
    """Lower the squared distances to that from one more centre.

    Differences first, in float64: the shortcut |a|^2 + |b|^2 - 2ab rounds equal distances apart.
    """
    centre_D = centre_D.astype(np.float64)
    rows = max(1, _BLOCK // max(1, points_ND.shape[1]))
    for start in range(0, len(points_ND), rows):
        away = points_ND[start : start + rows] - centre_D
        part = nearest_N[start : start + rows]
        np.minimum(part, np.einsum("nd,nd->n", away, away), out=part)
