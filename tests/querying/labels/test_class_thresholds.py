"""Class-balanced pseudo-labels (CBST) on a handful of pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from querying.dataset.label_values import IGNORE
from querying.labels.class_thresholds import LEVELS, class_pseudo_label, class_thresholds, confidence_counts
from querying.labels.pseudo_labels import pseudo_label


def log_p(*pixels):
    """(1, C, 1, W) of probabilities by pixel."""
    return torch.tensor(pixels).T[None, :, None].log()


def counts_of(**confidences):
    counts = np.zeros((len(confidences), LEVELS), np.int64)
    for row, values in zip(counts, confidences.values(), strict=True):
        for value in values:
            row[round(value * LEVELS)] += 1
    return counts


def test_pixels_are_counted_by_class_and_confidence():
    counts = confidence_counts(log_p((0.9055, 0.0945), (0.3005, 0.6995), (0.2, 0.8), (0.2, 0.8)))
    assert {(c, n): int(counts[c, n]) for c, n in np.argwhere(counts)} == {(0, 905): 1, (1, 699): 1, (1, 800): 2}


def test_a_sure_pixel_counts_at_the_highest_level():
    assert confidence_counts(log_p((1.0, 0.0)))[0, LEVELS - 1] == 1


def test_thresholds_by_hand():
    """Road: of four pixels the surer half begins at 0.8, above 0.7, which stays.  Pole: half of four begins at 0.5.
    Of sign there is one pixel, and half of one is one.  Nobody predicts bike."""
    counts = counts_of(road=[0.9, 0.8, 0.6, 0.5], pole=[0.6, 0.5, 0.4, 0.35], sign=[0.3], bike=[])
    assert class_thresholds(counts, 0.5, 0.7) == [0.7, 0.5, 0.3, 0.7]
    assert class_thresholds(counts, 0.5, 1.0) == [0.8, 0.5, 0.3, 1.0]  # Zou et al.'s own
    assert class_thresholds(counts, 1.0, 0.7) == [0.5, 0.35, 0.3, 0.7]


def test_labels_by_hand():
    """Thresholds 0.8 and 0.4.  Of p = (0.55, 0.45) class 0 is the likelier one, but 0.45 / 0.4 is above 0.55 / 0.8; of
    (0.85, 0.15) 0.85 / 0.8 is; of (0.7, 0.3) neither reaches its own."""
    label = class_pseudo_label(log_p((0.55, 0.45), (0.85, 0.15), (0.7, 0.3)), [0.8, 0.4])
    assert label.dtype == torch.uint8
    assert label.flatten().tolist() == [1, 0, IGNORE]


@settings(deadline=None)
@given(st.integers(0, 2**31), st.floats(0.3, 0.95))
def test_one_threshold_for_all_classes_is_the_papers(seed, threshold):
    z = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(seed)) * 2
    log_p_BCHW = z.log_softmax(1)
    near = (log_p_BCHW.amax(1).exp() - threshold).abs() < 1e-5  # a logarithm rounds otherwise
    same = class_pseudo_label(log_p_BCHW, [threshold] * 4) == pseudo_label(log_p_BCHW, threshold)
    assert (same | near).all()


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, LEVELS - 1), max_size=8), min_size=1, max_size=4), st.floats(0.05, 1))
def test_a_class_keeps_the_share_that_it_is_promised(levels, share):
    counts = np.zeros((len(levels), LEVELS), np.int64)
    for row, found in zip(counts, levels, strict=True):
        np.add.at(row, found, 1)
    for row, threshold in zip(counts, class_thresholds(counts, share, 0.7), strict=True):
        reaching = row[round(threshold * LEVELS) :].sum()
        assert threshold <= 0.7
        assert reaching >= share * row.sum() - 1e-6
        if threshold < 0.7 and row.any():  # and no lower than it must be
            assert row[round(threshold * LEVELS) + 1 :].sum() < share * row.sum()


def test_the_highest_level_is_enough_for_a_tiny_share():
    assert class_thresholds(counts_of(a=[0.65, 0.2, 0.2]), 1e-9, 0.7) == [pytest.approx(0.65)]
