"""The network and the padding of the authors' code, each against the plain form; ours stays what it was."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from querying.dataset.label_values import IGNORE
from querying.scoring.upsampling import log_probabilities
from training.batches.augment_cpu import weak
from training.batches.strong_view import draw_labelled_look
from training.inference.folding import fold_batch_norm, fuse_activations
from training.losses.upsampled import upsampled_cross_entropy
from training.network.decoder import UpsampleConcatConv
from training.network.deeplab import build_model
from training.settings.training import AugmentSettings, ModelSettings

SMALL = {"weights": "none", "aspp_channels": 8, "decoder_channels": 8, "low_level_channels": 8, "embedding_dim": 8}
AUTHORS = {"head_init": "pytorch", "dilation": "last", "align_corners": True}


def network(**changes):
    torch.manual_seed(0)
    return build_model(ModelSettings(**SMALL, **changes), 5, embedding=False)


def plain(conv, aspp, low):
    up = F.interpolate(aspp, low.shape[2:], mode="bilinear", align_corners=True)
    return F.conv2d(torch.cat([up, low], 1), conv.weight, padding=1)


def test_the_cheap_decoder_is_the_plain_one_with_aligned_corners_forward_and_backward():
    g = torch.Generator().manual_seed(0)
    conv = UpsampleConcatConv(4, 3, 5).double()
    conv.align_corners = True
    aspp, low = (torch.randn(2, *shape, generator=g, dtype=torch.float64) for shape in ((4, 3, 4), (3, 10, 15)))
    aspp.requires_grad_()
    found = conv(aspp, low)
    torch.testing.assert_close(found, plain(conv, aspp, low))
    ours, theirs = (torch.autograd.grad(y.square().sum(), aspp)[0] for y in (found, plain(conv, aspp, low)))
    torch.testing.assert_close(ours, theirs)
    conv.fused = False
    torch.testing.assert_close(conv(aspp, low), found)
    conv.align_corners = False
    assert not torch.allclose(conv(aspp, low), found)


def test_losses_and_scores_upsample_with_aligned_corners():
    g = torch.Generator().manual_seed(0)
    z = torch.randn(2, 5, 4, 6, generator=g, dtype=torch.float64).requires_grad_()
    target = torch.randint(0, 5, (2, 15, 23), generator=g).byte()
    full = F.interpolate(z, (15, 23), mode="bilinear", align_corners=True)
    expected = F.cross_entropy(full, target.long(), reduction="sum")
    found = upsampled_cross_entropy(z, target, align_corners=True)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    slopes = [torch.autograd.grad(cost, z, retain_graph=True)[0] for cost in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-6)
    scores = log_probabilities([z.detach()], 15, 23, align_corners=True)
    torch.testing.assert_close(scores.double(), full.log_softmax(1), rtol=1e-5, atol=1e-5)


def test_only_the_last_block_is_dilated_and_the_size_stays():
    def dilated(model):
        return [
            name for name, one in model.encoder.named_modules() if isinstance(one, nn.Conv2d) and max(one.dilation) > 1
        ]

    ours, theirs = network().eval(), network(dilation="last").eval()
    assert [name.split(".")[1] for name in dilated(ours)] == ["5", "5", "6"]
    assert [name.split(".")[1] for name in dilated(theirs)] == ["6"]
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    image = torch.zeros(1, 3, 64, 96)
    assert [x.shape for x in ours.encode(image)] == [x.shape for x in theirs.encode(image)]


def test_first_weights_are_kaimings_or_pytorchs():
    """3x3 convolution of 16 channels: Kaiming sqrt(2 / 144), PyTorch's U(-1 / 12, 1 / 12), so sqrt(1 / 432), 2.45 times
    less; 1x1 of the class head: 0.01, sqrt(2 / 8), and sqrt(1 / 24)."""
    for name, wide, last in (("ours", (2 / 144) ** 0.5, 0.01), ("kaiming", (2 / 144) ** 0.5, 0.5),
                             ("pytorch", 432**-0.5, 24**-0.5)):  # fmt: skip
        head = network(head_init=name).class_head
        assert head.conv.weight.std().item() == pytest.approx(wide, rel=0.1)
        assert head.out.weight.std().item() == pytest.approx(last, rel=0.4)
    assert pytest.approx(2.45, abs=0.005) == (2 / 144) ** 0.5 * 432**0.5


@pytest.mark.parametrize("changes", [AUTHORS, {"class_head": "deal", "align_corners": True}])
def test_folding_and_fusing_keep_the_authors_network(changes):
    model = network(**changes).eval()
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.copy_(torch.randn(norm.running_mean.shape, generator=g) / 10)
                norm.running_var.copy_(1 + torch.rand(norm.running_var.shape, generator=g))
        image = torch.randn(1, 3, 64, 96, generator=g)
        expected = model(image).logits
        fold_batch_norm(model)
        fuse_activations(model)
        torch.testing.assert_close(model(image).logits, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_deals_head_has_two_convolutions_and_two_dropouts_and_an_older_checkpoint_has_one():
    names = {name for name, _ in network(class_head="deal").class_head.named_parameters()}
    plain_names = {name for name, _ in network().class_head.named_parameters()}
    assert names - plain_names == {"conv2.weight", "bn2.weight", "bn2.bias"}
    found = [module.p for module in network(class_head="deal").class_head.modules() if isinstance(module, nn.Dropout)]
    assert found == [0.5, 0.2]
    assert (
        ModelSettings.model_validate({"backbone": "mobilenetv2_100"}).class_head == "plain"
    )  # its meta.json says none
    with pytest.raises(ValueError, match="class_head=deal is of decoder=plus"):
        ModelSettings(class_head="deal", decoder="none")


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("padding", ["corner", "centre", "reflect"])
def test_padding_is_where_and_what_the_code_says_and_is_never_learned(padding, flip):
    image = np.arange(1, 13, dtype=np.uint8).reshape(3, 4, 1).repeat(3, 2)
    target = (np.arange(12) % 5).reshape(3, 4).astype(np.uint8)
    settings = AugmentSettings(scale_min=1, scale_max=1, flip=flip, padding=padding)
    found, labels = weak(image, target, crop=(6, 7), settings=settings, rng=np.random.default_rng(0))
    rows, columns = {"corner": ((0, 3), (0, 3)), "centre": ((2, 1), (2, 1)), "reflect": ((0, 3), (0, 3))}[padding]
    how = {"mode": "reflect"} if padding == "reflect" else {}
    expected = np.pad(image, (rows, columns, (0, 0)), **how)
    expected_labels = np.pad(target, (rows, columns), constant_values=IGNORE)
    if flip:
        expected, expected_labels = expected[:, ::-1], expected_labels[:, ::-1]
    assert np.array_equal(found, expected)
    assert np.array_equal(labels, expected_labels)


def test_labelled_images_change_their_colours_as_often_as_s4als_code_has_it():
    """Half of them, brightness and contrast by 0.75 to 1.25; without it nothing is drawn."""
    rng = np.random.default_rng(0)
    settings = AugmentSettings(colour_labelled=0.5, jitter=(0.25, 0.25, 0, 0))
    looks = [draw_labelled_look((6, 6), settings, rng) for _ in range(2000)]
    coloured = [look for look in looks if look.coloured]
    assert len(coloured) / len(looks) == pytest.approx(0.5, abs=0.04)
    assert all(0.75 <= value <= 1.25 for look in coloured for value in (look.brightness, look.contrast))
    assert not any(look.sigma or any(look.hole) or look.grey or look.hue for look in looks)
    before = rng.bit_generator.state
    assert draw_labelled_look((6, 6), AugmentSettings(), rng) == draw_labelled_look((6, 6), AugmentSettings(), rng)
    assert rng.bit_generator.state == before
