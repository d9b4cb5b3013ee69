"""What stands and drives in a generated street.  A painter gets the canvas and the place of the object's foot, X and Z.

u and v are metres right of and above that foot; masks are inequalities in them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.datasets.street.canvas import BICYCLE, CAR, PAINT, PERSON, POLE, SIGN, TREE, Array, Canvas, Colour, Mask

Draw = Callable[[Canvas, float, float], None]
Place = Callable[[np.random.Generator, float, float], float]

_DARK = np.array([0.07, 0.07, 0.08])
_GLASS = np.array([0.2, 0.25, 0.3])
_SKIN = np.array([0.75, 0.56, 0.45])


def draw_tree(canvas: Canvas, x: float, z: float) -> None:
    """A trunk and a crown of discs with a ragged edge and light between the leaves."""
    rng = canvas.rng
    area, u, v = canvas.around(x, z, 3.2, 8.0)
    trunk = (np.abs(u) < 0.16) & (v > 0) & (v < 3.2)
    canvas.paint(area, trunk, np.array([0.28, 0.2, 0.14]), z, TREE)
    shape = (v.shape[0], u.shape[1])
    if 0 in shape:
        return
    ragged = 0.7 + 0.6 * canvas.noise(shape, 14)
    crown = np.zeros(shape, bool)
    middle, spread = rng.uniform(3.2, 5.0), rng.uniform(0.5, 1.0)
    for _ in range(6):
        du, dv = rng.normal(0, 0.8, 2) * spread
        crown |= np.hypot(u - du, v - middle - dv) < rng.uniform(0.9, 1.6) * spread * ragged
    green = np.array([0.22, 0.36, 0.14]) * rng.uniform(0.6, 1.35)
    if rng.random() < 0.2:
        green = np.array([0.5, 0.36, 0.14]) * rng.uniform(0.7, 1.2)
    leaves = 0.55 + 0.9 * rng.random(shape, np.float32) * ragged
    canvas.paint(area, crown, green * leaves[..., None], z, TREE)


def draw_car(canvas: Canvas, x: float, z: float) -> None:
    """From behind (or the front), seldom from the side; with the shadow below it, which is no car."""
    rng = canvas.rng
    paint = (PAINT[rng.integers(len(PAINT))] * rng.uniform(0.8, 1.2)).clip(0, 1)
    side_view = rng.random() < 0.15
    long = 2.1 if side_view else 0.9
    area, u, v = canvas.around(x, z, long + 0.4, 1.6)
    _shadow(canvas, area, (np.abs(u) < long * 1.1) & (np.abs(v) < 0.18))
    cabin_edge = 0.62 * long - 0.35 * (v - 0.9).clip(0)
    body = (np.abs(u) < long) & (v > 0.28) & (v < 0.92)
    cabin = (np.abs(u) < cabin_edge + 0.12) & (v >= 0.9) & (v < 1.48)
    window = (np.abs(u) < cabin_edge - 0.03) & (v > 0.97) & (v < 1.36)
    wheel_at = 1.3 if side_view else 0.68
    wheels = (np.abs(np.abs(u) - wheel_at) < (0.32 if side_view else 0.14)) & (v > 0) & (v < 0.5)
    shading = 0.75 + 0.3 * (v / 1.5).clip(0, 1)
    canvas.paint(area, wheels, _DARK, z, CAR)
    canvas.paint(area, body | cabin, paint * shading[..., None], z, CAR)
    canvas.paint(area, window, _GLASS, z, CAR)
    lamp = np.array([0.75, 0.1, 0.08]) if rng.random() < 0.6 else np.array([0.95, 0.93, 0.8])
    canvas.paint(area, body & (np.abs(u) > 0.76 * long) & (v > 0.6) & (v < 0.82), lamp, z, CAR)
    canvas.paint(area, body & (v < 0.4), _DARK, z, CAR)


def draw_person(canvas: Canvas, x: float, z: float) -> None:
    rng = canvas.rng
    area, u, v = canvas.around(x, z, 0.5, 2.0)
    v = v / rng.uniform(0.85, 1.1)
    _shadow(canvas, area, (np.abs(u) < 0.35) & (np.abs(v) < 0.08))
    stride = rng.uniform(0.06, 0.2)
    legs = (np.abs(np.abs(u) - stride * (1 - v / 0.9)) < 0.12) & (v > 0) & (v < 0.9)
    torso = (np.abs(u) < 0.3 - 0.08 * np.abs(v - 1.2)) & (v >= 0.8) & (v < 1.5)
    canvas.paint(area, legs, rng.uniform(0.05, 0.4, 3), z, PERSON)
    canvas.paint(area, torso, rng.uniform(0.05, 0.9, 3), z, PERSON)
    canvas.paint(area, np.hypot(u, v - 1.65) < 0.17, _SKIN * rng.uniform(0.4, 1.1), z, PERSON)


def draw_pole(canvas: Canvas, x: float, z: float) -> None:
    """A street lamp; its arm reaches over the road."""
    area, u, v = canvas.around(x, z, 1.6, 6.6)
    _post(canvas, area, u, v, z, 6.2)
    arm = (u * -np.sign(x) > 0) & (u * -np.sign(x) < 1.4) & (np.abs(v - 6.2) < 0.1)
    canvas.paint(area, arm, np.array([0.45, 0.45, 0.46]), z, POLE)


def draw_sign(canvas: Canvas, x: float, z: float) -> None:
    """A disc, a triangle or a board with a border, on a post of class pole."""
    rng = canvas.rng
    area, u, v = canvas.around(x, z, 0.7, 3.4)
    _post(canvas, area, u, v, z, 2.4)
    up = v - 2.65
    kind = rng.integers(3)
    if kind == 0:
        inside = 1 - np.hypot(u, up) / 0.42
    elif kind == 1:
        inside = np.minimum(1 - (np.abs(u) * 1.7 + up + 0.1) / 0.5, (up + 0.4) / 0.4)
    else:
        inside = 1 - np.maximum(np.abs(u) / 0.4, np.abs(up) / 0.45)
    outer = np.array([(0.75, 0.08, 0.08), (0.08, 0.2, 0.6), (0.85, 0.65, 0.05)])[rng.integers(3)]
    canvas.paint(area, inside > 0, outer, z, SIGN)
    canvas.paint(area, inside > 0.35, np.array([0.92, 0.92, 0.9]), z, SIGN)


def draw_bicycle(canvas: Canvas, x: float, z: float) -> None:
    """From the side; with the rider, when there is one, of the same class (as in CamVid)."""
    rng = canvas.rng
    area, u, v = canvas.around(x, z, 1.1, 2.0)
    _shadow(canvas, area, (np.abs(u) < 0.9) & (np.abs(v) < 0.06))
    ring: Mask = np.abs(np.hypot(np.abs(u) - 0.55, v - 0.36) - 0.3) < 0.09
    bars = (np.abs(v - 0.5 - 0.5 * np.abs(u)) < 0.07) & (np.abs(u) < 0.55)
    canvas.paint(area, ring, _DARK, z, BICYCLE)
    canvas.paint(area, bars, PAINT[rng.integers(len(PAINT))], z, BICYCLE)
    if rng.random() < 0.7:
        lean = u + 0.1 - 0.3 * (v - 0.9)
        canvas.paint(area, (np.abs(lean) < 0.22) & (v > 0.5) & (v < 1.45), rng.uniform(0.05, 0.9, 3), z, BICYCLE)
        canvas.paint(area, np.hypot(lean, v - 1.6) < 0.15, _SKIN * rng.uniform(0.4, 1.1), z, BICYCLE)


def _post(canvas: Canvas, area: tuple[slice, slice], u: Array, v: Array, z: float, tall: float) -> None:
    thick = max(0.13, 2.2 * z / canvas.focal)  # never thinner than two pixels of the result
    grey: Colour = np.array([0.42, 0.42, 0.43]) * canvas.rng.uniform(0.6, 1.3)
    canvas.paint(area, (np.abs(u) < thick) & (v > 0) & (v < tall), grey, z, POLE)


def _shadow(canvas: Canvas, area: tuple[slice, slice], mask: Mask) -> None:
    canvas.rgb[area][mask] *= np.float32(0.5)


DRAW: dict[int, tuple[Draw, float, float, Place]] = {
    TREE: (draw_tree, 2.5, 7.0, lambda rng, road, kerb: rng.uniform(road + 0.8, kerb + 1.0)),
    CAR: (draw_car, 3.0, 5.0, lambda rng, road, kerb: rng.choice([road - 1.0, rng.uniform(0.3, road - 1.2)])),
    PERSON: (draw_person, 2.4, 3.0, lambda rng, road, kerb: rng.uniform(0.8 * road, kerb - 0.3)),
    POLE: (draw_pole, 1.5, 4.5, lambda rng, road, kerb: road + 0.5),
    SIGN: (draw_sign, 0.8, 4.5, lambda rng, road, kerb: road + rng.uniform(0.4, 0.9)),
    BICYCLE: (draw_bicycle, 0.7, 4.0, lambda rng, road, kerb: rng.uniform(0.3 * road, road - 0.5)),
}
"""Painter, mean number in a picture, nearest distance in metres, and where to put it (right half of the street)."""
