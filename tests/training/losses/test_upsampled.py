"""Cross entropy by stripes against PyTorch's own in float64: value, gradient, and what is not known."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st

from querying.dataset.label_values import IGNORE
from training.losses import upsampled
from training.losses.upsampled import upsampled_cross_entropy


def drawn(images: int, classes: int, small: tuple[int, int], large: tuple[int, int], *, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, *small, generator=generator, dtype=torch.float64)
    target = torch.randint(classes + 1, (images, *large), generator=generator)
    return logits, target.masked_fill(target == classes, IGNORE).byte()


def plain(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    full = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(full, target.long(), ignore_index=IGNORE, reduction="sum")


def with_gradient(cost, logits: torch.Tensor, target: torch.Tensor):
    logits = logits.clone().requires_grad_()
    found = cost(logits, target)
    return found.detach(), torch.autograd.grad(2.5 * found, logits)[0]


@pytest.mark.parametrize("rows", [1, 3, 1000])
@pytest.mark.parametrize(
    ("small", "large"), [((9, 12), (36, 48)), ((5, 7), (17, 26)), ((1, 1), (4, 3)), ((6, 4), (6, 8))]
)
def test_value_and_gradient_are_pytorchs(small, large, rows, monkeypatch):
    monkeypatch.setattr(upsampled, "STRIPE_FLOATS", rows * 5 * large[1])
    logits, target = drawn(2, 5, small, large)
    cost, grad = with_gradient(upsampled_cross_entropy, logits, target)
    expected, wanted = with_gradient(plain, logits, target)
    torch.testing.assert_close(cost, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grad, wanted, rtol=1e-5, atol=1e-6)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 30), st.integers(1, 30), st.integers(1, 7))
def test_any_sizes(h, w, height, width, classes):
    logits, target = drawn(1, classes, (h, w), (height, width), seed=h + 10 * w)
    torch.testing.assert_close(upsampled_cross_entropy(logits, target), plain(logits, target), rtol=1e-6, atol=1e-6)


def test_the_gradient_is_that_of_finite_differences():
    logits, target = drawn(1, 3, (3, 4), (7, 9))
    assert torch.autograd.gradcheck(lambda z: upsampled_cross_entropy(z, target), logits.requires_grad_())


def test_under_autocast_it_computes_in_float32():
    logits, target = drawn(2, 5, (9, 12), (36, 48))
    with torch.autocast("cpu", torch.bfloat16):
        cost, grad = with_gradient(upsampled_cross_entropy, logits.bfloat16(), target)
    expected, wanted = with_gradient(plain, logits.bfloat16().double(), target)
    assert cost.dtype == torch.float32
    torch.testing.assert_close(cost.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad.double(), wanted, rtol=0.01, atol=0.01)


def test_what_is_not_known_costs_nothing_and_has_no_gradient():
    logits, target = drawn(2, 5, (9, 12), (36, 48))
    target[1] = IGNORE
    logits[1, 2, 3, 4] = torch.nan
    cost, grad = with_gradient(upsampled_cross_entropy, logits, target)
    torch.testing.assert_close(cost, plain(logits[:1], target[:1]), rtol=1e-6, atol=1e-6)
    assert not grad[1].any()


def test_a_class_that_the_network_has_not_is_an_error():
    logits, target = drawn(1, 5, (3, 4), (9, 12))
    target[0, 4, 4] = 5
    with pytest.raises((RuntimeError, IndexError)):
        upsampled_cross_entropy(logits, target)
