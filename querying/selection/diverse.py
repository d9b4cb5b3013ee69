"""Global selections that spread over classes or over kinds of regions, and not only over scores.

Shape suffixes: N = images of a shard, R = regions, C = classes, S = selected cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from querying.dataset.label_values import IGNORE
from querying.selection.k_centre import k_centre_greedy
from querying.selection.top_regions import Cells, ShardScores, select_global


def select_class_balanced(
    shards: Callable[[], Iterable[ShardScores]], classes: Callable[[], Iterable[np.ndarray]], count: int
) -> Cells:
    """The `count` best eligible cells of the whole pool by u exp(-p), the score that they then have.

    u is the score, scaled over all eligible cells to 0..1 (1 where all are equal), and p the share of the pool's cells,
    bought ones included, that are predicted to be of the cell's class: frequent classes count less (Cai et al., CVPR
    2021; that u is scaled stands in their code).  Reads the shards, and uint8 classes (N, R) in the same order, twice.
    """
    low, high, count_256 = np.inf, -np.inf, np.zeros(256, np.int64)
    for (_, score_NR), class_NR in zip(shards(), classes(), strict=True):
        found = score_NR[score_NR > -np.inf]
        if len(found):
            low, high = min(low, float(found.min())), max(high, float(found.max()))
        count_256 += np.bincount(class_NR.ravel(), minlength=256)
    count_256[IGNORE] = 0  # cells without a pixel
    weight_256 = np.exp(-count_256 / max(1, int(count_256.sum())))

    def weighted() -> Iterator[ShardScores]:
        for (first, score_NR), class_NR in zip(shards(), classes(), strict=True):
            open_NR = score_NR > -np.inf
            value_NR = np.where(open_NR, score_NR, high).astype(np.float64)
            share_NR = (value_NR - low) / (high - low) if high > low else np.ones(score_NR.shape)
            yield first, np.where(open_NR, share_NR * weight_256[class_NR], -np.inf).astype(np.float32)

    return select_global(weighted(), count)


def select_diverse(
    shards: Callable[[], Iterable[ShardScores]],
    mixtures: Callable[[], Iterable[np.ndarray]],
    count: int,
    candidates: int,
) -> Cells:
    """`count` of the `candidates` times `count` best eligible cells of the whole pool, in the order of choice: the best
    one, then always the one that is farthest from all chosen ones, of equals the better.

    To take the informative first and the diverse of them is Zhdanov's prefilter (2019); the diverse ones are a core-set
    (Sener and Savarese 2018) over the mean class probabilities of cells, the representation of Agarwal et al. (ECCV
    2020), with Euclidean distances.  Reads the shards once, and mixtures float32 (N, R, C) in the same order once;
    keeps the candidates.
    """
    ranked_cells = select_global(shards(), candidates * count)
    order = np.argsort(ranked_cells.position_S, kind="stable")
    places = ranked_cells.position_S[order]
    points: np.ndarray | None = None
    first = 0
    for mixture_NRC in mixtures():
        if not len(mixture_NRC):
            continue  # nothing of this shard is in the pool, nor says how many classes there are
        begin, end = np.searchsorted(places, [first, first + len(mixture_NRC)])
        part = order[begin:end]
        if points is None:
            points = np.zeros((ranked_cells.num, mixture_NRC.shape[2]), np.float32)
        points[part] = mixture_NRC[ranked_cells.position_S[part] - first, ranked_cells.region_S[part]]
        first += len(mixture_NRC)
    if points is None:
        return ranked_cells
    return ranked_cells.take(k_centre_greedy(points, count)[0])
