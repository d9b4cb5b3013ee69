"""Upsampling to log-probabilities, whole and in stripes, against NumPy in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from querying.scoring import upsampling
from querying.scoring.upsampling import log_probabilities, stripes


def along(axis_in: int, axis_out: int) -> np.ndarray:
    """Bilinear weights (out, in): pixels are areas, and the outermost values go on beyond their centres."""
    weight = np.zeros((axis_out, axis_in))
    for out in range(axis_out):
        place = min(max((out + 0.5) * axis_in / axis_out - 0.5, 0.0), axis_in - 1.0)
        low = int(place)
        weight[out, low] += 1 - (place - low)
        weight[out, min(low + 1, axis_in - 1)] += place - low
    return weight


def by_numpy(logits: list[torch.Tensor], height: int, width: int) -> np.ndarray:
    full = [along(z.shape[2], height) @ z.numpy().astype(float) @ along(z.shape[3], width).T for z in logits]
    mean = np.mean(full, axis=0)
    return mean - np.log(np.exp(mean).sum(axis=1, keepdims=True))


def drawn(*sizes: tuple[int, int], images: int = 1, classes: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(images, classes, *size, generator=generator) for size in sizes]


SIZES = [((9, 12), (36, 48)), ((23, 30), (90, 120)), ((7, 5), (7, 5)), ((1, 1), (6, 9)), ((40, 30), (13, 17))]


@pytest.mark.parametrize(("small", "large"), SIZES)
def test_whole_images_are_what_numpy_makes_of_them(small, large):
    logits = drawn(small, (small[0] * 2, small[1] * 2), images=2)
    np.testing.assert_allclose(log_probabilities(logits, *large).numpy(), by_numpy(logits, *large), atol=1e-4)


@pytest.mark.parametrize("rows", [1, 4, 1000])
@pytest.mark.parametrize(("small", "large"), SIZES)
def test_stripes_joined_are_the_whole_image(small, large, rows, monkeypatch):
    monkeypatch.setattr(upsampling, "STRIPE_FLOATS", rows * 5 * large[1])
    logits = drawn(small, (max(1, small[0] // 2), small[1] * 2))
    pieces = list(stripes(logits, *large))
    assert [len(piece) for piece in pieces[:-1]] == [rows] * (len(pieces) - 1)
    whole_CHW = torch.cat(pieces).log_softmax(dim=1).transpose(0, 1)
    np.testing.assert_allclose(whole_CHW.numpy(), by_numpy(logits, *large)[0], atol=1e-4)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=3), st.integers(1, 60), st.integers(1, 60))
def test_a_plan_names_each_row_once_and_only_rows_that_count(rows_in, rows_out, step):
    plan = upsampling.row_plan(tuple(rows_in), rows_out, step)
    assert sum(len(rows.weight_SX) for rows in plan) == rows_out
    for rows in plan:
        assert all(0 <= part.start < part.stop <= count for part, count in zip(rows.needed, rows_in, strict=True))
        assert rows.weight_SX.shape[1] == sum(part.stop - part.start for part in rows.needed)
        torch.testing.assert_close(rows.weight_SX.sum(1), torch.ones(len(rows.weight_SX)))


def test_a_logit_that_is_not_finite_is_seen():
    logits = drawn((9, 12))
    logits[0][0, 2, 8, 11] = torch.inf
    assert not all(torch.isfinite(piece).all() for piece in stripes(logits, 36, 48))
