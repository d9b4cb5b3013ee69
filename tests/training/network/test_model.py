"""The network's shapes, its two decoder forms, and weights that come from a file."""

import os
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from querying.base.errors import InfrastructureError, UserError
from training.kernels.depthwise import SparseDepthwiseConv
from training.network.backbones import build_encoder
from training.network.decoder import UpsampleConcatConv
from training.network.deeplab import DeepLabV3Plus, build_model, normalise
from training.network.first_weights import download_backbone, load_backbone
from training.network.normalisation import IMAGENET_MEAN, IMAGENET_STD
from training.settings.training import ModelSettings

SMALL = {"aspp_channels": 8, "decoder_channels": 8, "low_level_channels": 8, "embedding_dim": 6}


def small_model(*, embedding: bool = True, seed: int = 0, **settings) -> DeepLabV3Plus:
    torch.manual_seed(seed)
    return build_model(ModelSettings(**{**SMALL, **settings}), 5, embedding=embedding)


def image(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize(
    ("small", "large"), [((23, 31), (90, 121)), ((4, 6), (16, 24)), ((1, 3), (2, 9)), ((5, 4), (5, 4))]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_fused_decoder_is_the_plain_one_forward_and_backward(small, large, layout):
    torch.manual_seed(0)
    conv = UpsampleConcatConv(5, 3, 4).double()
    aspp = image(2, 5, *small, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    low = image(2, 3, *large, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    results = []
    for conv.fused in (False, True):
        out = conv(aspp, low)
        results.append([out, *torch.autograd.grad(out, [aspp, low, conv.weight], out.detach().sin())])
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-10)


def test_the_fused_decoder_keeps_a_bias_as_folding_a_batch_norm_adds_one():
    conv = UpsampleConcatConv(5, 3, 4).double()
    conv.bias = torch.nn.Parameter(image(4, dtype=torch.float64))
    inputs = image(1, 5, 3, 4, dtype=torch.float64), image(1, 3, 9, 13, dtype=torch.float64)
    fused = conv(*inputs)
    conv.fused = False
    torch.testing.assert_close(fused, conv(*inputs), rtol=0, atol=1e-12)


def test_both_forms_have_the_parameters_of_an_ordinary_convolution():
    model = build_model(ModelSettings(), 11, embedding=True)
    state = model.class_head.conv.state_dict()
    assert {key: tuple(value.shape) for key, value in state.items()} == {"weight": (256, 304, 3, 3)}
    fused = list(model.state_dict())
    model.set_fused(False)
    assert list(model.state_dict()) == fused


def test_the_whole_network_is_the_same_in_both_forms():
    model = small_model().double().eval()
    x = image(1, 3, 70, 93, dtype=torch.float64)
    with torch.no_grad():
        fused = model(x)
        model.set_fused(False)
        plain = model(x)
    torch.testing.assert_close(fused, plain, rtol=0, atol=1e-10)
    assert fused.logits.abs().max() > 1e-6


@pytest.mark.parametrize("small", [(1, 1), (5, 7)])
def test_a_size_first_seen_in_inference_mode_can_be_trained_on_afterwards(small):
    conv = UpsampleConcatConv(2, 2, 2)
    aspp, low = image(1, 2, *small), image(1, 2, 19, 27)
    with torch.inference_mode():
        conv(aspp, low)
    conv(aspp.requires_grad_(), low).sum().backward()
    assert aspp.grad is not None


def test_under_autocast_both_forms_agree_to_half_precision():
    model = small_model().eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        fused = model(image(1, 3, 64, 64)).embedding
        model.set_fused(False)
        plain = model(image(1, 3, 64, 64)).embedding
    assert fused.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(fused, plain, rtol=0.05, atol=0.05 * plain.abs().max().item())


def test_the_encoder_has_no_other_dilated_or_strided_depthwise_convolution():
    sparse = [
        module
        for module in build_encoder(ModelSettings()).modules()
        if isinstance(module, nn.Conv2d) and module.groups > 1 and max(*module.stride, *module.dilation) > 1
    ]
    assert len(sparse) == 3 + 3
    assert all(isinstance(module, SparseDepthwiseConv) for module in sparse)


@pytest.mark.parametrize(
    ("backbone", "stride", "low", "deep"),
    [("mobilenetv2_100", 16, 24, 320), ("resnet50", 8, 256, 2048), ("resnet101s", 8, 256, 2048)],
)
def test_every_backbone_gives_maps_at_stride_4_rounded_up(backbone, stride, low, deep):
    model = small_model(backbone=backbone, output_stride=stride).eval()
    x = image(1, 3, 50, 67)
    with torch.no_grad():
        low_map, deep_map = model.encoder(x)
        output = model(x)
    assert tuple(low_map.shape) == (1, low, 13, 17)
    assert tuple(deep_map.shape) == (1, deep, -(-50 // stride), -(-67 // stride))
    assert tuple(output.logits.shape) == (1, 5, 13, 17)
    assert tuple(output.embedding.shape) == (1, 6, 13, 17)


@pytest.mark.parametrize(("backbone", "stride"), [("mobilenetv2_100", 16), ("resnet50", 8)])
def test_without_a_decoder_aspps_map_is_classified_at_the_output_stride(backbone, stride):
    """DeepLabv3: logits = W a + b for each cell of ASPP's map; there is no parameter for the low-level one."""
    model = small_model(embedding=False, backbone=backbone, output_stride=stride, decoder="none").double().eval()
    x = image(1, 3, 50, 67, dtype=torch.float64)
    with torch.no_grad():
        aspp = model.aspp(model.encode(x)[1])
        expected = torch.einsum("ca,bahw->bchw", model.class_head.out.weight[:, :, 0, 0], aspp)
        expected = expected + model.class_head.out.bias.view(1, -1, 1, 1)
        found = model(x)
    assert tuple(found.logits.shape) == (1, 5, -(-50 // stride), -(-67 // stride))
    assert found.embedding is None
    torch.testing.assert_close(found.logits, expected)
    assert model.widths() == (5, 8, 0, 2)
    assert not [name for name in model.state_dict() if "low_level" in name]
    model.train()(image(2, 3, 50, 67, dtype=torch.float64)).logits.square().sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize(("stride", "rates"), [(16, [6, 12, 18]), (8, [12, 24, 36])])
def test_aspp_dilates_with_the_rates_of_its_output_stride(stride, rates):
    model = small_model(output_stride=stride)
    assert [branch[0].dilation for branch in model.aspp.branches] == [(1, 1), *((rate, rate) for rate in rates)]


def test_without_the_embedding_head_there_is_no_such_parameter():
    model = small_model(embedding=False).eval()
    assert model(image(1, 3, 32, 32)).embedding is None
    assert not [name for name, _ in model.named_parameters() if "embedding" in name]


def test_every_parameter_takes_part_in_the_losses():
    model = small_model(drop_path=0.1)
    output = model(image(2, 3, 32, 32))
    (output.logits.square().sum() + output.embedding.square().sum()).backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_one_image_per_worker_is_refused_in_training_and_fine_in_evaluation():
    model = small_model()
    with pytest.raises(ValueError, match="at least 2 images per worker"):
        model(image(1, 3, 32, 32))
    assert len(model.eval()(image(1, 3, 32, 32)).logits) == 1


def test_the_seed_decides_every_value():
    first, same, other = (small_model(seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not torch.equal(first["class_head.out.weight"], other["class_head.out.weight"])


def test_normalise_is_the_imagenet_formula():
    pixels = torch.arange(2 * 3 * 4 * 5, dtype=torch.uint8).view(2, 3, 4, 5)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    expected = ((pixels.double() / 255 - mean) / std).float()
    torch.testing.assert_close(normalise(pixels), expected, rtol=1e-5, atol=1e-6)


def classifier_file(folder: Path, **changes: torch.Tensor | None) -> Path:
    """A weight file as timm has it, classifier included, with keys changed or (None) left out."""
    torch.manual_seed(7)
    state: dict[str, torch.Tensor | None] = dict(timm.create_model("mobilenetv2_100").state_dict())
    state.update({key.replace("__", "."): value for key, value in changes.items()})
    path = folder / "mobilenetv2_100_test.safetensors"
    save_file({key: value for key, value in state.items() if value is not None}, path)
    return path


@pytest.mark.parametrize("as_folder", [False, True])
def test_weights_of_a_classifier_fill_the_encoder_exactly(tmp_path, as_folder):
    path = classifier_file(tmp_path, blocks__0__0__bn1__num_batches_tracked=None)
    model = small_model()
    load_backbone(model, tmp_path if as_folder else path)
    given = load_file(path)
    for key, value in model.encoder.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, given[key]), key


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"conv_stem__weight": None}, "conv_stem.weight of mobilenetv2_100 is missing"),
        ({"conv_stem__weight": torch.zeros(32, 3, 5, 5)}, r"conv_stem.weight has shape \(32, 3, 5, 5\)"),
        ({"blocks__9__weight": torch.zeros(1)}, "blocks.9.weight is no parameter of mobilenetv2_100"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded(tmp_path, changes, complaint):
    model = small_model()
    before = {key: value.clone() for key, value in model.encoder.state_dict().items()}
    with pytest.raises(UserError, match=rf"mobilenetv2_100_test\.safetensors: {complaint}"):
        load_backbone(model, classifier_file(tmp_path, **changes))
    assert all(torch.equal(value, before[key]) for key, value in model.encoder.state_dict().items())


def test_files_that_are_missing_broken_or_ambiguous_are_a_users_mistake(tmp_path):
    model = small_model()
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        load_backbone(model, tmp_path / "nowhere.safetensors")
    with pytest.raises(UserError, match=r"no mobilenetv2_100\*\.safetensors and no model\.safetensors"):
        load_backbone(model, tmp_path)
    for name in "ab":
        (tmp_path / f"mobilenetv2_100_{name}.safetensors").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"_a\.safetensors: not a readable"):
        load_backbone(model, tmp_path / "mobilenetv2_100_a.safetensors")
    with pytest.raises(UserError, match=r"2 files are of mobilenetv2_100 \(mobilenetv2_100_a\.safetensors, "):
        load_backbone(model, tmp_path)


def test_a_download_without_a_network_says_what_to_do(monkeypatch):
    def offline(name: str, *, pretrained: bool) -> None:
        raise OSError(f"no route to {name}\nand more lines")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        InfrastructureError, match=r"\(no route to resnet50 and more lines\): set model.weights"
    ) as caught:
        download_backbone("resnet50")
    assert "\n" not in str(caught.value)


def test_the_real_imagenet_weights_load():
    if "S4AL_WEIGHTS" not in os.environ:
        pytest.skip("S4AL_WEIGHTS is not set: no ImageNet weights here")
    model = small_model().eval()
    load_backbone(model, Path(os.environ["S4AL_WEIGHTS"]))
    with torch.no_grad():
        _, deep = model.encoder(image(1, 3, 64, 64))
    assert torch.isfinite(deep).all()
    assert deep.std() > 0.1
