"""Which regions to ask about.  Streams over shards of scores; ties go to the earlier image, then the lower region.

Shape suffixes: N = images of a shard, R = regions, S = selected cells.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Cells(NamedTuple):
    """Chosen cells: `position` is the image's place in the pool, so that order never depends on arrival."""

    position_S: np.ndarray  # int64
    region_S: np.ndarray  # int32
    score_S: np.ndarray  # float32

    @property
    def num(self) -> int:
        return len(self.position_S)

    def take(self, index: np.ndarray) -> "Cells":
        return Cells(self.position_S[index], self.region_S[index], self.score_S[index])

    @classmethod
    def concatenate(cls, parts: Iterable["Cells"]) -> "Cells":
        columns = list(zip(*parts, strict=True))
        if not columns:
            return cls(np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.float32))
        return cls(*(np.concatenate(column) for column in columns))


Shard = tuple[int, np.ndarray]
"""Position of the shard's first image, and its scores float32 (N, R): -inf where a cell is not eligible."""


def select_per_image(shards: Iterable[Shard], k: int) -> Cells:
    """The k best eligible cells of every image, fewer where there are fewer (S4AL+: k = 4)."""
    return Cells.concatenate(_top_of_images(first, score_NR, k) for first, score_NR in shards)


def select_global(shards: Iterable[Shard], count: int) -> Cells:
    """The `count` best eligible cells of the whole pool, ordered as `ranked` orders them.

    Keeps at most about twice `count` candidates: cells below the running threshold are dropped shard by shard.
    """
    best = Cells.concatenate([])
    threshold = -np.inf
    for first, score_NR in shards:
        row, region = np.nonzero((score_NR >= threshold) & (score_NR > -np.inf))
        fresh = Cells(first + row.astype(np.int64), region.astype(np.int32), score_NR[row, region])
        best = Cells.concatenate([best, fresh])
        if best.num > 2 * count:
            best = _best(best, count)
            threshold = best.score_S.min() if count else np.inf
    return ranked(_best(best, count))


def ranked(cells: Cells) -> Cells:
    """Score descending, then image, then region ascending."""
    return cells.take(np.lexsort((cells.region_S, cells.position_S, -cells.score_S)))


def within_budget(cells: Cells, areas_R: np.ndarray, pixels: int) -> Cells:
    """The best cells whose pixels together do not exceed `pixels`; in pool order."""
    best = ranked(cells)
    best = best.take(np.cumsum(areas_R[best.region_S]) <= pixels)
    return best.take(np.lexsort((best.region_S, best.position_S)))


def _top_of_images(first: int, score_NR: np.ndarray, k: int) -> Cells:
    left_NR = score_NR.copy()
    images = np.arange(len(left_NR))
    parts = []
    for _ in range(min(k, left_NR.shape[1])):
        region_N = left_NR.argmax(axis=1)  # the first of equals, hence the lower region id
        score_N = left_NR[images, region_N]
        eligible = score_N > -np.inf
        parts.append(Cells(first + images[eligible], region_N[eligible].astype(np.int32), score_N[eligible]))
        left_NR[images, region_N] = -np.inf
    cells = Cells.concatenate(parts)
    return cells.take(np.argsort(cells.position_S, kind="stable"))


def _best(cells: Cells, count: int) -> Cells:
    """The top `count` without a full sort: all above the count-th score, then the earliest of those that equal it."""
    if cells.num <= count:
        return cells
    if count == 0:
        return Cells.concatenate([])
    cut = np.partition(cells.score_S, cells.num - count)[cells.num - count]
    above = np.flatnonzero(cells.score_S > cut)
    equal = np.flatnonzero(cells.score_S == cut)
    equal = equal[np.lexsort((cells.region_S[equal], cells.position_S[equal]))][: count - len(above)]
    return cells.take(np.concatenate([above, equal]))
