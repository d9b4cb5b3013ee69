"""An expansion in one convolution is the three layers: values, gradients, statistics, and where it does not apply."""

from copy import deepcopy

import pytest
import timm
import torch
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from timm.models._efficientnet_blocks import InvertedResidual
from torch import nn

from training.kernels import expansion
from training.kernels.expansion import ExpandingBlock, expand
from training.network.backbones import build_encoder
from training.settings.training import ModelSettings

IN, OUT, SIDE = 4, 24, 9


def layers(act=nn.ReLU6, *, channels=(IN, OUT), dtype=torch.float64):
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(*channels, 1, bias=False), nn.BatchNorm2d(channels[1])
    nn.init.uniform_(norm.weight, -1.5, 1.5)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var)
    return nn.ModuleList([conv, norm, act()]).to(dtype)


def images(dtype=torch.float64, *, channels=IN, batch=3, side=SIDE):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(batch, channels, side, side, generator=draw, dtype=torch.float64) * 2 + 3
    return x.to(dtype, memory_format=torch.channels_last)


def results(parts, x, compute):
    """Output, gradients in the images and every parameter, and BatchNorm's buffers."""
    x = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    parts = deepcopy(parts)
    y = compute(parts, x)
    y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64).to(y.dtype))
    grads = {name: parameter.grad for name, parameter in parts.named_parameters()}
    return {"y": y.detach(), "x": x.grad, **grads, **dict(parts.named_buffers())}


def joined(parts, x):
    return expand(*parts, x)


def one_by_one(parts, x):
    conv, norm, act = parts
    return act(norm(conv(x)))


def error(found, exact):
    exact = {name: value.double() for name, value in exact.items()}
    return {name: ((found[name] - value).norm() / value.norm()).item() for name, value in exact.items()}


@pytest.fixture
def used(monkeypatch):
    """How often the joined form has computed."""
    calls, plain = [], expansion._Expansion.apply
    monkeypatch.setattr(expansion._Expansion, "apply", lambda *args: calls.append(1) or plain(*args))
    return calls


@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_it_is_the_three_layers(act, memory, used):
    parts, x = layers(act), images().contiguous(memory_format=memory)
    found, exact = results(parts, x, joined), results(parts, x, one_by_one)
    assert used == [1]
    assert found["y"].dtype == torch.float64
    assert (exact["y"] == 0).any()
    assert (exact["y"] > 0).any()
    assert found.keys() == exact.keys()
    assert max(error(found, exact).values()) < 1e-12


def test_gradients_are_those_of_finite_differences():
    conv, norm, _ = layers()
    x = images(batch=2, side=8).requires_grad_()

    def function(x, weight, scale, shift):
        return expansion._Expansion.apply(x, weight, scale, shift, norm.eps, expansion._Limits("relu"))[0]

    assert torch.autograd.gradcheck(function, (x, conv.weight, norm.weight, norm.bias))


def test_in_float32_it_is_as_exact_as_the_layers_even_for_channels_that_hardly_vary():
    """A variance from a covariance is a difference: here it is a millionth of what it is the difference of."""
    parts, x = layers(dtype=torch.float32), images(torch.float32, batch=8, side=32)
    x[:, 1:] = x[:, :1] + 1e-3 * x[:, 1:]
    with torch.no_grad():
        parts[0].weight -= parts[0].weight.mean(1, keepdim=True)
    exact = results(deepcopy(parts).double(), x.double(), one_by_one)
    assert exact["1.running_var"].lt(1).any()
    found, plain = error(results(parts, x, joined), exact), error(results(parts, x, one_by_one), exact)
    assert found["y"] < 1e-4
    for name in ("y", "x", "0.weight"):
        assert found[name] < 3 * plain[name] + 1e-6, (name, found, plain)


def test_in_bf16_it_is_as_exact_as_the_layers(used):
    parts, x = layers(dtype=torch.float32), images(torch.float32, batch=8, side=32)
    exact = results(deepcopy(parts).double(), x.bfloat16().double(), one_by_one)
    with torch.autocast("cpu", torch.bfloat16):
        found, plain = results(parts, x, joined), results(parts, x, one_by_one)
    assert used == [1]
    assert found["y"].dtype == torch.bfloat16
    assert found["x"].dtype == found["0.weight"].dtype == torch.float32
    found, plain = error(found, exact), error(plain, exact)
    for name in ("y", "x", "0.weight", "1.weight", "1.bias"):
        assert found[name] < 1.5 * plain[name], (name, found, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_a_value_that_is_no_number_is_not_hidden(dtype, wrong):
    """oneDNN's activations give zero for NaN, and a training that has diverged would go on."""
    parts, x = layers(dtype=dtype), images(dtype)
    x[0, 0, 0, 0] = wrong
    assert expand(*parts, x).isnan().all()


@pytest.mark.parametrize("case", ["evaluation", "no gradient", "few pixels", "other norm", "narrow", "frozen norm"])
def test_elsewhere_it_computes_layer_by_layer(case, used):
    parts, x = layers(channels=(IN, 7) if case == "narrow" else (IN, OUT)), images()
    if case == "few pixels":
        x = images(batch=1)
    if case == "other norm":
        parts[1] = nn.InstanceNorm2d(OUT, affine=True).double()
    if case in ("evaluation", "frozen norm"):
        (parts if case == "evaluation" else parts[1]).eval()
    with torch.set_grad_enabled(case != "no gradient"):
        found = expand(*parts, x)
    assert used == []
    torch.testing.assert_close(found, one_by_one(deepcopy(parts), x), rtol=0, atol=0)


def blocks(encoder, kind):
    return [module for module in encoder.modules() if type(module) is kind]


def test_mobilenets_blocks_are_joined_with_timms_names_and_results():
    settings = ModelSettings(backbone="mobilenetv2_100", output_stride=16, drop_path=0.0)
    torch.manual_seed(0)
    found = build_encoder(settings).double()
    assert len(blocks(found, ExpandingBlock)) == 16
    assert not blocks(found, InvertedResidual)
    plain = timm.create_model(
        "mobilenetv2_100", pretrained=False, features_only=True, out_indices=(1, 4), output_stride=16
    ).double()
    assert found.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(found.state_dict())
    maps, exact = found(images(channels=3, batch=4, side=64)), plain(images(channels=3, batch=4, side=64))
    for encoder, features in ((found, maps), (plain, exact)):
        sum(feature.square().sum() for feature in features).backward()
        for value in encoder.buffers():
            assert value.isfinite().all()
    torch.testing.assert_close(maps, exact, rtol=1e-9, atol=1e-9)
    for (name, value), other in zip(found.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(value.grad, other.grad, rtol=1e-7, atol=1e-9, msg=name)
    torch.testing.assert_close(dict(found.named_buffers()), dict(plain.named_buffers()), rtol=1e-9, atol=1e-9)


def test_a_copy_is_joined_too_and_a_norm_over_several_workers_is_not():
    encoder = build_encoder(ModelSettings(backbone="mobilenetv2_100"))
    assert len(blocks(deepcopy(encoder), ExpandingBlock)) == 16
    block = blocks(convert_sync_batchnorm(encoder), ExpandingBlock)[0]
    assert not isinstance(block.bn1, BatchNormAct2d)
    assert not expansion.joins(block.conv_pw, block.bn1, block.bn1.act)
