"""Depthwise convolutions: value and gradient against PyTorch's own in float64."""

import pytest
import torch
from torch import nn

from training.kernels.depthwise import SparseDepthwiseConv

SHAPES = [(2, 96, 23, 30), (3, 16, 8, 10), (1, 16, 1, 5), (1, 16, 7, 2), (2, 16, 23, 1), (2, 96, 5, 1)]


def both(channels: int, *, stride: int = 1, dilation: int = 2, kernel: int = 3, bias: bool = False, padding=None):
    """Ours, and PyTorch's with the same parameters in float64."""
    torch.manual_seed(0)
    padding = kernel // 2 * dilation if padding is None else padding
    settings = {"stride": stride, "padding": padding, "dilation": dilation, "groups": channels, "bias": bias}
    plain = nn.Conv2d(channels, channels, kernel, **settings).to(memory_format=torch.channels_last)
    exact = nn.Conv2d(channels, channels, kernel, **settings).double()
    exact.load_state_dict(plain.state_dict())
    return SparseDepthwiseConv(plain), exact


def channels_last(*shape: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn.contiguous(memory_format=torch.channels_last)


def gradients(ours, exact, x, *, precision: str):
    """(ours, exact) for the output, and for the gradients in input and parameters of a random cotangent."""
    own, expected = x.clone().requires_grad_(), x.double().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        out = ours(own)
    wanted = exact(expected)
    grad = channels_last(*wanted.shape, seed=2)
    out.backward(grad.to(out.dtype))
    wanted.backward(grad.double())
    pairs = {"output": (out, wanted), "input": (own.grad, expected.grad)}
    for name, parameter in exact.named_parameters():
        pairs[name] = (ours.get_parameter(name).grad, parameter.grad)
    return pairs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"dilation": 1},
        {"dilation": 4},
        {"kernel": 5, "bias": True},
        {"stride": 2, "dilation": 1},
        {"stride": 3, "dilation": 1, "kernel": 5},
        {"stride": 2, "dilation": 2},
        {"dilation": 1, "padding": 0, "kernel": 1},
        {"dilation": 2, "padding": 3},
    ],
)
@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-5), ("bf16", 1e-2)])
def test_value_and_gradients_are_pytorchs_in_float64(shape, settings, precision, error):
    """PyTorch's own bf16 gradient is off by more than its length (1.16 of it), or NaN, where it is dilated."""
    ours, exact = both(shape[1], **settings)
    for name, (found, wanted) in gradients(ours, exact, channels_last(*shape, seed=1), precision=precision).items():
        distance = (found.double() - wanted).norm() / wanted.norm()
        assert distance <= error, (name, float(distance))


def test_the_gradient_is_that_of_finite_differences():
    ours, _ = both(2, dilation=3)
    x = channels_last(2, 2, 7, 8, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, weight: torch.func.functional_call(ours, {"weight": weight}, (x,)),
                                    (x, ours.weight.detach().double().requires_grad_()))  # fmt: skip


def test_parameters_stay_those_of_the_convolution_that_it_stands_for():
    plain = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4)
    ours = SparseDepthwiseConv(plain)
    assert ours.weight is plain.weight
    assert ours.bias is plain.bias


def test_without_a_gradient_for_the_input_the_weight_still_gets_its_own():
    ours, exact = both(8)
    x = channels_last(2, 8, 9, 9, seed=1)
    ours(x).square().sum().backward()
    exact(x.double()).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-4)
