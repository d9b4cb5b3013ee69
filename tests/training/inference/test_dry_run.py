"""What a network makes of an image's size, without memory: the logits' grid, and images that are too small."""

import pytest
import torch

from querying.base.errors import UserError
from training.inference.dry_run import check_sizes, least_side, logit_grid
from training.network.deeplab import build_model
from training.settings.training import ModelSettings

SMALL = {"aspp_channels": 8, "decoder_channels": 8, "low_level_channels": 8, "embedding_dim": 6, "weights": "none"}


def settings(name, decoder, stride):
    return ModelSettings(**SMALL, encoder=name, decoder=decoder, output_stride=stride)


def up(side, stride):
    return -(-side // stride)


@pytest.mark.parametrize(
    ("name", "decoder", "stride", "padded", "cells"),
    [
        ("mobilenetv2_100", "plus", 16, (46, 70), (up(46, 4), up(70, 4))),
        ("mobilenetv2_100", "none", 16, (46, 70), (up(46, 16), up(70, 16))),
        ("resnet18", "none", 8, (46, 70), (up(46, 8), up(70, 8))),
        ("resnet18", "mlp", 16, (46, 70), (up(46, 4), up(70, 4))),
        ("resnet18", "linear", 8, (46, 70), (up(46, 8), up(70, 8))),
        ("resnet18", "dpt", 16, (46, 70), (2 * up(46, 4), 2 * up(70, 4))),
        ("convnext_atto", "mlp", 32, (64, 96), (16, 24)),
        ("vit_small_patch14_dinov2", "dpt", 14, (56, 70), (32, 40)),
        ("vit_small_patch14_dinov2", "linear", 14, (56, 70), (4, 5)),
        ("vit_tiny_patch16_224", "dpt", 16, (48, 80), (24, 40)),
        ("vit_tiny_patch16_224", "mlp", 16, (48, 80), (3, 5)),
    ],
)
def test_the_grid_is_that_of_the_decoder_and_of_the_padded_image(name, decoder, stride, padded, cells):
    """By hand; 8 cells for a patch with DPT on a plain transformer, which are 1.75 pixels where it has 14."""
    state = torch.random.get_rng_state()
    assert logit_grid(settings(name, decoder, stride), (46, 70)) == (padded, cells)
    assert torch.equal(torch.random.get_rng_state(), state)


@torch.inference_mode()
def test_the_grid_is_that_of_the_network_with_memory():
    """Whole patches: nothing is padded, so that `forward` gives the decoder's own cells."""
    for name, decoder, stride in (("vit_small_patch14_dinov2", "dpt", 14), ("resnet18", "dpt", 32)):
        chosen = settings(name, decoder, stride)
        found = build_model(chosen, 3, embedding=False).eval()(torch.zeros(1, 3, 56, 84)).logits
        assert logit_grid(chosen, (56, 84)) == ((56, 84), tuple(found.shape[2:]))


def test_an_encoder_of_ones_own_says_its_grid_by_running(tmp_path, monkeypatch):
    (tmp_path / "dry_run_encoder.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, stride):\n"
        "        super().__init__()\n"
        "        self.channels = (4, 6)\n"
        "        self.low = torch.nn.Conv2d(3, 4, 9, 4, 3)\n"  # needs an image of at least 3 pixels a side
        "        self.deep = torch.nn.Conv2d(4, 6, 3, stride // 4, 1)\n"
        "    def forward(self, x):\n"
        "        low = self.low(x + torch.ones(3, 1, 1).numpy().sum() * 0)\n"  # which goes with memory alone
        "        return low, self.deep(low)\n"
        "def make(output_stride, drop_path):\n"
        "    return Net(output_stride)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    chosen = settings("dry_run_encoder:make", "linear", 8)
    assert logit_grid(chosen, (44, 60)) == ((44, 60), (6, 8))
    assert least_side(chosen, 2) == 3
    with pytest.raises(UserError, match=r"takes no images of 2x40 pixels: RuntimeError: .*Kernel size"):
        logit_grid(chosen, (2, 40))


def test_a_network_that_is_given_too_small_images_says_the_least():
    """PVT reduces its keys by 8 at stride 4, which is the eighth cell: it begins at pixel 28."""
    chosen = settings("pvt_v2_b0", "plus", 32)
    check_sizes(chosen, [("the data", (29, 29)), ("train.crop", (64, 64))])
    with pytest.raises(UserError) as caught:
        check_sizes(chosen, [("the data", (64, 64)), ("train.crop", (28, 64))])
    assert str(caught.value) == (
        "train.crop: 28x64 pixels are too few, model.backbone=pvt_v2_b0 needs at least 29 a side: make them larger,"
        " or take another encoder"
    )
    check_sizes(settings("vit_tiny_patch16_224", "dpt", 16), [("the data", (3, 5))])
