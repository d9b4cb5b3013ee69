"""The representation head against the same layers one by one: pixels without a gradient are left out, none else."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from training.kernels import few_pixels
from training.network.decoder import Head, RepresentationHead
from training.network.deeplab import build_model
from training.settings.training import ModelSettings

B, C, D, H, W = 2, 6, 5, 7, 9
PIXELS = B * H * W


def case(seen, *, dtype=torch.float64, memory=torch.channels_last):
    """A head, its 3x3 convolution's output, and a gradient in so many pixels."""
    torch.manual_seed(0)
    head = RepresentationHead(4, 3, C, D).to(dtype)
    nn.init.uniform_(head.bn.weight, -1.5, 1.5)
    nn.init.normal_(head.bn.bias)
    x = (torch.randn(B, C, H, W, dtype=torch.float64) * 2 + 3).to(dtype).contiguous(memory_format=memory)
    grad = torch.zeros(PIXELS, D, dtype=dtype)
    grad[torch.randperm(PIXELS)[:seen]] = torch.randn(seen, D, dtype=dtype)
    return head, x, grad.view(B, H, W, D).permute(0, 3, 1, 2)


def results(head, x, grad, end=RepresentationHead.end, *, autocast=False):
    """Output, gradients in the input and the parameters, and BatchNorm's buffers."""
    head, x = deepcopy(head), x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = end(head, x)
    y.backward(grad.to(y.dtype))
    parts = {name: value.grad for part in (head.bn, head.out) for name, value in vars_of(part)}
    return {"y": y.detach(), "x": x.grad, **parts, **dict(head.bn.named_buffers())}


def vars_of(part):
    return [(f"{type(part).__name__}.{name}", value) for name, value in part.named_parameters()]


@pytest.fixture
def dense(monkeypatch):
    """How often PyTorch's own gradients have been taken."""
    calls, plain = [], few_pixels._of_all
    monkeypatch.setattr(few_pixels, "_of_all", lambda *args: calls.append(1) or plain(*args))
    return calls


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("seen", [0, 1, 17, PIXELS // 4, PIXELS // 4 + 1, PIXELS])
def test_it_is_the_layers_one_by_one(seen, memory, dense):
    head, x, grad = case(seen, memory=memory)
    found, exact = results(head, x, grad), results(head, x, grad, Head.end)
    assert bool(dense) == (seen > PIXELS // 4)
    assert found.keys() == exact.keys()
    for name in exact:
        torch.testing.assert_close(found[name], exact[name], rtol=1e-10, atol=1e-12, msg=name)
    assert (found["y"] != 0).all()


def test_gradients_are_those_of_finite_differences(dense):
    head, x, _ = case(0)
    running = few_pixels._Running(None, None, 0.1, head.bn.eps)
    inputs = (x, *head.bn.parameters(), *head.out.parameters())

    def function(*inputs):
        return few_pixels._End.apply(*inputs, running)[:, :, 2, 3]  # of each image one pixel

    assert torch.autograd.gradcheck(function, [value.detach().requires_grad_() for value in inputs])
    assert not dense


def test_bf16_is_as_exact_as_the_layers(dense):
    head, x, grad = case(25, dtype=torch.float32)
    grad = grad.bfloat16().float()
    exact = results(deepcopy(head).double(), x.bfloat16().double(), grad.double(), Head.end)
    found = results(head, x, grad, autocast=True)
    plain = results(head, x.bfloat16().float(), grad, Head.end, autocast=True)
    assert not dense
    for name in ("y", "x", "BatchNorm2d.weight", "BatchNorm2d.bias", "Conv2d.weight", "Conv2d.bias"):
        assert found[name].dtype == plain[name].dtype
        assert (found[name] - exact[name]).norm() <= 1.5 * (plain[name] - exact[name]).norm() + 1e-6, name


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e-30, -1e-30])
def test_one_entry_is_enough_and_what_is_no_number_is_kept(value, dense):
    head, x, grad = case(0, dtype=torch.float32)
    grad[1, 2, 3, 4] = value
    found, exact = results(head, x, grad), results(head, x, grad, Head.end)
    assert not dense
    assert found["Conv2d.weight"].count_nonzero()
    for name in ("Conv2d.weight", "Conv2d.bias"):
        torch.testing.assert_close(found[name], exact[name], rtol=1e-6, atol=0, equal_nan=True)
    assert found["x"].isfinite().all() == exact["x"].isfinite().all()


@pytest.mark.parametrize("mode", ["evaluation", "no gradient", "folded norm"])
def test_elsewhere_it_computes_layer_by_layer(mode, monkeypatch):
    monkeypatch.setattr(few_pixels._End, "apply", lambda *_: pytest.fail("the joined form"))
    head, x, _ = case(0)
    if mode == "folded norm":
        head.bn = nn.Identity()
    head.train(mode != "evaluation")
    with torch.set_grad_enabled(mode != "no gradient"):
        torch.testing.assert_close(head.end(x), Head.end(deepcopy(head), x), rtol=0, atol=0)


def test_it_is_the_representation_head_alone():
    model = build_model(ModelSettings(), 3, embedding=True)
    assert type(model.embedding_head) is RepresentationHead
    assert type(model.class_head) is Head
