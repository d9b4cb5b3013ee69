"""Selections that buy other units than cells: whole images, and single pixels.

Shape suffixes: N = images of a shard, R = regions, S = selected cells, K = candidates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from querying.selection.areas import CellAreas
from querying.selection.top_regions import Cells, ShardScores, best_cells, first_within_budget, select_global


def select_images(shards: Iterable[ShardScores], areas: CellAreas, count: int) -> Cells:
    """The `count` best images by the mean over all their pixels, the best first; as cells of region 0.

    Cells are weighted by their pixels; bought ones count 0, and an image of which nothing is left is no candidate.
    """

    def means() -> Iterator[ShardScores]:
        for first, score_NR in shards:
            open_NR = score_NR > -np.inf
            areas_R = areas.row(first)  # those of a shard's images have the same size
            # Summed row by row: a matrix product would round an image by the others in its shard.
            mean_N = (np.where(open_NR, score_NR, 0.0) * areas_R).sum(axis=1) / areas_R.sum()
            yield first, np.where(open_NR.any(axis=1), mean_N, -np.inf).astype(np.float32)[:, None]

    return select_global(means(), count)


def whole_within_budget(shards: Iterable[ShardScores], images: Cells, areas: CellAreas, pixels: int) -> Cells:
    """All eligible cells of the first `images` of which all that is left fits into `pixels`, with their image's score;
    in pool order.  What is left of an image is bought at once or not at all."""
    turn_of = {position: turn for turn, position in enumerate(images.position_S.tolist())}
    regions: dict[int, np.ndarray] = {}
    for first, score_NR in shards:
        for row in range(len(score_NR)):
            if first + row in turn_of:
                regions[turn_of[first + row]] = np.flatnonzero(score_NR[row] > -np.inf).astype(np.int32)
    bought = []
    for turn in range(images.num):
        region_S = regions[turn]
        pixels -= int(areas.row(int(images.position_S[turn]))[region_S].sum())
        if pixels < 0:
            break
        one = images.take(np.full(len(region_S), turn))
        bought.append(Cells(one.position_S, region_S, one.score_S))
    every = Cells.concatenate(bought)
    return every.take(np.lexsort((every.region_S, every.position_S)))


def select_drawn(
    shards: Iterable[tuple[Sequence[str], ShardScores]], k: int, share: float, areas: CellAreas, *,
    seed: int, cycle: int,
) -> Cells:  # fmt: skip
    """k cells of every image, drawn at random from its best eligible ones: `share` of its cells, but at least k
    (PixelPick, Shin et al. 2021: n of the 5 % most uncertain pixels).  In the order of the draw.

    Shards come with their image ids; a draw is a function of (seed, cycle, image id) and the image's scores alone.
    """
    parts = []
    for ids, (first, score_NR) in shards:
        most = max(k, int(share * np.count_nonzero(areas.row(first)) + 1e-6)) if ids else 0
        for row, image_id in enumerate(ids):
            best = best_cells(first + row, score_NR[row : row + 1], most)
            drawn = _generator(seed, cycle, image_id).permutation(best.num)[:k]
            parts.append(best.take(drawn))
    return Cells.concatenate(parts)


def drawn_within_budget(cells: Cells, areas: CellAreas, pixels: int) -> Cells:
    """As many as fit into `pixels`, from every image alike: the first of each, then the second; in pool order.

    By score, a short budget would go to the images that the network knows least, as `global` does.
    """
    cells = cells.take(np.argsort(cells.position_S, kind="stable"))
    turn_S = np.arange(cells.num) - np.searchsorted(cells.position_S, cells.position_S)
    return first_within_budget(cells.take(np.lexsort((cells.position_S, turn_S))), areas, pixels)


def _generator(seed: int, cycle: int, image_id: str) -> np.random.Generator:
    digest = hashlib.sha256(f"draw/{seed}/{cycle}/{image_id}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16])))
