"""What a ledger says of a pool, by shard: numbers in arrays, since names of a million images would fill the memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from querying.base.errors import UserError
from querying.dataset.ids import SplitIds
from querying.dataset.index import DataIndex
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid


class Bought:
    """The regions that queries have bought up to a cycle, in the order of the pool: 8 bytes each.  Images of cycle 0
    are bought whole."""

    def __init__(self, ledger: Ledger, cycle: int, ids: SplitIds) -> None:
        self.first_S = _placed(ledger, [0], ids)[0]
        """Places of the images of cycle 0, for each row."""
        self.place_S, self.region_S = _placed(ledger, range(1, cycle + 1), ids)
        if (self.place_S[1:] < self.place_S[:-1]).any():
            order_S = np.argsort(self.place_S, kind="stable")
            self.place_S, self.region_S = self.place_S[order_S], self.region_S[order_S]
        self._starts = ids.starts

    def whole(self, cells_N: np.ndarray) -> np.ndarray:
        """Of which images of the pool is nothing left to buy, bool (N,)?  Image n has `cells_N[n]` regions."""
        whole_N: np.ndarray = np.bincount(self.place_S, minlength=len(cells_N)) == cells_N
        whole_N[self.first_S] = True
        return whole_N

    def of_shard(self, number: int) -> dict[int, list[int]]:
        """Regions by the row of an image in its shard, in the order in which they were bought."""
        first, end = np.searchsorted(self.place_S, self._starts[number : number + 2]).tolist()
        place_S, region_S = self.place_S[first:end], self.region_S[first:end]
        row_I, start_I = np.unique(place_S - self._starts[number], return_index=True)
        parts = np.split(region_S, start_I[1:]) if len(row_I) else []
        return {row: part.tolist() for row, part in zip(row_I.tolist(), parts, strict=True)}


def _placed(ledger: Ledger, cycles: Sequence[int], ids: SplitIds) -> tuple[np.ndarray, np.ndarray]:
    """Place and region of each row, int32, but of those whose image the split has not."""
    place_S, region_S = np.zeros((2, sum(map(ledger.num_cells, cycles))), np.int32)
    num = 0
    for part in (part for cycle in cycles for part in ledger.parts(cycle, ["image_id", "region"])):
        place = ids.places(part["image_id"])
        there = place >= 0
        end = num + int(there.sum())
        place_S[num:end], region_S[num:end] = place[there], part["region"].to_numpy()[there]
        num = end
    return place_S[:num], region_S[:num]


def cells_of_images(index: DataIndex, split: str, grid: RegionGrid) -> np.ndarray:
    """How many regions of a grid over the largest size each image of a split has, int64 (N,)."""
    shards = index.shards(split)
    cells = np.array([grid.on(shard.size).num_cells for shard in shards], np.int64)
    return np.repeat(cells, [shard.rows for shard in shards])


def by_shard(query: pa.Table, ids: SplitIds) -> Iterator[pa.Table]:
    """The rows of a table of cells that are of each shard's images, in their order.  UserError names an image that the
    split has not."""
    place_S = ids.places(query["image_id"])
    if (place_S < 0).any():
        strange = min(query["image_id"].filter(pa.array(place_S < 0)).to_pylist())
        raise UserError(f"image {strange}: not in the {ids.what}")
    if (place_S[1:] < place_S[:-1]).any():
        order_S = np.argsort(place_S, kind="stable")
        query, place_S = query.take(pa.array(order_S)), place_S[order_S]
    ends = np.searchsorted(place_S, ids.starts).tolist()
    for first, end in pairwise(ends):
        yield query.slice(first, end - first)
