"""Draws street scenes with exact labels.  Shapes and units as in `street_canvas`."""

from __future__ import annotations

import numpy as np

from benchmarks.datasets.street.canvas import (
    BICYCLE,
    BUILDING,
    CAR,
    FENCE,
    PAINT,
    PAVEMENT,
    PERSON,
    ROAD,
    SCALE,
    SIGN,
    TREE,
    WALLS,
    Canvas,
    UInt8,
)
from benchmarks.datasets.street.objects import DRAW, Draw
from querying.dataset.label_values import IGNORE

_FUZZY = (BUILDING, TREE, CAR, PERSON, SIGN, FENCE, BICYCLE)
"""Whose outline an annotator would leave open: it becomes IGNORE."""
_FAR = 140.0
_DEEPEST = 6.0
"""An object stands at most this many times its nearest distance away."""


def draw_street(rng: np.random.Generator, height: int, width: int, num_classes: int) -> tuple[UInt8, UInt8]:
    """One scene: RGB (height, width, 3) and labels (height, width) below `num_classes`, or IGNORE on fuzzy outlines."""
    canvas = Canvas(rng, height * SCALE, width * SCALE)
    _sky(canvas)
    _ground(canvas)
    for side in (-1, 1):
        _facades(canvas, side)
        if num_classes > FENCE and rng.random() < 0.35:
            _fence(canvas, side)
    for z, x, draw in sorted(_objects(canvas, num_classes), key=lambda item: -item[0]):
        draw(canvas, x, z)
    return _develop(canvas)


def _sky(canvas: Canvas) -> None:
    down = np.linspace(0, 1, canvas.height, dtype=np.float32)[:, None, None] * canvas.height / canvas.horizon
    canvas.rgb[:] = canvas.zenith * (1 - down.clip(0, 1)) + canvas.haze * down.clip(0, 1)
    cloud = canvas.noise((canvas.height, canvas.width), 7) * canvas.rng.uniform(0, 1.2)
    canvas.rgb += (cloud.clip(0.4, 1) - 0.4)[..., None] * np.float32(0.6)
    skyline = canvas.rng.uniform(0.0, 0.16, 24).repeat(canvas.width // 24 + 1)[: canvas.width] * canvas.height
    rows = np.arange(canvas.height)[:, None]
    far = (rows > canvas.horizon - skyline) & (rows <= canvas.horizon + 1)
    wall = WALLS[canvas.rng.integers(len(WALLS))]
    canvas.paint((slice(None), slice(None)), far, wall, 0.7 * canvas.visibility, BUILDING)


def _ground(canvas: Canvas) -> None:
    rng, top = canvas.rng, int(canvas.horizon) + 1
    area = (slice(top, canvas.height), slice(None))
    scale = ((np.arange(top, canvas.height, dtype=np.float32) + 0.5 - canvas.horizon) / canvas.camera)[:, None]
    x = (np.arange(canvas.width, dtype=np.float32) + 0.5 - canvas.vanish)[None, :] / scale + canvas.offset
    z = canvas.focal / scale
    everywhere = np.ones(x.shape, bool)
    grain = (0.88 + 0.24 * canvas.noise((canvas.height - top, canvas.width), 24))[..., None]
    slab = ((x / 1.2) % 1 < 0.06) | ((z / 1.6) % 1 < 0.05)
    stone = rng.uniform(0.42, 0.68) * np.array([1.0, rng.uniform(0.93, 1.0), rng.uniform(0.85, 1.0)])
    canvas.paint(area, everywhere, stone * grain * (1 - 0.15 * slab)[..., None], z, PAVEMENT)
    asphalt = rng.uniform(0.22, 0.48) * np.array([1.0, 1.0, rng.uniform(0.98, 1.1)])
    on_road = np.abs(x) < canvas.road
    canvas.paint(area, on_road, asphalt * grain, z, ROAD)
    kerb = np.abs(np.abs(x) - canvas.road - 0.1) < 0.1
    canvas.paint(area, kerb, stone * 1.2, z, PAVEMENT)
    marks = (np.abs(x) < 0.08) & (z % 6 < rng.choice([3.0, 6.0]))
    marks |= (rng.random() < 0.4) & (np.abs(np.abs(x) - canvas.road + 0.4) < 0.06)
    if rng.random() < 0.25:
        start = rng.uniform(5, 12)
        marks |= (z > start) & (z < start + 3) & (x % 1 < 0.5)
    canvas.paint(area, marks & on_road, np.array([0.85, 0.85, 0.82]), z, ROAD)
    if canvas.weather == "clear":  # the shadow of one side's buildings; it changes the picture, not the labels
        edge = rng.uniform(-canvas.road, canvas.kerb) + 0.8 * np.sin(z / rng.uniform(2, 6))
        shadow = (x if rng.random() < 0.5 else -x) > edge
        canvas.rgb[area][shadow] *= np.float32(rng.uniform(0.45, 0.75))


def _facades(canvas: Canvas, side: int) -> None:
    """Houses along one side, with gaps.  A column of the picture sees one distance, so most of this is per column."""
    rng = canvas.rng
    ends = np.cumsum(rng.uniform(6, 22, 24)) + rng.uniform(-8, 4)
    tall = rng.uniform(4, 20, 25) * (rng.random(25) > 0.22)
    walls = (WALLS[rng.integers(len(WALLS), size=25)] * rng.uniform(0.7, 1.2, (25, 1))).clip(0, 1).astype(np.float32)
    storey, bay, glass = rng.uniform(2.6, 3.8, 25), rng.uniform(1.6, 3.5, 25), rng.uniform(0.1, 0.6, (25, 1))
    area, z, v = canvas.beside(side, canvas.kerb)
    house = np.searchsorted(ends, z)
    mask = (v >= 0) & (v < tall[house]) & (z < _FAR)
    colour = np.broadcast_to(walls[house], (*mask.shape, 3)) * (0.9 + 0.2 * canvas.noise(mask.shape, 40))[..., None]
    window = (np.abs((z / bay[house]) % 1 - 0.5) < 0.27) & (np.abs((v / storey[house]) % 1 - 0.55) < 0.24)
    colour = np.where(window[..., None], glass[house] * np.array([0.85, 0.95, 1.1]), colour)
    lit = 1.0 if side == 1 else rng.uniform(0.6, 1.0)
    canvas.paint(area, mask, colour * np.float32(lit), z, BUILDING)


def _fence(canvas: Canvas, side: int) -> None:
    rng = canvas.rng
    area, z, v = canvas.beside(side, canvas.road + 0.3)
    start = rng.uniform(4, 15)
    mask = (v >= 0) & (v < 1.15) & (z > start) & (z < start + rng.uniform(6, 25))
    slat = np.where((z % 0.5 < 0.25) | (v > 1.0), 1.0, 0.6)[..., None]
    canvas.paint(area, mask, slat * PAINT[rng.integers(len(PAINT))], z, FENCE)


def _objects(canvas: Canvas, num_classes: int) -> list[tuple[float, float, Draw]]:
    """(Z, X, how to draw it).  The rare classes are missing from many pictures."""
    rng = canvas.rng
    found: list[tuple[float, float, Draw]] = []
    for label, (draw, mean, near, place) in DRAW.items():
        for _ in range(rng.poisson(mean) if label < num_classes else 0):
            z = near * np.exp(rng.uniform(0, np.log(_DEEPEST)))
            side = rng.choice([-1.0, 1.0])
            found.append((z, side * place(rng, canvas.road, canvas.kerb), draw))
    return found


def _develop(canvas: Canvas) -> tuple[UInt8, UInt8]:
    """Average down, tint, add grain; where fuzzy outlines share a pixel with something else, the label is IGNORE."""
    rng = canvas.rng
    parts = [(slice(row, None, SCALE), slice(column, None, SCALE)) for row in range(SCALE) for column in range(SCALE)]
    rgb = sum((canvas.rgb[part] for part in parts), np.float32(0)) / len(parts)
    rgb = rgb.clip(0, 1) ** rng.uniform(0.8, 1.3) * rng.uniform(0.8, 1.1) * rng.uniform(0.92, 1.08, 3)
    rgb += rng.normal(0, rng.uniform(0.008, 0.035), rgb.shape)
    label, *others = (canvas.label[part] for part in parts)
    mixed = np.any([label != other for other in others], axis=0)
    fuzzy = np.any([np.isin(part, _FUZZY) for part in (label, *others)], axis=0)
    return (rgb.clip(0, 1) * 255).astype(np.uint8), np.where(mixed & fuzzy, np.uint8(IGNORE), label)
