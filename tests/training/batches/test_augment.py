"""Image and target go through the same geometry; colour touches the image alone; CutOut writes ignore."""

import colorsys
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings as hypothesis_settings, strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from querying.dataset.label_values import IGNORE
from training.batches import augment_cpu
from training.batches.augment_cpu import colour_jitter, gaussian_blur, strong, weak
from training.settings.training import AugmentSettings

KEEP = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, "order": (0, 1, 2, 3), "grey": False}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def photo(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """Smooth colours with some texture."""
    coarse = rng(seed).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return np.clip(smooth + rng(seed).integers(-9, 10, smooth.shape), 0, 255).astype(np.uint8)


def labels(height: int = 40, width: int = 56) -> np.ndarray:
    return rng(1).integers(0, 11, (height, width), dtype=np.uint8)


def coordinates(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red is the row and green the column, and two targets that say the same."""
    row, column = np.mgrid[:height, :width].astype(np.uint8)
    return np.dstack([row, column, np.full_like(row, 200)]), np.stack([row, column])


def only(**changed) -> AugmentSettings:
    """All probabilities 0 but for those given."""
    return AugmentSettings(**{"flip": 0.0, "blur": 0.0, "colour": 0.0, "greyscale": 0.0, "cutout": 0.0, **changed})


@given(
    size=st.tuples(st.integers(8, 200), st.integers(8, 200)),
    crop=st.tuples(st.integers(4, 90), st.integers(4, 90)),
    seed=st.integers(0, 2**32 - 1),
)
@hypothesis_settings(deadline=None, max_examples=80)
def test_image_and_target_go_through_the_same_geometry(size, crop, seed):
    """Every output pixel's colour names the source pixel that its label was taken from, to within a pixel."""
    source, targets = coordinates(*size)
    outputs = [weak(source, t, crop=crop, settings=AugmentSettings(), rng=rng(seed)) for t in targets]
    for axis, (image, target) in enumerate(outputs):
        assert image.shape == (*crop, 3)
        assert target.shape == crop
        known = image[..., 2] > 0
        assert (target[~known] == IGNORE).all()
        assert not image[~known].any()
        # Antialiasing bends the ramp within a pixel of the border, by less than one.
        assert (np.abs(image[..., axis].astype(int) - target)[known] <= 1.5).all()


@pytest.mark.parametrize("scale", [0.5, 0.83, 1.0, 1.7, 2.0])
def test_the_window_is_that_of_the_whole_resized_image(scale):
    image, target = photo(), labels()
    height, width = round(40 * scale), round(56 * scale)
    whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    nearest = [[(2 * i + 1) * side // (2 * size) for i in range(size)] for side, size in ((40, height), (56, width))]
    whole_target = target[np.ix_(*nearest)]
    got, got_target = weak(image, target, crop=(24, 32), settings=only(scale_min=scale, scale_max=scale), rng=rng())
    extent = min(24, height), min(32, width)
    matches = [
        (y, x)
        for y in range(height - extent[0] + 1)
        for x in range(width - extent[1] + 1)
        if np.array_equal(whole_target[y : y + extent[0], x : x + extent[1]], got_target[: extent[0], : extent[1]])
    ]
    assert len(matches) == 1
    [(y, x)] = matches
    window = whole[y : y + extent[0], x : x + extent[1]]
    assert np.abs(window - got[: extent[0], : extent[1]]).max() <= 1


def test_small_images_are_padded_with_black_and_ignore():
    image, target = weak(photo() | 1, labels(), crop=(40, 56), settings=only(scale_min=0.5, scale_max=0.5), rng=rng())
    assert not image[20:].any()
    assert not image[:, 28:].any()
    assert image[:20, :28].all()
    assert (target[20:] == IGNORE).all()
    assert (target[:, 28:] == IGNORE).all()
    assert (target[:20, :28] != IGNORE).all()


def test_a_flip_mirrors_both_and_nothing_else():
    plain = only(scale_min=1, scale_max=1)
    mirror = only(scale_min=1, scale_max=1, flip=1.0)
    image, target = photo(), labels()
    for settings, expected in ((plain, (image, target)), (mirror, (image[:, ::-1], target[:, ::-1]))):
        out = weak(image, target, crop=(40, 56), settings=settings, rng=rng())
        np.testing.assert_array_equal(out[0], expected[0])
        np.testing.assert_array_equal(out[1], expected[1])


def test_scales_flips_and_positions_take_their_whole_range():
    """Over many draws: about half flipped, both extremes of the offset reached, as many padded as scales below 1."""
    source, (_, column) = coordinates(20, 60)
    flipped, padded, starts = 0, 0, set()
    for seed in range(600):
        _, target = weak(source, column, crop=(20, 60), settings=AugmentSettings(), rng=rng(seed))
        row = target[0][target[0] != IGNORE].astype(int)
        flipped += row[-1] < row[0]
        padded += (target == IGNORE).any()
        starts.update(row[[0, -1]].tolist())
    assert 250 < flipped < 350
    assert 150 < padded < 250  # P(scale < 1) = 1/3
    assert {0, 59} <= starts


def test_every_position_of_crop_and_hole_is_reached():
    source, targets = coordinates(6, 7)
    crops, holes = set(), set()
    for seed in range(200):
        settings = only(scale_min=1, scale_max=1, cutout=1.0, cutout_size=5)
        row, column = (weak(source, t, crop=(5, 5), settings=settings, rng=rng(seed))[1][0, 0].item() for t in targets)
        crops.add((row, column))
        _, target = strong(source, np.zeros((6, 7), dtype=np.uint8), settings=settings, rng=rng(seed))
        holes.add(tuple(np.argwhere(target == IGNORE)[0].tolist()))
    assert crops == holes == {(y, x) for y in range(2) for x in range(3)}


def test_cutout_writes_black_and_ignore_in_one_square_of_the_given_size():
    image, target = photo() | 1, labels()
    out, out_target = strong(image, target, settings=only(cutout=1.0, cutout_size=12), rng=rng(3))
    hole = out_target == IGNORE
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    assert hole.sum() == 144
    assert np.ptp(rows) == np.ptp(columns) == 11
    assert not out[hole].any()
    np.testing.assert_array_equal(out[~hole], image[~hole])
    np.testing.assert_array_equal(out_target[~hole], target[~hole])


def test_a_hole_larger_than_the_image_covers_it():
    out, target = strong(photo(), labels(), settings=only(cutout=1.0, cutout_size=500), rng=rng())
    assert (target == IGNORE).all()
    assert not out.any()


@given(st.integers(0, 2**32 - 1))
@hypothesis_settings(deadline=None, max_examples=40)
def test_blur_and_colour_leave_the_target_alone_and_the_inputs_unchanged(seed):
    image, target = photo(), labels()
    before = image.copy(), target.copy()
    out, out_target = strong(image, target, settings=AugmentSettings(cutout=0.0), rng=rng(seed))
    np.testing.assert_array_equal(out_target, target)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    strong(image, target, settings=AugmentSettings(cutout=1.0, cutout_size=9), rng=rng(seed))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(target, before[1])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    def both(seed: int) -> bytes:
        generator = rng(seed)
        settings = AugmentSettings(cutout_size=8)
        pair = weak(photo(), labels(), crop=(32, 32), settings=settings, rng=generator)
        return b"".join(a.tobytes() for a in strong(*pair, settings=settings, rng=generator))

    assert both(5) == both(5)
    assert len({both(seed) for seed in range(20)}) == 20


def test_blur_excludes_colour_and_greyscale_follows_colour():
    """p blur 1/2; else p colour 1/2; of these greyscale 3/4: nothing 1/4, coloured 1/16, grey 3/16, blurred 1/2."""
    image = photo(16, 16)
    plain, grey = 0, 0
    for seed in range(800):
        out, _ = strong(image, labels(16, 16), settings=AugmentSettings(cutout=0.0, blur_sigma=(1, 1)), rng=rng(seed))
        plain += np.array_equal(out, image)
        grey += (np.ptp(out, axis=2) == 0).all()
    assert plain / 800 == pytest.approx(1 / 4, abs=0.05)
    assert grey / 800 == pytest.approx(3 / 16, abs=0.05)


def test_factors_of_one_are_the_identity_in_any_order():
    for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 3, 0, 1)):
        np.testing.assert_array_equal(colour_jitter(photo(), **{**KEEP, "order": order}), photo())


@pytest.mark.parametrize(
    ("name", "factor", "oracle"),
    [
        ("brightness", 0.3, tv.adjust_brightness),
        ("brightness", 1.7, tv.adjust_brightness),
        ("contrast", 0.2, tv.adjust_contrast),
        ("contrast", 1.8, tv.adjust_contrast),
        ("saturation", 0.0, tv.adjust_saturation),
        ("saturation", 1.8, tv.adjust_saturation),
        ("hue", -0.2, tv.adjust_hue),
        ("hue", 0.13, tv.adjust_hue),
        ("hue", 0.5, tv.adjust_hue),
    ],
)
def test_each_factor_means_what_it_means_in_torchvision(name, factor, oracle):
    image = photo()
    tensor = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    expected = oracle(tensor, factor).permute(1, 2, 0).numpy() * 255
    got = colour_jitter(image, **{**KEEP, name: factor})
    assert np.abs(got - expected).max() < 1.2  # torchvision's grey weights add up to 0.9999


@pytest.mark.parametrize("turn", [-0.5, -0.2, -0.01, 0.0, 1 / 12, 1 / 6, 0.37, 0.5])
def test_hues_turn_as_in_the_standard_library(turn):
    """Every order of the channels, and every way in which they can be equal."""
    levels = (0, 1, 77, 128, 254, 255)
    colours = list(itertools.product(levels, repeat=3))
    expected = []
    for colour in colours:
        hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in colour))
        expected.append(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value))
    got = colour_jitter(np.array([colours], np.uint8), **{**KEEP, "hue": turn})
    assert np.abs(got[0] - 255 * np.array(expected)).max() <= 0.5 + 1e-3


def test_the_order_of_operations_matters_as_it_should():
    """Brightness 2 saturates, 0.5 after it does not undo that: [2 then contrast 0] is not [contrast 0 then 2]."""
    image = np.array([[[100, 100, 100], [200, 200, 200]]], dtype=np.uint8)
    settings = {**KEEP, "brightness": 2.0, "contrast": 0.0}
    bright_first = colour_jitter(image, **{**settings, "order": (0, 1, 2, 3)})
    contrast_first = colour_jitter(image, **{**settings, "order": (1, 0, 2, 3)})
    assert (bright_first == 228).all()  # mean of 200 and 255, rounded up
    assert (contrast_first == 255).all()  # twice the mean of 100 and 200


def test_greyscale_has_equal_channels_of_the_right_brightness():
    image = photo()
    grey = colour_jitter(image, **{**KEEP, "grey": True})
    assert (np.ptp(grey, axis=2) == 0).all()
    assert np.abs(grey[..., 0] - image @ np.array([0.299, 0.587, 0.114])).max() <= 0.51


@pytest.mark.parametrize("sigma", [0.25, 0.5, 0.8, 1.25])
def test_blur_is_the_gaussian_within_one_grey_level(sigma):
    image = photo().astype(np.float64)
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        margin = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, margin, mode="reflect")
        image = np.apply_along_axis(lambda line: np.convolve(line, kernel, mode="valid"), axis, padded)
    blurred = gaussian_blur(photo(), sigma)
    assert np.abs(blurred - image).max() < 1.6
    assert np.abs(blurred - image).mean() < 0.5


@pytest.mark.parametrize("sigma", [0.25, 1.25])
def test_blur_does_not_depend_on_its_bands(sigma, monkeypatch):
    found = []
    for band in (1, 5_000, 2**30):
        monkeypatch.setattr(augment_cpu, "BAND_BYTES", band)
        found.append(gaussian_blur(photo(), sigma))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("level", [0, 1, 127, 254, 255])
def test_blur_keeps_a_constant_image(level):
    image = np.full((7, 3, 3), level, dtype=np.uint8)
    for sigma in (0.25, 0.7, 1.25, 2.0):
        np.testing.assert_array_equal(gaussian_blur(image, sigma), image)
