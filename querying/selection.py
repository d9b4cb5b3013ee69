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
    if not count:
        return Cells.concatenate([])
    kept, num, threshold = [Cells.concatenate([])], 0, -np.inf
    for first, score_NR in shards:
        fresh = _at_least(first, score_NR, threshold)
        kept.append(fresh)
        num += fresh.num
        if num > 2 * count:
            best = _best(Cells.concatenate(kept), count)
            kept, num, threshold = [best], best.num, best.score_S.min()
    return ranked(_best(Cells.concatenate(kept), count))


def ranked(cells: Cells) -> Cells:
    """Score descending, then image, then region ascending."""
    return cells.take(np.lexsort((cells.region_S, cells.position_S, -cells.score_S)))


def within_budget(cells: Cells, areas_R: np.ndarray, pixels: int) -> Cells:
    """The best cells whose pixels together do not exceed `pixels`; in pool order."""
    return first_within_budget(ranked(cells), areas_R, pixels)


def first_within_budget(cells: Cells, areas_R: np.ndarray, pixels: int) -> Cells:
    """The first cells whose pixels together do not exceed `pixels`; in pool order."""
    first = cells.take(np.cumsum(areas_R[cells.region_S]) <= pixels)
    return first.take(np.lexsort((first.region_S, first.position_S)))


def best_cells(first: int, score_NR: np.ndarray, count: int) -> Cells:
    """The `count` best eligible cells of a shard, by region within an image; fewer where there are fewer."""
    best = _best(_at_least(first, score_NR, -np.inf), count)
    return best.take(np.lexsort((best.region_S, best.position_S)))


def _at_least(first: int, score_NR: np.ndarray, threshold: float) -> Cells:
    """The eligible cells of a shard that reach the threshold, in its order."""
    place = np.flatnonzero(score_NR >= threshold if threshold > -np.inf else score_NR > -np.inf)
    row, region = np.divmod(place, score_NR.shape[1])
    return Cells(first + row, region.astype(np.int32), score_NR.ravel()[place])


def _top_of_images(first: int, score_NR: np.ndarray, k: int) -> Cells:
    """The k largest of each row, found one after another: each is masked for the next search, and put back at the end.

    `score_NR` is as before when this returns; it is copied only where it may not be written to.
    """
    left_NR = score_NR if score_NR.flags.writeable else score_NR.copy()
    images = np.arange(len(left_NR))
    rounds = min(k, left_NR.shape[1])
    region_KN = np.zeros((rounds, len(left_NR)), np.int32)
    score_KN = np.full((rounds, len(left_NR)), -np.inf, np.float32)
    for turn in range(rounds):
        region_KN[turn] = left_NR.argmax(axis=1)  # the first of equals, hence the lower region id
        score_KN[turn] = left_NR[images, region_KN[turn]]
        left_NR[images, region_KN[turn]] = -np.inf
    for turn in reversed(range(rounds)):  # a row that has run out was masked at region 0 again: the first value wins
        left_NR[images, region_KN[turn]] = score_KN[turn]
    eligible_NK = ~np.isneginf(score_KN.T)
    row, _ = np.nonzero(eligible_NK)
    return Cells(first + row, region_KN.T[eligible_NK], score_KN.T[eligible_NK])


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
