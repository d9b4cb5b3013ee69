"""Which regions to ask about.  Streams over shards of scores; ties go to the earlier image, then the lower region.

Shape suffixes: N = images of a shard, R = regions, S = selected cells.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from querying.selection.areas import CellAreas


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


ShardScores = tuple[int, np.ndarray]
"""Position of the shard's first image, and its scores float32 (N, R): -inf where a cell is not eligible."""


def select_per_image(shards: Iterable[ShardScores], k: int) -> Cells:
    """The k best eligible cells of every image, fewer where there are fewer (S4AL+: k = 4)."""
    return Cells.concatenate(_top_of_images(first, score_NR, k) for first, score_NR in shards)


def select_global(shards: Iterable[ShardScores], count: int) -> Cells:
    """The `count` best eligible cells of the whole pool, ordered as `ranked` orders them.

    Keeps at most about twice `count` candidates, 12 bytes each: cells below the running threshold are
    dropped shard by shard.  Shards may come in any order, but all have the same number of regions.
    """
    if not count:
        return Cells.concatenate([])
    kept, threshold, regions = _Candidates(), np.float32(-np.inf), 1
    for first, score_NR in shards:
        regions = score_NR.shape[1]
        # A cell that ties with `count` earlier ones has lost; behind a shard out of order it may have won.
        in_order = first * regions >= kept.reached
        bound = np.nextafter(threshold, np.float32(np.inf)) if in_order else threshold
        kept.add(first * regions, score_NR.ravel(), bound)
        if kept.num > 2 * count:
            _best(kept, count)
            threshold = kept.score.min()
    _best(kept, count)
    kept.trim()
    order_S = _descending(kept.score)
    score_S, flat_S = kept.score[order_S], kept.flat[order_S]
    del kept, order_S  # as large as the result
    position_S = flat_S // regions
    flat_S -= position_S * regions
    return Cells(position_S, flat_S.astype(np.int32), score_S)


def ranked(cells: Cells) -> Cells:
    """Score descending, then image, then region ascending."""
    cells = _in_pool_order(cells)
    return cells.take(_descending(cells.score_S))


def within_budget(cells: Cells, areas: CellAreas, pixels: int) -> Cells:
    """The best cells whose pixels together do not exceed `pixels`; in pool order."""
    if areas.of(cells.position_S, cells.region_S).sum() <= pixels:
        return _in_pool_order(cells)
    return first_within_budget(ranked(cells), areas, pixels)


def first_within_budget(cells: Cells, areas: CellAreas, pixels: int) -> Cells:
    """The first cells whose pixels together do not exceed `pixels`; in pool order."""
    return _in_pool_order(cells.take(np.cumsum(areas.of(cells.position_S, cells.region_S)) <= pixels))


def best_cells(first: int, score_NR: np.ndarray, count: int) -> Cells:
    """The `count` best eligible cells of a shard, by region within an image; fewer where there are fewer."""
    return _in_pool_order(select_global([(first, score_NR)], count))


def _in_pool_order(cells: Cells) -> Cells:
    """Image, then region ascending."""
    flat_S = cells.position_S * (int(cells.region_S.max(initial=0)) + 1) + cells.region_S
    if (flat_S[1:] > flat_S[:-1]).all():
        return cells
    return cells.take(np.argsort(flat_S, kind="stable"))


_PART = 65_536


class _Candidates:
    """Cells of one number each (image position times regions, plus region) in arrays that are used again: fresh ones
    would cost more than the search."""

    def __init__(self) -> None:
        self.num = 0
        self.reached = 0
        """No number so far is as high."""
        self._in_order = True
        self._scores, self._numbers = np.empty(0, np.float32), np.empty(0, np.int64)

    @property
    def score(self) -> np.ndarray:
        return self._scores[: self.num]

    @property
    def flat(self) -> np.ndarray:
        return self._numbers[: self.num]

    def add(self, start: int, score: np.ndarray, bound: np.float32) -> None:
        """The eligible cells of a shard, whose first one is number `start`, that reach the bound."""
        place_S = np.flatnonzero(score >= bound if bound > -np.inf else score > -np.inf)
        self._in_order &= start >= self.reached
        self.reached = max(self.reached, start + len(score))
        before, self.num = self.num, self.num + len(place_S)
        if self.num > len(self._scores):
            for array in (self._scores, self._numbers):
                array.resize(self.num + self.num // 4, refcheck=False)  # no view outlives a call
        self.score[before:] = score[place_S]
        self.flat[before:] = place_S
        self.flat[before:] += start

    def sort(self) -> None:
        """Into pool order."""
        if not self._in_order:
            order_S = np.argsort(self.flat)
            self.score[:] = self.score[order_S]
            self.flat[:] = self.flat[order_S]
            self._in_order = True

    def keep(self, place_S: np.ndarray) -> None:
        """Those at these ascending places, which move to the front a part at a time."""
        for start in range(0, len(place_S), _PART):
            part = place_S[start : start + _PART]
            self.score[start : start + len(part)] = self.score[part]
            self.flat[start : start + len(part)] = self.flat[part]
        self.num = len(place_S)

    def trim(self) -> None:
        """Give memory back that no candidate uses."""
        for array in (self._scores, self._numbers):
            array.resize(self.num, refcheck=False)


def _descending(score_S: np.ndarray) -> np.ndarray:
    """What sorts scores from high to low, equal ones as they come.

    One sort of integers, whose upper half falls as the score rises and whose lower half is the place.  The bits of
    floats order like integers, backwards where they are negative; adding zero makes -0 and 0 the same.
    """
    bits_S = (score_S + np.float32(0)).view(np.uint32)
    key_S = np.where(bits_S >> 31, bits_S, ~bits_S & np.uint32(0x7FFFFFFF)).astype(np.uint64)
    key_S <<= np.uint64(32)
    key_S |= np.arange(len(key_S), dtype=np.uint64)
    key_S.sort()
    key_S &= np.uint64(0xFFFFFFFF)
    return key_S.view(np.int64)


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


def _best(cells: _Candidates, count: int) -> None:
    """Keep the top `count` without a full sort: all above the count-th score, then the earliest of its equals."""
    cells.sort()
    if cells.num <= count:
        return
    cut = np.partition(cells.score, cells.num - count)[cells.num - count]
    best = cells.score >= cut
    surplus = np.count_nonzero(best) - count
    if surplus:
        best[np.flatnonzero(cells.score == cut)[-surplus:]] = False
    cells.keep(np.flatnonzero(best))
