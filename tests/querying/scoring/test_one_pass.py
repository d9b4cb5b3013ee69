"""Score and label from logits at once, against their definitions in NumPy float64 and against each other."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays

from querying.dataset.label_values import IGNORE
from querying.labels.pseudo_labels import pseudo_label
from querying.scoring.acquisition import ACQUISITIONS
from querying.scoring.fused import score_and_label

FEW = st.sampled_from([-30.0, -1.5, 0.0, 0.25, 1.5, 30.0])  # so that classes tie


def by_numpy(z_SCW, threshold):
    """Entropy, top probability, and label."""
    z_SCW = z_SCW.astype(float)
    p_SCW = np.exp(z_SCW - z_SCW.max(1, keepdims=True))
    p_SCW /= p_SCW.sum(1, keepdims=True)
    entropy_SW = -(p_SCW * np.log(np.maximum(p_SCW, 1e-300))).sum(1)
    top_SW = p_SCW.max(1)
    return entropy_SW, top_SW, np.where(top_SW >= threshold, z_SCW.argmax(1), IGNORE)


@pytest.mark.parametrize("classes", [2, 11, 254])
def test_entropy_and_labels_equal_numpy(classes):
    z_SCW = np.random.default_rng(classes).normal(0, 4, (6, classes, 37)).astype(np.float32)
    entropy_SW, top_SW, label_SW = by_numpy(z_SCW, 0.7)
    assert (np.abs(top_SW - 0.7) > 1e-6).all()
    assert 0 < (label_SW == IGNORE).mean() < 1
    score, label = score_and_label("entropy", torch.from_numpy(z_SCW), 0.7)
    np.testing.assert_allclose(score.numpy(), entropy_SW, atol=2e-6)
    np.testing.assert_array_equal(label.numpy(), label_SW)
    assert label.dtype == torch.uint8


@given(arrays(np.float32, (2, 5, 3), elements=FEW))
def test_of_classes_that_tie_the_first_is_the_label(z_SCW):
    entropy_SW, _, label_SW = by_numpy(z_SCW, 0.0)
    score, label = score_and_label("entropy", torch.from_numpy(z_SCW.copy()), 0.0)
    np.testing.assert_allclose(score.numpy(), entropy_SW, atol=2e-6)
    np.testing.assert_array_equal(label.numpy(), label_SW)


@pytest.mark.parametrize("acquisition", ACQUISITIONS)
def test_each_acquisition_is_itself(acquisition):
    z_SCW = torch.randn(4, 7, 9, generator=torch.Generator().manual_seed(0)) * 3
    log_p_SCW = z_SCW.log_softmax(1)
    score, label = score_and_label(acquisition, z_SCW.clone(), 0.6)
    torch.testing.assert_close(score, ACQUISITIONS[acquisition](log_p_SCW))
    torch.testing.assert_close(label, pseudo_label(log_p_SCW, 0.6))


@pytest.mark.parametrize("gap", [104.0, 1e4, 3e38])
def test_a_class_that_rounds_to_zero_adds_nothing(gap):
    score, label = score_and_label("entropy", torch.tensor([[[0.0], [gap], [0.0]]]), 0.7)
    assert (score.item(), label.item()) == (0.0, 1)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_so(broken):
    score, _ = score_and_label("entropy", torch.tensor([[[0.0], [broken], [1.0]]]), 0.7)
    assert not score.isfinite().any()
