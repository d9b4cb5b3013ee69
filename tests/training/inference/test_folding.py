"""The network that scores is the one that was trained: folding changes it by rounding alone."""

import copy

import pytest
import torch
from torch import nn

from training.inference.folding import ConvAct, fold_batch_norm, fuse_activations, round_to_bf16
from training.inference.predictor import Predictor, load_network
from training.network.checkpoint import load_model, save_model
from training.network.deeplab import ConvBNReLU, build_model, normalise
from training.settings.training import ModelSettings

BACKBONES = [("mobilenetv2_100", 16), ("resnet50", 8), ("resnet101s", 8)]
SMALL = {"aspp_channels": 16, "decoder_channels": 16, "low_level_channels": 8, "weights": "none"}


def settled(backbone="mobilenetv2_100", stride=16, classes=5, *, gain=1.0, decoder="plus"):
    """A network whose BatchNorms have seen something: none of their four vectors is what it starts as."""
    torch.manual_seed(0)
    settings = ModelSettings(backbone=backbone, output_stride=stride, decoder=decoder, **SMALL)
    model = build_model(settings, classes, embedding=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.8, 1.2)
                module.bias.uniform_(-0.3, 0.3)
                module.momentum = None  # the mean of all that it sees
        model.train()(image(2, seed=3))  # activations of a trained network's size, or a deep one would only round
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.add_(torch.randn_like(module.running_mean) * 0.05)
                module.running_var.mul_(torch.rand_like(module.running_var) * 0.4 + 0.8)
        model.class_head.out.weight.mul_(gain)
    return settings, model.eval()


def image(batch, seed=1):
    return torch.randn(batch, 3, 65, 94, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("backbone", "stride", "decoder"), [(*b, "plus") for b in BACKBONES] + [("resnet50", 8, "none")]
)
@torch.inference_mode()
def test_the_folded_network_gives_the_logits_of_the_plain_one(backbone, stride, decoder):
    """To 1e-10 in float64; in float32 it is at most four times as far from that as the plain one, or 1e-5."""
    model, x = settled(backbone, stride, decoder=decoder)[1], image(1)
    exact_model = copy.deepcopy(model).double()
    exact = exact_model(x.double()).logits
    fold_batch_norm(exact_model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in exact_model.modules())
    torch.testing.assert_close(exact_model(x.double()).logits, exact, rtol=0, atol=1e-10 * exact.abs().max().item())

    tolerance = max(4 * (model(x).logits - exact).norm(), 1e-5 * exact.norm())
    fold_batch_norm(model)
    assert (model(x).logits - exact).norm() <= tolerance
    fuse_activations(model)
    assert (model(x).logits - exact).norm() <= tolerance


@torch.inference_mode()
def test_activations_are_applied_by_the_convolutions_that_they_follow():
    model = settled()[1]
    fold_batch_norm(model)
    fuse_activations(model)
    kinds = [module.kind for module in model.modules() if isinstance(module, ConvAct)]
    assert (kinds.count("hardtanh"), kinds.count("relu")) == (34, 7)  # all of the encoder; all but the head's


@torch.inference_mode()
def test_an_activation_of_a_sum_stays_where_it_is():
    """The last ReLU of a residual block reads two branches."""
    model = settled("resnet50", 8)[1]
    fold_batch_norm(model)
    fuse_activations(model)
    assert sum(isinstance(module, nn.ReLU) for module in model.encoder.modules()) == 16


def test_a_network_in_training_or_a_lonely_batch_norm_is_refused():
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_batch_norm(settled()[1].train())
    with pytest.raises(ValueError, match="1: it does not follow"):
        fold_batch_norm(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)).append(nn.Conv2d(3, 3, 1)).eval())
    shared = nn.Conv2d(3, 3, 1)
    with pytest.raises(ValueError, match="it does not follow"):
        fold_batch_norm(Twice(shared).eval())


class Twice(nn.Module):
    """One convolution's output under two BatchNorms."""

    def __init__(self, conv):
        super().__init__()
        self.conv, self.one, self.two = conv, nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.one(y) + self.two(y)


def test_a_bias_before_the_batch_norm_is_folded_too():
    torch.manual_seed(0)
    pair = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double().eval()
    pair[1].running_mean.normal_()
    pair[1].running_var.uniform_(0.5, 2)
    x = image(1).double()
    plain = pair(x)
    fold_batch_norm(pair)
    torch.testing.assert_close(pair(x), plain, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    settings, model = settled(gain=200)
    folder = tmp_path_factory.mktemp("checkpoint")
    meta = {"model": settings.model_dump(mode="json"), "classes": list("abcde")}
    save_model(folder, model.state_dict(), meta)
    return folder, model


def pixels(batch=2):
    return torch.randint(256, (batch, 3, 97, 126), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)


@pytest.mark.parametrize("scale", [1.0, 0.5, 2.0])
def test_the_predictor_is_the_checkpoints_network_at_every_scale(checkpoint, scale):
    folder, model = checkpoint
    x = normalise(pixels())
    size = [round(side * scale) for side in x.shape[2:]]
    with torch.inference_mode():
        expected = model(torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=False)).logits
    found = Predictor(folder, "cpu")(pixels(), scale)
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_bf16_keeps_the_classes_of_a_sure_network_and_gives_float32_logits(checkpoint):
    exact = Predictor(checkpoint[0], "cpu")(pixels())
    rough = Predictor(checkpoint[0], "cpu", precision="bf16")(pixels())
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert len(exact.argmax(1).unique()) >= 3  # not one class everywhere
    assert (rough.argmax(1) == exact.argmax(1)).float().mean() > 0.97
    assert (rough - exact).norm() < 0.1 * exact.norm()
    assert rough.unique().numel() > 0.5 * rough.numel()  # the class scores themselves are not rounded


def test_bf16_keeps_an_encoder_whose_first_block_cancels(tmp_path):
    """As in MobileNetV2 from ImageNet: the first depthwise convolution's mean is ten times its spread, which rounding
    to 8 bits would swallow."""
    settings, model = settled(gain=200)
    first = model.encoder.blocks[0][0]
    with torch.no_grad():
        first.conv_dw.weight.mul_(0.05).add_(1)  # nearly a box filter
        first.bn1.reset_running_stats()
        model.train()(normalise(pixels()))
    model.eval()
    assert (first.bn1.running_mean / first.bn1.running_var.sqrt()).median() > 1
    save_model(tmp_path, model.state_dict(), {"model": settings.model_dump(mode="json"), "classes": list("abcde")})
    exact = Predictor(tmp_path, "cpu")(pixels())
    off = (Predictor(tmp_path, "cpu", precision="bf16")(pixels()) - exact).norm()
    naive = load_network(tmp_path)
    fold_batch_norm(naive)
    with torch.inference_mode():
        round_to_bf16(naive, {"class_head.out": torch.float32})
        rounded = naive(normalise(pixels()).to(torch.bfloat16)).logits
    assert off < 0.75 * (rounded - exact).norm()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_predictor_of_a_network_without_decoder_is_that_network(tmp_path, precision):
    settings, model = settled(gain=200, decoder="none")
    save_model(tmp_path, model.state_dict(), {"model": settings.model_dump(mode="json"), "classes": list("abcde")})
    with torch.inference_mode():
        expected = model(normalise(pixels())).logits
    found = Predictor(tmp_path, "cpu", precision=precision)(pixels())
    assert found.shape == expected.shape == (2, 5, 7, 8)
    assert (found - expected).norm() < (1e-4 if precision == "fp32" else 0.2) * expected.norm()


def test_a_checkpoint_from_before_the_decoders_key_has_the_decoder(checkpoint, tmp_path):
    state, meta = load_model(checkpoint[0])
    del meta["model"]["decoder"]
    save_model(tmp_path, state, meta)
    assert torch.equal(Predictor(tmp_path, "cpu")(pixels()), Predictor(checkpoint[0], "cpu")(pixels()))


def test_folding_leaves_nothing_to_a_copy(checkpoint):
    model = copy.deepcopy(checkpoint[1])
    before = {name: tensor.clone() for name, tensor in checkpoint[1].state_dict().items()}
    fold_batch_norm(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in checkpoint[1].state_dict().items())
    assert isinstance(checkpoint[1].low_level, ConvBNReLU)
