import math

import numpy as np
import pytest
import torch

from querying.dataset.label_values import IGNORE
from querying.labels.pseudo_labels import pseudo_label
from querying.scoring.acquisition import ACQUISITIONS, entropy, least_confidence, margin, random_scores


def log_p(logits):
    return torch.as_tensor(logits, dtype=torch.float32).log_softmax(dim=1)


def pixel(*values):
    return log_p(torch.tensor(values).view(1, -1, 1, 1))


def test_uniform_predictions():
    """H = ln C;  1 - 1/C;  no gap at all."""
    uniform = log_p(torch.zeros(1, 11, 2, 2))
    torch.testing.assert_close(entropy(uniform), torch.full((1, 2, 2), math.log(11)))
    torch.testing.assert_close(least_confidence(uniform), torch.full((1, 2, 2), 1 - 1 / 11))
    torch.testing.assert_close(margin(uniform), torch.ones(1, 2, 2))


def test_three_classes_by_hand():
    """p = (1/2, 1/3, 1/6): H = ln 2 / 2 + ln 3 / 3 + ln 6 / 6, least confidence 1/2, margin 1 - 1/6."""
    p = pixel(math.log(1 / 2), math.log(1 / 3), math.log(1 / 6))
    assert entropy(p).item() == pytest.approx(math.log(2) / 2 + math.log(3) / 3 + math.log(6) / 6, abs=1e-6)
    assert least_confidence(p).item() == pytest.approx(1 / 2, abs=1e-6)
    assert margin(p).item() == pytest.approx(5 / 6, abs=1e-6)


@pytest.mark.parametrize("gap", [20.0, 104.0, 200.0, 1e4])
def test_entropy_is_finite_where_a_softmax_rounds_to_zero(gap):
    """p log p with p == 0.0 is NaN, and top-k ranks NaN first: such a pixel would win every query."""
    value = entropy(pixel(gap, 0.0, 0.0)).item()
    assert 0 <= value < 1e-6


def test_entropy_equals_a_float64_derivation():
    logits = np.random.default_rng(0).normal(0, 5, (2, 7, 5, 6))
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    expected = -(p * np.log(p)).sum(axis=1)
    np.testing.assert_allclose(entropy(log_p(logits)).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_shifting_logits_and_permuting_classes_change_nothing(name):
    logits = torch.randn(2, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    score = ACQUISITIONS[name]
    torch.testing.assert_close(score(log_p(logits)), score(log_p(logits + 7.0)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(score(log_p(logits)), score(log_p(logits[:, [3, 1, 4, 0, 2]])))


@pytest.mark.parametrize("name", ACQUISITIONS)
def test_one_image_at_a_time_equals_the_batch(name):
    logits = log_p(torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(0)))
    single = torch.cat([ACQUISITIONS[name](image[None]) for image in logits])
    assert torch.equal(single, ACQUISITIONS[name](logits))


def test_random_scores_depend_on_seed_cycle_and_image_alone():
    first = random_scores(1, 2, "a", 50)
    assert np.array_equal(first, random_scores(1, 2, "a", 50))
    others = [random_scores(0, 2, "a", 50), random_scores(1, 1, "a", 50), random_scores(1, 2, "b", 50)]
    assert all(not np.array_equal(first, other) for other in others)
    assert 0 <= first.min() <= first.max() < 1


def test_pseudo_labels_keep_what_reaches_the_threshold():
    """Confidences 0.71 (kept at 0.7) and 0.69 (ignored); a certain pixel is kept at 1."""
    logits = torch.tensor([[0.71, 0.69], [0.29, 0.31]]).log().view(1, 2, 1, 2)
    assert pseudo_label(logits, 0.7).tolist() == [[[0, IGNORE]]]
    assert pseudo_label(logits.flip(1), 0.5).tolist() == [[[1, 1]]]
    assert pseudo_label(torch.tensor([0.0, -200.0]).view(1, 2, 1, 1), 1.0).tolist() == [[[0]]]
    assert pseudo_label(logits, 0.7).dtype == torch.uint8


@pytest.mark.parametrize("classes", [1, 2, 19, 254])
def test_the_label_is_numpys_argmax_also_where_classes_tie(classes):
    generator = torch.Generator().manual_seed(0)
    logits = log_p(torch.randint(0, 4, (2, classes, 9, 11), generator=generator).float())
    assert np.array_equal(pseudo_label(logits, 0.0).numpy(), logits.numpy().argmax(axis=1))
