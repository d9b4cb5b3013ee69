import pytest
import torch
from timm.layers import DropPath
from torch import nn

from training.inference.dropout_passes import dropout_passes
from training.inference.predictor import Predictor
from training.network.deeplab import build_model
from training.settings.training import ModelSettings

SMALL = {"weights": "none", "aspp_channels": 8, "decoder_channels": 8, "low_level_channels": 8}


def network(**changes):
    torch.manual_seed(0)
    model = build_model(ModelSettings(**{**SMALL, **changes}), 4, embedding=False).eval()
    with torch.no_grad():  # a fresh network is nearly sure of nothing: make its draws visible
        model.class_head.out.weight.mul_(50)
    return model


def image(seed=0, size=(32, 48)):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def logits(model, inputs, passes=3, seed=7):
    return [torch.cat([z.flatten() for z in one]) for one in dropout_passes(model, inputs, passes, seed)]


MODELS = {
    "dropout": {},
    "dropped paths too": {"drop_path": 0.3},
    "dropped paths alone": {"drop_path": 0.3, "dropout": 0.0},
    "dropout without a decoder": {"decoder": "none"},
}


@pytest.mark.parametrize("which", MODELS)
def test_passes_differ_from_each_other_and_repeat_for_the_same_seed(which):
    model, inputs = network(**MODELS[which]), [image(), image(1, (16, 24))]
    first = logits(model, inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, logits(model, inputs), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], logits(model, inputs, seed=8)[0])
    assert torch.equal(first[1], logits(model, inputs, passes=2)[1])  # more passes change no earlier one


@pytest.mark.parametrize("which", MODELS)
def test_a_pass_is_that_of_the_network_with_only_its_random_modules_in_training_mode(which):
    """A second derivation: the whole network, from the image on, for every pass."""
    model, inputs = network(**MODELS[which]), [image(), image(1, (16, 24))]
    found = logits(model, inputs)
    for module in model.modules():
        if isinstance(module, (nn.Dropout, DropPath)):
            module.train()
    for number, one in enumerate(found):
        torch.manual_seed(7 + number)
        with torch.inference_mode():
            if model.aspp.dropout.p and "paths" in which:  # draws of the encoder come first, for all inputs
                necks = [model.aspp.dropout.eval() and model.neck(*model.encode(x)) for x in inputs]
                model.aspp.dropout.train()
                expected = [model.heads(model.aspp.dropout(a), low).logits.flatten() for a, low in necks]
            else:
                expected = [model(x).logits.flatten() for x in inputs]
        torch.testing.assert_close(one, torch.cat(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", MODELS)
def test_the_network_and_the_generator_are_left_as_they_were(which):
    model = network(**MODELS[which])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with torch.inference_mode():
        for _ in dropout_passes(model, [image()], 2, 7):
            assert not any(module.training for module in model.modules())  # whenever the caller has control
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # BatchNorm's, too


def predictor(monkeypatch, **changes):
    monkeypatch.setattr(
        "training.inference.predictor.load_network", lambda checkpoint, modules=None: network(**changes)
    )
    return Predictor(None, "cpu")


def test_an_ordinary_pass_after_them_is_what_it_was(monkeypatch):
    predict = predictor(monkeypatch, drop_path=0.2)
    x = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = predict(x, 1.0)
    passes = list(predict.dropout_passes(x, (1.0, 0.5), 3, 11))
    assert [[tuple(z.shape) for z in one] for one in passes] == [[(1, 4, 8, 12), (1, 4, 4, 6)]] * 3
    assert torch.equal(predict(x, 1.0), before)
    assert not torch.equal(passes[0][0], before)


def test_the_mean_of_many_passes_is_near_the_ordinary_one(monkeypatch):
    """Dropout keeps the mean of its input; what follows is nearly linear for a small p."""
    predict = predictor(monkeypatch, dropout=0.05)
    x = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean = torch.stack([one[0] for one in predict.dropout_passes(x, (1.0,), 400, 3)]).mean(0)
    spread = predict(x, 1.0)
    assert (mean - spread).abs().mean() < 0.05 * spread.std()


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_features_are_the_mean_of_what_the_class_head_reads_and_the_logits_are_the_ordinary_ones(monkeypatch, scale):
    found = predictor(monkeypatch)
    images = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    logits_BChw, features_BD = found.with_features(images, scale)
    assert torch.equal(logits_BChw, found(images, scale))
    seen = []
    hook = found.model.aspp.register_forward_hook(lambda module, args, output: seen.append(output))
    found(images, scale)
    hook.remove()
    expected = seen[0].double().numpy().mean(axis=(2, 3))
    assert features_BD.dtype == torch.float32
    assert features_BD.numpy() == pytest.approx(expected, abs=1e-5)
    assert features_BD.std(dim=0).max() > 0
