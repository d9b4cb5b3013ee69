"""What a generated street is painted on: pixels, labels, and a pinhole camera above a straight road.

Shape suffixes: H, W = rows and columns of the canvas, which has twice the resolution of the result.
Units: X = metres right of the road's middle, Z = metres ahead, u and v = metres right of and above an object's foot.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image

CLASSES = ("sky", "building", "road", "pavement", "tree", "car", "person", "pole", "sign", "fence", "bicycle")
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, PERSON, POLE, SIGN, FENCE, BICYCLE = range(len(CLASSES))

SCALE = 2
UInt8 = npt.NDArray[np.uint8]
Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Colour = npt.NDArray[np.float64]
PAINT = np.array(
    [(0.85, 0.85, 0.87), (0.1, 0.1, 0.12), (0.4, 0.41, 0.43), (0.62, 0.64, 0.66), (0.6, 0.1, 0.1), (0.12, 0.2, 0.5),
     (0.1, 0.32, 0.2), (0.75, 0.6, 0.1), (0.35, 0.22, 0.15)]
)  # fmt: skip
WALLS = np.array(
    [(0.55, 0.33, 0.26), (0.72, 0.66, 0.55), (0.5, 0.5, 0.52), (0.8, 0.78, 0.74), (0.62, 0.5, 0.38), (0.36, 0.36, 0.4),
     (0.66, 0.44, 0.36), (0.47, 0.53, 0.56)]
)  # fmt: skip
_SKIES = {
    "clear": ((0.32, 0.52, 0.85), (0.72, 0.84, 0.96), (1.05, 1.0, 0.95)),
    "overcast": ((0.62, 0.65, 0.7), (0.8, 0.81, 0.83), (0.82, 0.85, 0.9)),
    "dusk": ((0.2, 0.22, 0.42), (0.9, 0.55, 0.38), (0.62, 0.5, 0.52)),
}
"""Zenith, horizon, and the light that falls on everything else."""


@dataclass
class Canvas:
    """The picture so far, and the camera.  A foot at (X, Z) appears at row horizon + camera * f / Z."""

    rng: np.random.Generator
    height: int
    width: int
    rgb: Array = field(init=False)
    label: UInt8 = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng
        self.rgb = np.zeros((self.height, self.width, 3), np.float32)
        self.label = np.full((self.height, self.width), SKY, np.uint8)
        self.horizon = rng.uniform(0.34, 0.5) * self.height
        self.vanish = rng.uniform(0.3, 0.7) * self.width
        self.focal = rng.uniform(0.6, 0.85) * self.width
        self.camera = rng.uniform(1.8, 2.8)
        self.road = rng.uniform(3.2, 5.5)
        self.kerb = self.road + rng.uniform(1.8, 4.0)
        self.offset = rng.uniform(-1.5, 1.5)
        self.weather = rng.choice(list(_SKIES), p=(0.5, 0.3, 0.2))
        zenith, self.haze, self.light = (np.array(colour) for colour in _SKIES[self.weather])
        self.light = self.light.astype(np.float32)
        self.zenith = zenith * rng.uniform(0.85, 1.15)
        self.visibility = rng.uniform(90.0, 350.0)

    def paint(
        self, area: tuple[slice, slice], mask: Mask, colour: Array | Colour, depth: Array | float, label: int
    ) -> None:
        """Colour and label the masked pixels of an area, fading into the haze with depth."""
        shape = mask.shape
        near_N = np.exp(np.broadcast_to(np.float32(depth), shape)[mask] / -self.visibility)[:, None]
        lit_N = np.broadcast_to(np.asarray(colour, np.float32), (*shape, 3))[mask] * self.light
        self.rgb[area][mask] = lit_N * near_N + self.haze * (1 - near_N)
        self.label[area][mask] = label

    def beside(self, side: int, x: float) -> tuple[tuple[slice, slice], Array, Array]:
        """The part of the canvas where a wall along the road at distance x can be seen, with its Z and v."""
        left, right = (int(self.vanish), self.width) if side > 0 else (0, int(self.vanish) + 1)
        column = np.arange(left, right, dtype=np.float32) + 0.5 - self.vanish
        scale = (column / (side * x - self.offset)).clip(1e-3)
        v = self.camera + (self.horizon - np.arange(self.height, dtype=np.float32)[:, None] - 0.5) / scale
        return (slice(None), slice(left, right)), np.asarray(self.focal / scale, np.float32), v

    def around(self, x: float, z: float, reach: float, tall: float) -> tuple[tuple[slice, slice], Array, Array]:
        """The part of the canvas that an object `reach` to both sides and `tall` high covers, with its u and v."""
        scale = self.focal / z
        foot, middle = self.horizon + self.camera * scale, self.vanish + (x - self.offset) * scale
        top, bottom = (int(np.clip(row, 0, self.height)) for row in (foot - tall * scale, foot + 0.3 * scale + 1))
        left, right = (
            int(np.clip(column, 0, self.width)) for column in (middle - reach * scale, middle + reach * scale + 1)
        )
        u = ((np.arange(left, right, dtype=np.float32) + 0.5 - middle) / scale)[None, :]
        v = ((foot - np.arange(top, bottom, dtype=np.float32) - 0.5) / scale)[:, None]
        return (slice(top, bottom), slice(left, right)), u, v

    def noise(self, shape: tuple[int, int], cells: int) -> Array:
        """Smooth noise in [0, 1]."""
        grid = self.rng.random((cells, cells), np.float32)
        return np.asarray(Image.fromarray(grid).resize((shape[1], shape[0]), Image.Resampling.BICUBIC)).clip(0, 1)
