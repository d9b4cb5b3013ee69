"""Pixels of the cells of a pool, whose images may have several sizes.

Shape suffixes: R = regions, S = selected cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from querying.labels.regions import RegionGrid


class CellAreas(Protocol):
    """What a budget has to know of cells."""

    def of(self, position_S: np.ndarray, region_S: np.ndarray) -> np.ndarray:
        """Pixels of cells, int64 (S,): `position` is the image's place in the pool."""

    def row(self, position: int) -> np.ndarray:
        """Pixels of each region of an image, int64 (R,): 0 where it has none."""


class PoolAreas:
    """The areas on a grid, of images that are placed shard by shard, each of which has images of one size."""

    def __init__(self, grid: RegionGrid, sizes: Sequence[tuple[int, int]] = ()) -> None:
        """`sizes` (height, width) by the number of the shard; none where all images have that of the grid."""
        self.grid, self.sizes = grid, sizes
        self._starts: list[int] = []
        self._grids: list[RegionGrid] = []
        self._same_R = None if sizes else grid.areas()

    def place(self, first: int, images: int, shard: int) -> None:
        """Say that the `images` from place `first` on are of this shard; again says nothing new."""
        if self.sizes and images and (not self._starts or first > self._starts[-1]):
            self._starts.append(first)
            self._grids.append(self.grid.on(self.sizes[shard]))

    def of(self, position_S: np.ndarray, region_S: np.ndarray) -> np.ndarray:
        if self._same_R is not None:
            same_S: np.ndarray = self._same_R[region_S]
            return same_S
        place_S = np.searchsorted(self._starts, position_S, side="right") - 1
        cell_S = np.divmod(region_S.astype(np.int64), self.grid.shape[1])
        extents = (np.array([getattr(grid, side) for grid in self._grids], np.int64) for side in ("height", "width"))
        # A table of all areas would be as large as a pool of pixels times the sizes.
        tall_S, wide_S = (
            (extent[place_S] - place * self.grid.size).clip(0, self.grid.size)
            for extent, place in zip(extents, cell_S, strict=True)
        )
        area_S: np.ndarray = tall_S * wide_S
        return area_S

    def row(self, position: int) -> np.ndarray:
        if self._same_R is not None:
            return self._same_R
        if not self._grids:  # a shard without images comes first
            return self.grid.areas()
        return self._grids[int(np.searchsorted(self._starts, position, side="right")) - 1].areas()
