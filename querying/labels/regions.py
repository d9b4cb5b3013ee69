"""The region grid: the only place that knows how a region id maps to pixels.

Shape suffixes: B = images, H and W = pixels, R = regions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from querying.base.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


WHOLE = -1
"""Region id of a whole image.  Only the first images of a grid of pixels are labelled so: a row for each pixel would be
too many."""


@dataclass(frozen=True, slots=True)
class RegionGrid:
    """Non-overlapping squares of exactly `size` pixels, numbered row by row from the top left.

    Where the size does not divide the image, the last row and column are smaller cells with their true area.  In a data
    set of several image sizes the grid is that of the largest height and width, and each image has a part of it (`on`).
    """

    height: int
    width: int
    size: int
    frame: tuple[int, int] | None = None
    """Height and width of what the cells are numbered in, where that is larger than the image."""

    def __post_init__(self) -> None:
        height, width = self.frame or (self.height, self.width)
        if not 1 <= self.size <= min(height, width):
            raise UserError(f"query.region_size={self.size} does not fit into an image of {height}x{width} pixels")

    def on(self, size: tuple[int, int]) -> RegionGrid:
        """The grid of an image of another `size` (height, width) of the data set, at the top left of this one.

        A region has the same number in every image, so that scores of all images have the same length; of those that an
        image does not reach it has no pixel."""
        frame = self.frame or (self.height, self.width)
        if size == (self.height, self.width):
            return self
        if size[0] > frame[0] or size[1] > frame[1]:
            raise ValueError(f"an image of {size[0]}x{size[1]} pixels is larger than {frame[0]}x{frame[1]}")
        return RegionGrid(*size, self.size, None if size == frame else frame)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells, those without a pixel included."""
        height, width = self.frame or (self.height, self.width)
        return -(-height // self.size), -(-width // self.size)

    @property
    def reached(self) -> tuple[int, int]:
        """Rows and columns of cells that have pixels of the image."""
        return -(-self.height // self.size), -(-self.width // self.size)

    @property
    def num_cells(self) -> int:
        """Regions that have pixels."""
        rows, columns = self.reached
        return rows * columns

    def cells(self) -> np.ndarray:
        """The regions that have pixels, int32, ascending."""
        rows, columns = self.reached
        return (np.arange(rows)[:, None] * self.shape[1] + np.arange(columns)).ravel().astype(np.int32)

    @property
    def num_regions(self) -> int:
        rows, columns = self.shape
        return rows * columns

    def box(self, region: int) -> tuple[slice, slice]:
        """The pixels of a region, as an index into an (H, W) array."""
        if region == WHOLE:
            return slice(0, self.height), slice(0, self.width)
        row, column = divmod(region, self.shape[1])
        return (
            slice(row * self.size, min((row + 1) * self.size, self.height)),
            slice(column * self.size, min((column + 1) * self.size, self.width)),
        )

    def regions(self) -> np.ndarray:
        """The region of each pixel, int64 (H, W)."""
        row, column = np.arange(self.height) // self.size, np.arange(self.width) // self.size
        return (row[:, None] * self.shape[1] + column).astype(np.int64)

    def areas(self) -> np.ndarray:
        """Pixels of each region, int64 (R,)."""
        rows, columns = self.shape
        heights = (self.height - np.arange(rows) * self.size).clip(0, self.size)
        widths = (self.width - np.arange(columns) * self.size).clip(0, self.size)
        return np.outer(heights, widths).ravel().astype(np.int64)

    def mask(self, regions: Iterable[int]) -> np.ndarray:
        """True for the pixels of these regions, bool (H, W)."""
        mask_HW = np.zeros((self.height, self.width), bool)
        for region in regions:
            mask_HW[self.box(region)] = True
        return mask_HW

    def touching(self, regions: Sequence[int], other: RegionGrid) -> Sequence[int]:
        """Regions of this grid that share a pixel with `regions` of another one over the same images, ascending."""
        if other == self:
            return regions
        found: list[int] = np.unique(self.regions()[other.mask(regions)]).tolist()
        return found

    def border(self) -> np.ndarray:
        """True for the outermost ring of regions, and for those without a pixel, bool (R,)."""
        rows, columns = self.reached
        ring = np.ones(self.shape, dtype=bool)
        ring[1 : rows - 1, 1 : columns - 1] = False
        return ring.ravel()

    def mean(self, score_BHW: Tensor) -> Tensor:
        """Mean score of each region, float32 (B, R); 0 of one without a pixel."""
        batch = score_BHW.shape[0]
        rows, columns = self.shape
        if (rows * self.size, columns * self.size) != (self.height, self.width):
            padded = score_BHW.new_zeros(batch, rows * self.size, columns * self.size)
            padded[:, : self.height, : self.width] = score_BHW
            score_BHW = padded
        total_BR = score_BHW.view(batch, rows, self.size, columns, self.size).sum(dim=(2, 4)).flatten(1)
        return total_BR / total_BR.new_tensor(self.areas().clip(1))
