"""What the network is told a pixel is: a human label if there is one, else a pseudo-label, else nothing."""

from collections.abc import Iterable

import numpy as np

from querying.dataset.label_values import IGNORE
from querying.dataset.shards import decode_label
from querying.labels.regions import RegionGrid


def compose_target(grid: RegionGrid, cells: Iterable[tuple[int, bytes]], pseudo_HW: np.ndarray | None) -> np.ndarray:
    """Overlay bought cells (region, PNG) on a pseudo-label raster of the grid's size; uint8 (H, W).  Inputs are not
    modified."""
    target_HW = np.full((grid.height, grid.width), IGNORE, np.uint8) if pseudo_HW is None else pseudo_HW.copy()
    for region, png in cells:
        target_HW[grid.box(region)] = decode_label(png)
    return target_HW
