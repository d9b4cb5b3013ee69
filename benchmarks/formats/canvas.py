"""What the annotator sees in the end, of strokes that a file has in the order of their creation, not of the painting.

"The later one wins" would lose work: a stroke that extends the first region over the last one changes neither's
place.  So pixels have ranks: 2 where they were painted by hand or added to a pre-annotation, 1 where a pre-annotation
was left as it was.  The higher rank wins; within rank 2 the later stroke, and where classes differ the pixel is
counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from querying.dataset.codecs import UInt8
from querying.dataset.label_values import IGNORE

Bool = npt.NDArray[np.bool_]


class Canvas:
    """Strokes onto an image of height x width; `label_HW` and `painted_HW` are what came out."""

    def __init__(self, height: int, width: int) -> None:
        self._left_HW, self._hand_HW = (np.full((height, width), IGNORE, np.uint8) for _ in range(2))
        self._is_left_HW, self._by_hand_HW, self._several_HW = (np.zeros((height, width), bool) for _ in range(3))

    def add(self, label: int, now_HW: Bool, before_HW: Bool | None = None) -> None:
        """A stroke of a class; `before_HW`: what of it the pre-annotation of that class was, None if it is new."""
        added_HW = now_HW if before_HW is None else now_HW & ~before_HW
        self._several_HW |= added_HW & self._by_hand_HW & (self._hand_HW != label)
        self._hand_HW[added_HW] = label
        self._by_hand_HW |= added_HW
        if before_HW is not None:
            self._left_HW[now_HW & before_HW] = label
            self._is_left_HW |= now_HW & before_HW

    @property
    def label_HW(self) -> UInt8:
        return np.where(self._by_hand_HW, self._hand_HW, self._left_HW)

    @property
    def painted_HW(self) -> Bool:
        return self._by_hand_HW | self._is_left_HW

    @property
    def ambiguous(self) -> int:
        """Pixels that were painted by hand in several classes."""
        return int(self._several_HW.sum())


def polygon(points: Sequence[tuple[float, float]], height: int, width: int) -> Bool:
    """The pixels of a polygon of (x, y) in pixels, by PIL's rule, which is LabelMe's without the outline."""
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon([tuple(point) for point in points], fill=1)
    return np.array(image, bool)
