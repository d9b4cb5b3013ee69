"""The optimiser's groups against timm's own, over the whole network, and by hand."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from querying.base.errors import UserError
from tests.training.network.test_model import small_model
from training.fit import groups
from training.fit.groups import _layers, check_layers, parameter_groups
from training.network.timm_encoder import TimmEncoder
from training.settings.training import ModelSettings, TrainSettings


def network_of(name):
    """A network whose encoder is timm's `name`, and a layer that timm's has not."""
    model = small_model()
    if name != model.backbone:
        model.backbone = name
        model.encoder = TimmEncoder(name, 16 if "vit" in name else 32, 0.0, maps=4)
        model.encoder.extra = nn.LayerNorm(4)
    return model


def by_parameter(groups):
    return {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}


def test_by_default_there_are_two_groups_of_all_that_is_trained():
    pair = nn.ModuleList([small_model(), small_model(), small_model().requires_grad_(False)])
    backbone, heads = parameter_groups(pair, TrainSettings(lr=0.01, head_lr_scale=10, weight_decay=1e-4))
    assert {id(p) for p in backbone["params"]} == {id(p) for model in pair[:2] for p in model.encoder.parameters()}
    everything = sorted(id(p) for p in (*backbone["params"], *heads["params"]))
    assert everything == sorted(id(p) for model in pair[:2] for p in model.parameters())
    assert [(one["lr"], one["lr_scale"], one["weight_decay"]) for one in (backbone, heads)] == [
        (0.01, 1, 1e-4),
        (0.1, 10, 1e-4),
    ]
    assert len(parameter_groups(small_model(), TrainSettings(head_lr_scale=1))) == 2


@pytest.mark.parametrize("name", ["mobilenetv2_100", "convnext_atto", "vit_tiny_patch16_224"])
def test_layers_and_decay_are_those_of_timm_over_the_whole_network(name):
    model = network_of(name)
    train = TrainSettings(optimizer="adamw", lr=1e-3, head_lr_scale=5, weight_decay=0.05, layer_decay=0.7)
    found = by_parameter(parameter_groups(model, train))
    assert set(found) == {id(p) for p in model.parameters()}

    whole = timm.create_model(name)
    spared = whole.no_weight_decay() if hasattr(whole, "no_weight_decay") else ()
    theirs = param_groups_layer_decay(whole, 0.05, no_weight_decay_list=spared, layer_decay=0.7)
    expected = by_parameter(theirs)
    wanted = {key.replace(".", "_"): expected[id(p)] for key, p in whole.named_parameters()}
    seen = 0
    for key, parameter in model.encoder.named_parameters():
        if key.startswith("extra."):  # as timm has what it does not know, beside the heads
            assert found[id(parameter)] == (1.0, 0.0)
            continue
        flat = key.removeprefix("net.").removeprefix("model.").replace(".", "_")
        scale, decay = wanted[flat]
        assert found[id(parameter)] == (pytest.approx(scale), decay), key
        seen += 1
    assert seen > 50
    for key, parameter in model.named_parameters():
        if not key.startswith("encoder."):
            assert found[id(parameter)] == (5, 0.05 if parameter.ndim > 1 else 0.0), key


def test_rates_of_a_transformers_layers_by_hand():
    model = network_of("vit_tiny_patch16_224")
    layers = _layers(model)
    net = "net.model."
    assert {layers[f"{net}{key}"] for key in ("cls_token", "pos_embed", "patch_embed.proj.weight")} == {0}
    assert [layers[f"{net}blocks.{block}.attn.qkv.weight"] for block in range(12)] == list(range(1, 13))
    assert layers[f"{net}norm.weight"] == 12
    found = parameter_groups(model, TrainSettings(optimizer="adamw", lr=2.0, layer_decay=0.5, weight_decay=0.1))
    rate = {id(p): (group["lr"], group["weight_decay"]) for group in found for p in group["params"]}
    encoder = model.encoder.net.model
    assert rate[id(encoder.pos_embed)] == (2.0 * 0.5**13, 0.0)
    assert rate[id(encoder.cls_token)] == (2.0 * 0.5**13, 0.0)
    assert rate[id(encoder.patch_embed.proj.weight)] == (2.0 * 0.5**13, 0.1)
    assert rate[id(encoder.blocks[0].mlp.fc1.weight)] == (2.0 * 0.5**12, 0.1)
    assert rate[id(encoder.blocks[11].mlp.fc1.weight)] == (1.0, 0.1)
    assert rate[id(encoder.blocks[11].mlp.fc1.bias)] == (1.0, 0.0)


def test_what_weight_decay_is_of():
    """By default of all with SGD and of timm's `param_groups_weight_decay` with AdamW; either on request."""
    model = network_of("vit_tiny_patch16_224")
    whole = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    _, decayed = param_groups_weight_decay(whole, 0.1, no_weight_decay_list=whole.no_weight_decay())
    for settings, count in (
        ({}, None),
        ({"decayed": "all", "optimizer": "adamw"}, None),
        ({"optimizer": "adamw"}, len(decayed["params"])),
        ({"decayed": "weights"}, len(decayed["params"])),
    ):
        found = parameter_groups(model, TrainSettings(weight_decay=0.1, **settings))
        own = {id(p) for p in model.encoder.net.model.parameters()}
        shrunk = [p for group in found if group["weight_decay"] for p in group["params"] if id(p) in own]
        assert len(shrunk) == (count or len(own)), settings


def test_an_encoder_that_names_no_layers_is_refused_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    channels = (4, 6)\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.low, self.deep = torch.nn.Conv2d(3, 4, 4, 4), torch.nn.Conv2d(4, 6, 4, 4)\n"
        "    def forward(self, x):\n"
        "        low = self.low(x)\n"
        "        return [low, self.deep(low)]\n"
        "class Layered(Net):\n"
        "    def group_matcher(self, coarse=False):\n"
        "        return {'stem': r'^low', 'blocks': [(r'^deep', (0,))]}\n"
        "def net(output_stride, drop_path):\n"
        "    return Net()\n"
        "def layered(output_stride, drop_path):\n"
        "    return Layered()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    small = {"aspp_channels": 8, "decoder_channels": 8, "low_level_channels": 8, "weights": "none"}
    with pytest.raises(UserError, match=r"^train\.layer_decay: model\.backbone=own_net:net .* train\.layer_decay=1$"):
        check_layers(ModelSettings(backbone="own_net:net", **small))
    check_layers(ModelSettings(backbone="own_net:layered", **small))
    model = small_model()
    model.backbone, model.encoder = "own_net:layered", __import__("own_net").layered(16, 0)
    found = by_parameter(parameter_groups(model, TrainSettings(layer_decay=0.5)))
    assert found[id(model.encoder.low.weight)][0] == 0.25
    assert found[id(model.encoder.deep.weight)][0] == 0.5


def test_looking_at_timms_network_draws_nothing():
    model = small_model()
    groups._timm_rules.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    parameter_groups(model, TrainSettings(optimizer="adamw", layer_decay=0.5))
    assert torch.equal(torch.rand(4), expected)
