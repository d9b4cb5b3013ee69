"""The representation head's last convolution against PyTorch's: pixels without a gradient are left out, none else."""

import pytest
import torch
from torch import nn

from training.decoder import FewPixelsConv
from training.model import build_model
from training.settings import ModelSettings

B, C, D, H, W = 2, 6, 5, 7, 9


def gradients(conv, x, grad, *, autocast=False):
    conv.zero_grad()
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = conv(x)
    y.backward(grad.to(y.dtype))
    return y.detach(), x.grad, conv.weight.grad, conv.bias.grad


def case(pixels, *, dtype=torch.float64, memory=torch.channels_last):
    torch.manual_seed(0)
    plain, own = nn.Conv2d(C, D, 1, dtype=dtype), FewPixelsConv(C, D, 1, dtype=dtype)
    own.load_state_dict(plain.state_dict())
    x = torch.randn(B, C, H, W, dtype=dtype).contiguous(memory_format=memory)
    grad = torch.zeros(B * H * W, D, dtype=dtype)
    hit = torch.randperm(B * H * W)[:pixels]
    grad[hit] = torch.randn(pixels, D, dtype=dtype)
    return plain, own, x, grad.view(B, H, W, D).permute(0, 3, 1, 2)


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("pixels", [0, 1, 17, B * H * W // 4, B * H * W // 4 + 1, B * H * W])
def test_it_is_pytorchs(pixels, memory):
    plain, own, x, grad = case(pixels, memory=memory)
    for found, exact in zip(gradients(own, x, grad), gradients(plain, x, grad), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def test_bf16_is_as_exact_as_pytorchs():
    plain, own, x, grad = case(25, dtype=torch.float32)
    exact = gradients(plain.double(), x.double(), grad.double())
    plain = plain.float()
    for ours, theirs, true in zip(
        gradients(own, x, grad, autocast=True), gradients(plain, x, grad, autocast=True), exact, strict=True
    ):
        assert ours.dtype == theirs.dtype
        assert (ours - true).norm() <= 1.5 * (theirs - true).norm()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e-30])
def test_one_entry_is_enough_and_no_number_is_kept(value):
    plain, own, x, grad = case(0, dtype=torch.float32)
    grad[1, 2, 3, 4] = value
    for found, exact in zip(gradients(own, x, grad), gradients(plain, x, grad), strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-6, atol=0, equal_nan=True)
    assert own.weight.grad.count_nonzero()


def test_the_representation_head_has_it_and_the_class_head_has_not():
    model = build_model(ModelSettings(), 3, embedding=True)
    assert type(model.embedding_head.out) is FewPixelsConv
    assert type(model.class_head.out) is nn.Conv2d
