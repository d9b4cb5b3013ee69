"""Padding of an image that is scaled to less than the crop, as the authors of S4AL+ and S4AL have it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from querying.dataset.label_values import IGNORE

Bytes = NDArray[np.uint8]


def padded_otherwise(
    image_HWC: Bytes, target_HW: Bytes, *, extent: Sequence[int], flip: bool, reflect: bool
) -> tuple[Bytes, Bytes]:
    """A pair that is padded at the bottom and right (left, where it is flipped): what is seen goes to the middle, or is
    mirrored into the padding.  The target's padding stays IGNORE."""
    rows, columns = (crop - have for crop, have in zip(target_HW.shape, extent, strict=True))
    seen = slice(0, extent[0]), slice(columns, None) if flip else slice(0, extent[1])
    left_right = (columns, 0) if flip else (0, columns)
    if reflect:
        return np.pad(image_HWC[seen], ((0, rows), left_right, (0, 0)), mode="reflect"), target_HW
    top_bottom, left_right = ((amount - amount // 2, amount // 2) for amount in (rows, columns))
    left_right = left_right[::-1] if flip else left_right
    target = np.pad(target_HW[seen], (top_bottom, left_right), constant_values=IGNORE)
    return np.pad(image_HWC[seen], (top_bottom, left_right, (0, 0))), target
