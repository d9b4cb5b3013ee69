"""What logits of a coarse grid can say of a truth map."""

import pytest
import torch

from querying.dataset.label_values import IGNORE
from training.inference.ceiling import averaged_truth, fitted_logits, labels
from training.inference.dry_run import Grid

QUARTER = Grid((16, 16), (4, 4))


def agreement(logits_BChw, truth_BHW, grid=QUARTER):
    predicted_BHW = labels(logits_BChw, grid, truth_BHW.shape[1:])
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
    shares_1Chw = averaged_truth(pole, 2, QUARTER)
    assert shares_1Chw.shape == (1, 2, 4, 4)
    assert shares_1Chw[0, 1, 0, 1] == 4 / 16  # a column of four pixels in a square of sixteen
    assert shares_1Chw[0, 0, 0, 1] == 11 / 16  # one pixel is of no class
    assert shares_1Chw[0, 1, :, 0].eq(0).all()


def test_an_average_loses_a_thin_line_that_logits_can_keep(pole):
    assert agreement(averaged_truth(pole, 2, QUARTER), pole) == 15 / 16  # the line is gone, the ground is right
    assert agreement(fitted_logits(pole, 2, QUARTER, steps=60), pole) > 0.99


def test_at_full_resolution_nothing_is_lost():
    truth_BHW = torch.randint(0, 3, (2, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    same = Grid((9, 7), (9, 7))
    assert agreement(averaged_truth(truth_BHW, 3, same), truth_BHW, same) == 1


def test_a_padded_image_has_the_cells_of_the_padding_which_is_no_class(pole):
    """An encoder of patches of 14 pixels sees 28x28, of which DPT makes 16x16 cells of 1.75 pixels."""
    grid = Grid((28, 28), (16, 16))
    shares_Chw = averaged_truth(pole, 2, grid)[0]
    assert shares_Chw[:, 10:].eq(0).all(), "cell 10 begins at pixel 17.5"
    assert shares_Chw[1, 0, 2:4].tolist() == pytest.approx([1 / 3, 1 / 2]), (
        "pixels 3 to 5 and 5 to 6; the line is pixel 5"
    )
    assert shares_Chw[0, 9, 0] == pytest.approx(1 / 3), "pixels 15 to 17, of which the last two are padding"
    assert agreement(fitted_logits(pole, 2, grid, steps=60), pole, grid) == 1
