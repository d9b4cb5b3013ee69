"""Weak and strong augmentation of one image on the CPU (S4AL+ section 3.2).

Images are uint8 (H, W, 3) RGB, targets uint8 (H, W) of class indices or IGNORE.  Inputs are never changed.
Shape suffixes: H and W = pixels, C = colour channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from querying.dataset.label_values import IGNORE
from training.batches.padding import padded_otherwise
from training.batches.strong_view import Look, draw_look

if TYPE_CHECKING:
    from training.settings.training import AugmentSettings

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

LUMA = tuple(np.float32(weight) for weight in (0.299, 0.587, 0.114))  # ITU-R 601, as in PIL and torchvision
BAND_BYTES = 2**18
"""Bytes of what a blur (16-bit integers) or a jitter (32-bit floats) computes at a time: it stays in a core's cache."""


def weak(
    image_HWC: Bytes,
    target_HW: Bytes,
    *,
    crop: tuple[int, int],
    settings: AugmentSettings,
    rng: np.random.Generator,
) -> tuple[Bytes, Bytes]:
    """Random scale, padding as `settings.padding` says (target IGNORE), random crop, random horizontal flip.

    Returns image (*crop, 3) and target (*crop), which went through the same geometry: bilinear with antialiasing for
    the image, nearest for the target.
    """
    scale = rng.uniform(settings.scale_min, settings.scale_max)
    scaled = [max(1, round(side * scale)) for side in target_HW.shape]
    origin = [int(rng.integers(max(0, have - want) + 1)) for have, want in zip(scaled, crop, strict=True)]
    flip = bool(rng.random() < settings.flip)
    window = _scaled_window(image_HWC, target_HW, scaled=scaled, origin=origin, crop=crop, flip=flip)
    extent = [min(have, want) for have, want in zip(scaled, crop, strict=True)]
    if settings.padding == "corner" or list(crop) == extent:
        return window
    return padded_otherwise(*window, extent=extent, flip=flip, reflect=settings.padding == "reflect")


def strong(
    image_HWC: Bytes, target_HW: Bytes, *, settings: AugmentSettings, rng: np.random.Generator
) -> tuple[Bytes, Bytes]:
    """Blur or colour, then CutOut, on a weakly augmented pair of the same shapes.

    CutOut sets the image to 0 and the target to IGNORE: what cannot be seen must not be learned.
    """
    look = draw_look((target_HW.shape[0], target_HW.shape[1]), settings, rng)
    return with_look(image_HWC, look), without_hole(target_HW, look)


def with_look(image_HWC: Bytes, look: Look) -> Bytes:
    """A strongly augmented copy, or the image itself where the look changes nothing."""
    if look.sigma:
        image_HWC = gaussian_blur(image_HWC, look.sigma)
    if look.coloured:
        image_HWC = colour_jitter(
            image_HWC,
            brightness=look.brightness,
            contrast=look.contrast,
            saturation=look.saturation,
            hue=look.hue,
            order=[int(operation) for operation in look.order],
            grey=bool(look.grey),
        )
    return _filled(image_HWC, look, 0)


def without_hole(target_HW: Bytes, look: Look) -> Bytes:
    """IGNORE where the look has its hole."""
    return _filled(target_HW, look, IGNORE)


def blur_weights(sigma: float) -> NDArray[np.uint16]:
    """The weights of the centre and of one side, multiples of 1/256: 16-bit integers hold every sum, a constant stays
    constant."""
    bell = np.exp(-0.5 * (np.arange(int(np.ceil(3 * sigma)) + 1) / sigma) ** 2)
    weights: NDArray[np.uint16] = np.rint(256 * bell / (2 * bell.sum() - 1)).astype(np.uint16)
    weights[0] = 256 - 2 * int(weights[1:].sum())
    return weights


def gaussian_blur(image_HWC: Bytes, sigma: float) -> Bytes:
    """Separable Gaussian of `sigma` pixels, cut at 3 sigma, reflected edges; within 1 level on photos, 3 on noise."""
    weights = blur_weights(sigma)
    radius = len(weights) - 1
    padded = np.pad(image_HWC, [(radius, radius), (radius, radius), (0, 0)], mode="reflect")
    blurred = np.empty_like(image_HWC)
    rows = max(1, BAND_BYTES // padded[0].nbytes // 2)
    for top in range(0, len(image_HWC), rows):
        band = padded[top : top + rows + 2 * radius].astype(np.uint16)
        blurred[top : top + rows] = _blurred_along(1, _blurred_along(0, band, weights), weights)
    return blurred


def _blurred_along(axis: int, x_HWC: NDArray[np.uint16], weights: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Shorter by the radius at both ends of the axis."""
    radius = len(weights) - 1
    size = x_HWC.shape[axis] - 2 * radius
    starts = range(2 * radius + 1)
    shifted = [x_HWC[at : at + size] if axis == 0 else x_HWC[:, at : at + size] for at in starts]
    total: NDArray[np.uint16] = shifted[radius] * weights[0]
    total += 128
    pair = np.empty_like(total)
    for offset in range(1, radius + 1):
        if weights[offset]:
            np.add(shifted[radius - offset], shifted[radius + offset], out=pair)
            pair *= weights[offset]
            total += pair
    total >>= 8
    return total


def colour_jitter(
    image_HWC: Bytes,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    order: Sequence[int],
    grey: bool,
) -> Bytes:
    """torchvision's ColorJitter for given factors (1 = as it is; hue in turns, 0 = as it is), then greyscale.

    `order` is a permutation of 0..3: brightness, contrast, saturation, hue.
    """
    factors = brightness, contrast, saturation, hue
    x_CHW = np.empty((3, *image_HWC.shape[:2]), np.float32)
    jittered_HWC = np.empty_like(image_HWC)
    rows = max(1, BAND_BYTES // x_CHW[:, 0].nbytes)
    bands = [slice(top, top + rows) for top in range(0, len(image_HWC), rows)]
    mean_grey = np.zeros((), np.float32)
    first = list(order).index(1)  # contrast needs the mean of all bands
    for band in bands:
        x_CHW[:, band] = np.ascontiguousarray(image_HWC[band].transpose(2, 0, 1))
        for operation in order[:first]:
            _recolour(x_CHW[:, band], operation, factors[operation], mean_grey)
    mean_grey = _luma(x_CHW.mean(axis=(1, 2)))
    for band in bands:
        for operation in order[first:]:
            _recolour(x_CHW[:, band], operation, factors[operation], mean_grey)
        levels = _luma(x_CHW[:, band])[None] if grey else x_CHW[:, band]
        levels = (levels + np.float32(0.5)).astype(np.uint8)
        for channel, level in enumerate(list(levels) * (3 if grey else 1)):
            jittered_HWC[band, :, channel] = level
    return jittered_HWC


def _recolour(x_CHW: Floats, operation: int, factor: float, mean_grey: Floats) -> None:
    """In place: brightness (0) mixes with black, contrast (1) with the mean grey, saturation (2) with a pixel's grey;
    3 turns the hue."""
    if operation == 3:
        _turn_hue(x_CHW, factor)
        return
    grey = _luma(x_CHW) if operation == 2 else mean_grey
    x_CHW *= np.float32(factor)
    if operation:
        x_CHW += grey * np.float32(1 - factor)
    if factor > 1:  # less mixes and stays within
        np.clip(x_CHW, 0, 255, out=x_CHW)


def _scaled_window(
    image_HWC: Bytes,
    target_HW: Bytes,
    *,
    scaled: Sequence[int],
    origin: Sequence[int],
    crop: tuple[int, int],
    flip: bool,
) -> tuple[Bytes, Bytes]:
    """The window of size `crop` at `origin` of both maps resized to `scaled`, mirrored where asked for; only the window
    is computed."""
    extent = [min(have, want) for have, want in zip(scaled, crop, strict=True)]
    step = [side / have for side, have in zip(target_HW.shape, scaled, strict=True)]
    top, left = (start * by for start, by in zip(origin, step, strict=True))
    bottom, right = (
        min(side, (start + size) * by)
        for side, start, size, by in zip(target_HW.shape, origin, extent, step, strict=True)
    )
    window = Image.fromarray(image_HWC).resize(
        (extent[1], extent[0]), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    rows, columns = (  # floor((i + 1/2) * side / have) in integers, where ties are exact
        (2 * np.arange(start, start + size) + 1) * side // (2 * have)
        for side, have, start, size in zip(target_HW.shape, scaled, origin, extent, strict=True)
    )
    place = slice(0, extent[0]), slice(0, extent[1])
    if flip:  # the library does it five times as fast as a copy of numpy's view
        window = window.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        columns = columns[::-1]
        place = place[0], slice(crop[1] - extent[1], crop[1])
    image = np.zeros((*crop, 3), dtype=np.uint8)
    target = np.full(crop, IGNORE, dtype=np.uint8)
    image[place] = np.asarray(window)
    target[place] = target_HW[rows][:, columns]
    return image, target


def _filled(map_: Bytes, look: Look, value: int) -> Bytes:
    if any(look.hole):
        map_ = map_.copy()
        map_[look.box] = value
    return map_


def _luma(x_CHW: Floats) -> Floats:
    luma_HW: Floats = x_CHW[0] * LUMA[0]  # not a matrix product, which would start BLAS threads in every loader worker
    for plane_HW, weight in zip(x_CHW[1:], LUMA[1:], strict=True):
        luma_HW += plane_HW * weight
    return luma_HW


def _turn_hue(x_CHW: Floats, turn: float) -> None:
    """Rotate the hue, in place, by `turn` of a circle, at most half of one; value and chroma of the HSV hexagon stay.

    Hues are sextants times the chroma, 0 at red, which saves the division by the chroma and all selection by the
    largest channel: a hue is 2 chroma + green + blue - red - value away from red, on green's side where green is above
    blue.  A channel is the value within a sextant of its own hue, the least from two sextants on, and linear between.
    """
    red, green, blue = x_CHW
    value, least = (extreme(extreme(red, green), blue) for extreme in (np.maximum, np.minimum))
    chroma = value - least
    hue, other = green + blue, np.empty_like(chroma)
    hue -= red
    hue -= value
    hue += np.multiply(chroma, 2, out=other)
    np.copysign(hue, np.subtract(green, blue, out=other), out=hue)
    circle, above = 6 * chroma, value + chroma
    for channel, own in zip(x_CHW, (0, 2, -2), strict=True):
        np.multiply(chroma, np.float32(6 * turn - own), out=channel)
        np.add(channel, hue, out=channel)
        np.abs(channel, out=channel)
        np.minimum(channel, np.abs(np.subtract(channel, circle, out=other), out=other), out=channel)
        np.subtract(above, channel, out=channel)
        np.maximum(np.minimum(channel, value, out=channel), least, out=channel)
