"""From a folder of scores to a query: which selection, over which files, within which budget."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from querying.base.errors import DamagedError, UserError
from querying.dataset.schemas import QUERY
from querying.labels.regions import RegionGrid
from querying.scoring.extra_files import read_extra
from querying.scoring.score_files import read_scores
from querying.selection.areas import PoolAreas
from querying.selection.diverse import select_class_balanced, select_diverse
from querying.selection.images_and_pixels import drawn_within_budget, select_drawn, select_images, whole_within_budget
from querying.selection.k_centre import k_centre_greedy
from querying.selection.top_regions import (
    Cells,
    ShardScores,
    first_within_budget,
    select_global,
    select_per_image,
    within_budget,
)
from querying.settings import Extra, QuerySettings


@dataclass
class ScoredPool:
    """A folder of scores, read one shard at a time and as often as a selection likes."""

    folder: Path
    grid: RegionGrid
    sizes: Sequence[tuple[int, int]] = ()
    """Height and width of the images of each shard, where they differ."""
    ids: pa.StringArray = field(default_factory=lambda: pa.array([], pa.string()))
    """Images by their place in the pool; complete once the shards have been read."""

    def __post_init__(self) -> None:
        self.areas = PoolAreas(self.grid, self.sizes)

    def named_shards(self) -> Iterator[tuple[list[str], ShardScores]]:
        parts, first = [self.ids[:0]], 0
        for path in self._paths():
            shard_ids, score_NR = read_scores(path, self.grid.num_regions)
            parts.append(pa.array(shard_ids, pa.string()))
            self.areas.place(first, len(shard_ids), int(path.stem.removeprefix("regions-")))
            yield shard_ids, (first, score_NR)
            first += len(shard_ids)
        self.ids = pa.concat_arrays(parts)
        if pc.count_distinct(self.ids).as_py() != len(self.ids):
            raise UserError(f"{self.folder}: an image is in two shards of the train split")

    def shards(self) -> Iterator[ShardScores]:
        return (shard for _, shard in self.named_shards())

    def extra(self, kind: Extra, shape: tuple[int, ...] = (-1,)) -> Iterator[tuple[list[str], np.ndarray]]:
        """Ids and values (N, *shape) of every shard in the same order; among `features`, those of the shard's images
        that are bought whole come last."""
        for path in self._paths():
            yield read_extra(path.with_name(path.name.replace("regions", kind, 1)), kind, shape)

    def values(self, kind: Extra, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        return (value for _, value in self.extra(kind, shape))

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("regions-*.arrow"))


def choose(
    query: QuerySettings,
    pool: ScoredPool,
    *,
    pixels: int,
    images: int,
    labelled: Collection[str],
    seed: int,
    cycle: int,
) -> pa.Table:
    """The next query (schema QUERY), of at most `pixels` pixels.

    `images`: how many the pool has, of each of which a global selection takes `query.per_image` cells on average;
    `labelled`: the ids of those that are bought whole, the core-set's first centres.
    """
    areas, regions, count = pool.areas, pool.grid.num_regions, query.per_image * images
    if query.acquisition == "coreset":
        cells = whole_within_budget(pool.shards(), _core_set(pool, query.images, labelled), areas, pixels)
    elif query.unit == "image":
        best = select_images(pool.shards(), areas, query.images)
        cells = whole_within_budget(pool.shards(), best, areas, pixels)
    elif query.unit == "pixel":
        drawn = select_drawn(pool.named_shards(), query.per_image, query.top_share, areas, seed=seed, cycle=cycle)
        cells = drawn_within_budget(drawn, areas, pixels)
    elif query.select == "diverse":
        mixtures = partial(pool.values, "mixtures", (regions, -1))
        cells = first_within_budget(select_diverse(pool.shards, mixtures, count, query.candidates), areas, pixels)
    elif query.select == "class_balanced":
        classes = partial(pool.values, "classes", (regions,))
        cells = within_budget(select_class_balanced(pool.shards, classes, count), areas, pixels)
    elif query.select == "global":
        cells = within_budget(select_global(pool.shards(), count), areas, pixels)
    else:
        cells = within_budget(select_per_image(pool.shards(), query.per_image), areas, pixels)
    return _query_table(cells, pool.ids)


def _core_set(pool: ScoredPool, count: int, labelled: Collection[str]) -> Cells:
    """Images in the order of choice, as cells of region 0 whose score is their distance from what was chosen before.

    Holds the features of the whole pool: a kilobyte an image with 256 of them."""
    points, places, centres = [np.zeros((0, 0), np.float32)], [np.zeros(0, np.int64)], []
    for (ids, (first, score_NR)), (known, value_ND) in zip(pool.named_shards(), pool.extra("features"), strict=True):
        if known[: len(ids)] != ids:
            raise DamagedError(f"{pool.folder}: its features are not of the images that it scores")
        open_N = (score_NR > -np.inf).any(axis=1)
        if open_N.any():
            points.append(value_ND[: len(ids)][open_N])
            places.append(first + np.flatnonzero(open_N))
        centres.append(value_ND[[row for row, image_id in enumerate(known) if image_id in labelled]])
    chosen, distance_S = k_centre_greedy(np.concatenate(points[1:] or points), count, centres)
    return Cells(np.concatenate(places)[chosen], np.zeros(len(chosen), np.int32), distance_S.astype(np.float32))


def _query_table(cells: Cells, ids: pa.StringArray) -> pa.Table:
    columns = {
        "image_id": ids.take(pa.array(cells.position_S)),
        "region": pa.array(cells.region_S),
        "score": pa.array(cells.score_S),
    }
    return pa.table(columns, schema=QUERY)
