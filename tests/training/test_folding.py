"""A folded network is the same function without BatchNorm."""

import pytest
import torch
from torch import nn

from training.folding import _pairs, fold
from training.model import build_model
from training.settings import ModelSettings

SMALL = {"aspp_channels": 16, "decoder_channels": 16, "low_level_channels": 8}


def lived(backbone, dtype=torch.float32, **settings):
    """A network whose BatchNorms have seen something, each channel something else."""
    torch.manual_seed(0)
    model = build_model(ModelSettings(backbone=backbone, **SMALL, **settings), 5, embedding=False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model.eval().to(dtype)


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "resnet50", "resnet101s"])
def test_a_folded_network_is_the_same_function(backbone):
    model = lived(backbone, torch.float64, output_stride=8)
    image = torch.randn(2, 3, 48, 80, dtype=torch.float64)
    with torch.no_grad():
        expected = model(image).logits
        folded = fold(model)
        found = folded(image).logits
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_in_float32_only_the_rounding_differs():
    model = lived("mobilenetv2_100")
    image = torch.randn(2, 3, 48, 80)
    with torch.no_grad():
        exact = lived("mobilenetv2_100", torch.float64)(image.double()).logits
        plain = model(image).logits
        found = fold(model)(image).logits
    scale = exact.abs().max()
    assert (found - exact).abs().max() / scale < 1e-5
    assert (found - exact).abs().max() < 4 * (plain - exact).abs().max() + 1e-7


def test_a_convolution_with_a_bias_and_one_that_others_read_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.pool = nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.bn(self.a(x))
            return self.pool(y.relu())

    torch.manual_seed(0)
    net = Net().eval().double()
    for bn in (net.bn, net.pool):
        nn.init.normal_(bn.running_mean)
        nn.init.uniform_(bn.running_var, 0.5, 2)
    image = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        expected = net(image)
        assert _pairs(net) == {net.bn: net.a}
        found = fold(net)(image)
    assert torch.allclose(found, expected, atol=1e-12)
    assert isinstance(net.pool, nn.BatchNorm2d)  # its input is no convolution's output: it stays


def test_dropout_stays_where_it_was():
    model = fold(lived("mobilenetv2_100", dropout=0.5))
    assert [module.p for module in model.modules() if isinstance(module, nn.Dropout)] == [0.5]
