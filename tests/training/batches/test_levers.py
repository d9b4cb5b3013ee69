"""Options beside the paper's form of drawing and augmenting: by hand values, and nothing where they are off."""

import numpy as np
import pytest

from orchestrator.run.stages import whole_images
from querying.dataset.label_values import IGNORE
from querying.dataset.shards import DataIndex, encode_label
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from training.batches.training_data import TrainingData, _showing
from training.settings.training import AugmentSettings

PLAIN = AugmentSettings(scale_min=1, scale_max=1, flip=0)


def test_strong_views_of_images_a_third_as_high():
    small = AugmentSettings(sized_for=360).at(120)
    assert small.blur_sigma == pytest.approx((0.25 / 3, 1.25 / 3))
    assert small.cutout_size == 17  # 50 / 3
    assert small.greyscale == pytest.approx(0.25)  # 0.75 / 3
    assert (small.blur, small.colour, small.jitter) == (0.5, 0.5, (0.8, 0.8, 0.8, 0.2))


def test_strong_views_of_images_twice_as_high():
    large = AugmentSettings(sized_for=360).at(720)
    assert large.blur_sigma == (0.5, 2.5)
    assert (large.cutout_size, large.greyscale) == (100, 0.75)  # a probability does not grow


def test_without_a_height_pixels_are_as_given():
    plain = AugmentSettings()
    assert plain.at(120) is plain


def test_which_images_show_a_class():
    def target(*labels):
        return encode_label(np.array([labels], np.uint8))

    targets = {"a": target(0, 0, 2), "b": target(2, IGNORE, IGNORE), "c": target(IGNORE, IGNORE, 0)}
    assert _showing(targets, 4) == [(0, ["a", "c"]), (2, ["a", "b"])]


@pytest.fixture(scope="module")
def ledger(toy_data, tmp_path_factory):
    grid, made = RegionGrid(48, 64, 16), Ledger(tmp_path_factory.mktemp("levers") / "ledger")
    oracle = SimulatedOracle(toy_data, grid)
    made.append(0, oracle.annotate(0, whole_images(oracle.answerable()[:6], grid)))
    return made


def data(index: DataIndex, ledger, augment=PLAIN, crop=(48, 64), **how):
    return TrainingData(index, ledger, 0, RegionGrid(48, 64, 16), (), augment=augment, crop=crop, seed=3, **how)


def test_every_class_has_its_turn_and_is_in_its_crop(toy_data, ledger):
    """Crops of a quarter of the image: a class that covers little of it is seldom in a random one."""
    drawn = data(toy_data, ledger, crop=(24, 32), by_class=True)
    labels = [label for label, _ in drawn.showing]
    passes = 6
    crops = [drawn._labelled(position)[1] for position in range(passes * len(labels))]
    for number in range(passes):  # a pass has every class once, in an order of its own
        part = range(number * len(labels), (number + 1) * len(labels))
        turns = [drawn._draw(drawn.showing, 2, position)[0] for position in part]
        assert sorted(turns) == labels
    turns = [drawn._draw(drawn.showing, 2, position)[0] for position in range(len(crops))]
    shown = np.mean([(crop == label).any() for crop, label in zip(crops, turns, strict=True)])
    assert shown > 0.9
    usual = data(toy_data, ledger, crop=(24, 32))
    by_image = [usual._labelled(position)[1] for position in range(len(crops))]
    rare = min(labels, key=lambda label: sum((crop == label).any() for crop in by_image))
    assert sum((c == rare).any() for c in crops) > sum((c == rare).any() for c in by_image)


def test_a_draw_by_class_is_a_function_of_its_position(toy_data, ledger):
    one, other = (data(toy_data, ledger, by_class=True) for _ in range(2))
    for position in (0, 7, 1):
        for a, b in zip(one._labelled(position), other._labelled(position), strict=True):
            assert np.array_equal(a, b)


def test_the_data_scale_strong_views_by_their_own_height(toy_data, ledger):
    assert data(toy_data, ledger, augment=AugmentSettings(sized_for=96)).augment.cutout_size == 25
