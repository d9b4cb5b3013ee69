"""What a strong augmentation is going to do to an image (S4AL+ section 3.2): drawn on the CPU, made here or there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from training.settings.training import AugmentSettings


class Look(NamedTuple):
    """One strong augmentation, drawn: numbers, so that they can be a row of a tensor."""

    sigma: float = 0.0
    """Sigma of the blur in pixels; 0 is none."""
    coloured: float = 0.0
    """1 where the colours change, as the following say."""
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    grey: float = 0.0
    order: tuple[float, ...] = (0, 1, 2, 3)
    hole: tuple[float, ...] = (0, 0, 0, 0)
    """Rows from, to, columns from, to."""

    def row(self) -> list[float]:
        *numbers, order, hole = self
        return [*numbers, *order, *hole]

    @classmethod
    def of_row(cls, row: Sequence[float]) -> Look:
        return cls._make([*row[:7], tuple(row[7:11]), tuple(row[11:])])

    @property
    def box(self) -> tuple[slice, slice]:
        top, bottom, left, right = map(int, self.hole)
        return slice(top, bottom), slice(left, right)


def draw_look(size: tuple[int, int], settings: AugmentSettings, rng: np.random.Generator) -> Look:
    """Either blur, or else (each with its probability) colour jitter followed by greyscale; then CutOut, one square
    inside an image of `size` (S4AL+ section 3.2)."""
    look = Look()
    if rng.random() < settings.blur:
        look = look._replace(sigma=rng.uniform(*settings.blur_sigma))
    elif rng.random() < settings.colour:
        *spread, hue = settings.jitter
        brightness, contrast, saturation = (rng.uniform(max(0.0, 1 - width), 1 + width) for width in spread)
        order = tuple(rng.permutation(4).tolist())
        turn, grey = rng.uniform(-hue, hue), float(rng.random() < settings.greyscale)
        look = Look(0.0, 1.0, brightness, contrast, saturation, turn, grey, order)
    if rng.random() < settings.cutout:
        sides = [min(settings.cutout_size, extent) for extent in size]
        top, left = (int(rng.integers(extent - side + 1)) for extent, side in zip(size, sides, strict=True))
        look = look._replace(hole=(top, top + sides[0], left, left + sides[1]))
    return look


def draw_labelled_look(size: tuple[int, int], settings: AugmentSettings, rng: np.random.Generator) -> Look:
    """The strong view of a labelled image: other colours with the probability `settings.colour_labelled`; where that is
    0, nothing, and nothing is drawn."""
    if not settings.colour_labelled:
        return Look()
    colours = {"blur": 0.0, "colour": settings.colour_labelled, "greyscale": 0.0, "cutout": 0.0}
    return draw_look(size, settings.model_copy(update=colours), rng)
