"""What logits of a coarse grid can say of a truth map."""

import pytest
import torch

from querying.dataset.label_values import IGNORE
from training.inference.ceiling import averaged_truth, fitted_logits
from training.losses.upsampled import full_size


def agreement(logits_BChw, truth_BHW):
    predicted_BHW = full_size(logits_BChw, truth_BHW.shape[1:]).argmax(1)
    known_BHW = truth_BHW != IGNORE
    return (predicted_BHW == truth_BHW)[known_BHW].double().mean().item()


@pytest.fixture
def pole():
    """A line of one pixel before a plain ground: class 1 on class 0, uint8 (1, 16, 16)."""
    truth_1HW = torch.zeros(1, 16, 16, dtype=torch.uint8)
    truth_1HW[0, :, 5] = 1
    return truth_1HW


def test_the_average_is_the_share_of_each_class_in_its_square(pole):
    pole[0, 0, 4] = IGNORE
    shares_1Chw = averaged_truth(pole, 2, 4)
    assert shares_1Chw.shape == (1, 2, 4, 4)
    assert shares_1Chw[0, 1, 0, 1] == 4 / 16  # a column of four pixels in a square of sixteen
    assert shares_1Chw[0, 0, 0, 1] == 11 / 16  # one pixel is of no class
    assert shares_1Chw[0, 1, :, 0].eq(0).all()


def test_an_average_loses_a_thin_line_that_logits_can_keep(pole):
    assert agreement(averaged_truth(pole, 2, 4), pole) == 15 / 16  # the line is gone, the ground is right
    assert agreement(fitted_logits(pole, 2, 4, steps=60), pole) > 0.99


def test_at_full_resolution_nothing_is_lost():
    truth_BHW = torch.randint(0, 3, (2, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert agreement(averaged_truth(truth_BHW, 3, 1), truth_BHW) == 1


def test_sides_that_the_stride_does_not_divide_are_rounded_up():
    assert averaged_truth(torch.zeros(1, 18, 21, dtype=torch.uint8), 2, 4).shape == (1, 2, 5, 6)
