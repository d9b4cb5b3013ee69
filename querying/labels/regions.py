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

    Where the size does not divide the image, the last row and column are smaller cells with their true area.
    """

    height: int
    width: int
    size: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= min(self.height, self.width):
            raise UserError(
                f"query.region_size={self.size} does not fit into an image of {self.height}x{self.width} pixels"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.height // self.size), -(-self.width // self.size)

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
        heights = np.minimum(self.size, self.height - np.arange(rows) * self.size)
        widths = np.minimum(self.size, self.width - np.arange(columns) * self.size)
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
        """True for the outermost ring of regions, bool (R,)."""
        ring = np.ones(self.shape, dtype=bool)
        ring[1:-1, 1:-1] = False
        return ring.ravel()

    def mean(self, score_BHW: Tensor) -> Tensor:
        """Mean score of each region, float32 (B, R)."""
        batch = score_BHW.shape[0]
        rows, columns = self.shape
        if (rows * self.size, columns * self.size) != (self.height, self.width):
            padded = score_BHW.new_zeros(batch, rows * self.size, columns * self.size)
            padded[:, : self.height, : self.width] = score_BHW
            score_BHW = padded
        total_BR = score_BHW.view(batch, rows, self.size, columns, self.size).sum(dim=(2, 4)).flatten(1)
        return total_BR / total_BR.new_tensor(self.areas())
