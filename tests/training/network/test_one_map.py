"""Networks with the decoders `dpt`, `linear` and `mlp`: sizes, gradients, inference and what reads the joined map."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from querying.base.errors import UserError
from tests.training.tiny import batch, step, total
from training.inference.dropout_passes import dropout_passes
from training.inference.predictor import Predictor, for_inference
from training.methods.registry import METHODS
from training.network.deeplab import build_model, normalise
from training.network.encoder_check import check_encoder
from training.network.one_map import OneMapNetwork
from training.settings.training import ModelSettings

VIT = {"backbone": "test_vit", "output_stride": 16}
CNN = {"backbone": "mobilenetv2_100", "output_stride": 16}
PYRAMID = {"backbone": "test_convnext", "output_stride": 32}
ENCODERS = {"a plain transformer": VIT, "a CNN": CNN, "a pyramid": PYRAMID}
DECODERS = ("dpt", "linear", "mlp")
SMALL = {"weights": "none", "decoder_channels": 8, "embedding_dim": 6, "dropout": 0.0}
EVERY = list(itertools.product(ENCODERS, DECODERS))
SIDES = {  # of the logits of an image of 64x96
    ("a plain transformer", "dpt"): (32, 48),
    ("a plain transformer", "linear"): (4, 6),
    ("a plain transformer", "mlp"): (4, 6),
    ("a CNN", "dpt"): (32, 48),
    ("a CNN", "linear"): (4, 6),
    ("a CNN", "mlp"): (16, 24),
    ("a pyramid", "dpt"): (32, 48),
    ("a pyramid", "linear"): (2, 3),
    ("a pyramid", "mlp"): (16, 24),
}


def network(encoder, decoder, *, embedding=False, **changes):
    torch.manual_seed(0)
    settings = ModelSettings(**{**SMALL, **ENCODERS[encoder], "decoder": decoder, **changes})
    return build_model(settings, 5, embedding=embedding)


def images(size=(64, 96), count=2):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("encoder", "decoder"), EVERY)
def test_every_parameter_is_trained_and_both_heads_have_the_size_that_is_said(encoder, decoder):
    model = network(encoder, decoder, embedding=True)
    output = model(images())
    assert isinstance(model, OneMapNetwork)
    assert output.logits.shape == (2, 5, *SIDES[encoder, decoder])
    assert output.embedding.shape == (2, 6, *SIDES[encoder, decoder])
    (output.logits.square().sum() + output.embedding.square().sum()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    (joined,) = model.eval().neck(*model.encode(images()))
    assert model.widths() == (5, joined.shape[1], 6, 0)


@pytest.mark.parametrize(("encoder", "decoder"), EVERY)
def test_the_folded_network_is_the_trained_one(encoder, decoder):
    model = network(encoder, decoder, head_init="pytorch")
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                    nn.init.uniform_(tensor, 0.5, 1.5)
    model.eval()
    x = images((61, 90), 1)
    with torch.inference_mode():
        expected = model(x).logits
        found = for_inference(model, torch.device("cpu"), "fp32")(x).logits
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize(("encoder", "decoder"), EVERY)
def test_passes_with_dropout_differ_and_features_are_the_mean_of_the_joined_map(encoder, decoder, monkeypatch):
    model = network(encoder, decoder, dropout=0.5).eval()
    x = images((64, 96), 1)
    with torch.inference_mode():
        first, second = ([z.clone() for z in one] for one in dropout_passes(model, [x], 2, 7))
        again = next(iter(dropout_passes(model, [x], 1, 7)))
        (joined,) = model.neck(*model.encode(x))
        torch.manual_seed(8)
        expected = model.heads(nn.functional.dropout(joined, 0.5)).logits
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], second[0])
    torch.testing.assert_close(second[0], expected)

    monkeypatch.setattr("training.inference.predictor.load_network", lambda checkpoint, modules=None: model)
    predict = Predictor(None, "cpu")
    pixels = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits, features = predict.with_features(pixels)
    with torch.inference_mode():
        (joined,) = predict.model.neck(*predict.model.encode(normalise(pixels)))
    np.testing.assert_allclose(features.numpy(), joined.double().numpy().mean((2, 3)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits, predict(pixels))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["supervised", "unimatch", "unimatch_v2", "cct", "u2pl", "mean_teacher"])
def test_methods_train_every_parameter_on_a_transformer_whose_images_are_padded(name, decoder):
    """8x8 images, one patch of 16; ReCo and U2PL's contrast read the same map as the classifier."""
    model = network("a plain transformer", decoder)
    assert model.multiple == 16
    here = step(methods={"u2pl": {"memory": 40, "anchors": 5, "negatives": 6, "low_rank": 2, "contrast": 1.0},
                         "cct": {"noise": 1, "dropout": 1, "drop": 1, "vat": 1},
                         "unimatch_v2": {"threshold": 0.0}, "unimatch": {"threshold": 0.0}})  # fmt: skip
    seeds = itertools.count()

    def new(embedding):
        torch.manual_seed(next(seeds))
        settings = ModelSettings(**{**SMALL, **VIT, "decoder": decoder})
        return build_model(settings, 3, embedding=embedding)

    trained = METHODS[name](new, here)
    one = batch(pool=2, views=trained.strong_views)
    parts = trained(one, here)
    assert all(torch.isfinite(part) for part in parts.values())
    total(parts).backward()
    assert [key for key, p in trained.named_parameters() if p.requires_grad and p.grad is None] == []


def test_a_network_without_four_maps_has_no_such_decoder():
    with pytest.raises(ValueError, match="decoder=dpt reads four maps"):
        ModelSettings(backbone="mine:encoder", weights="none", decoder="dpt")
    with pytest.raises(ValueError, match="class_head=deal is of decoder=plus"):
        ModelSettings(decoder="linear", class_head="deal")
    with pytest.raises(UserError, match=r"model\.decoder=dpt"):  # the remedy
        check_encoder(ModelSettings(**VIT, weights="none"))
    check_encoder(ModelSettings(**VIT, weights="none", decoder="dpt"))
