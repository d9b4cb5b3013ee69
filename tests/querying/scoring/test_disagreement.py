import math

import numpy as np
import pytest
import torch

from querying.scoring.acquisition import ACQUISITIONS, entropy
from querying.scoring.disagreement import FURTHER, Predictions
from querying.settings import ACQUISITION_NAMES, DIFFICULTY_NAMES

MEASURES = (Predictions.mutual_information, Predictions.entropy_of_mean)


def log_p(logits):
    return torch.as_tensor(logits, dtype=torch.float32).log_softmax(dim=-3)


def together(log_p_TBCHW):
    found = Predictions()
    for one in log_p_TBCHW:
        found.add(one)
    return found


def pixel(*p):
    return torch.tensor(p).log().view(1, -1, 1, 1)


def noise(*shape, scale=3.0):
    return np.random.default_rng(0).normal(0, scale, shape)


def test_every_name_of_the_settings_has_a_function():
    assert set(ACQUISITION_NAMES) == {*ACQUISITIONS, *FURTHER, *DIFFICULTY_NAMES, "random", "coreset"}


def test_predictions_that_are_all_alike_carry_no_mutual_information():
    one = log_p(noise(2, 5, 4, 3))
    found = together([one] * 7)
    torch.testing.assert_close(found.mutual_information(), torch.zeros(2, 4, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.entropy_of_mean(), entropy(one), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("classes", [2, 3, 11])
def test_certain_predictions_that_all_differ_reach_the_maximum(classes):
    """T = C certain predictions, each of another class: H(mean) = ln C, and every entropy is 0."""
    certain = log_p(1e4 * torch.eye(classes).view(classes, 1, classes, 1, 1))
    assert together(certain).mutual_information().item() == pytest.approx(math.log(classes), abs=1e-6)


def test_two_predictions_by_hand():
    """p = (3/4, 1/4), q = (1/4, 3/4): ln 2 - H(1/4) = 1.5 ln 2 - ... = ln 2 - (2 ln 2 - 3/4 ln 3)."""
    found = together([pixel(0.75, 0.25), pixel(0.25, 0.75)])
    assert found.mutual_information().item() == pytest.approx(0.75 * math.log(3) - math.log(2), abs=1e-6)
    assert found.entropy_of_mean().item() == pytest.approx(math.log(2), abs=1e-6)


def test_both_equal_a_float64_derivation_and_lie_in_their_range():
    logits = noise(6, 2, 7, 5, 4)
    p = np.exp(logits - logits.max(axis=2, keepdims=True))
    p /= p.sum(axis=2, keepdims=True)
    mean = p.mean(axis=0)
    of_mean = -(mean * np.log(mean)).sum(axis=1)
    information = of_mean + (p * np.log(p)).sum(axis=2).mean(axis=0)
    found = together(log_p(logits))
    np.testing.assert_allclose(found.entropy_of_mean().numpy(), of_mean, atol=2e-6)
    np.testing.assert_allclose(found.mutual_information().numpy(), information, atol=4e-6)
    assert 0 <= found.mutual_information().min() <= found.mutual_information().max() <= math.log(6)


@pytest.mark.parametrize("gap", [104.0, 1e4])
def test_both_are_finite_where_a_softmax_rounds_to_zero(gap):
    found = together([log_p([[[[gap]], [[0.0]], [[0.0]]]])] * 2)
    assert [measure(found).item() for measure in MEASURES] == [0.0, 0.0]


def test_what_is_not_finite_stays_so():
    broken = torch.full((1, 3, 1, 1), torch.nan)
    assert all(measure(together([broken, pixel(0.5, 0.3, 0.2)])).isnan().all() for measure in MEASURES)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_order_of_predictions_classes_and_images_changes_nothing(measure):
    some = log_p(noise(4, 3, 5, 4, 4))
    whole = measure(together(some))
    torch.testing.assert_close(measure(together(some.flip(0))), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(measure(together(some[:, :, [3, 1, 4, 0, 2]])), whole, atol=1e-6, rtol=1e-5)
    single = torch.cat([measure(together(some[:, i : i + 1])) for i in range(3)])
    assert torch.equal(single, whole)
