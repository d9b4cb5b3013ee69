"""Any network of timm as the encoder: a step, its resume, scoring, evaluation, predicting and the exported file.

Random weights of the real architectures at tiny sizes; three have their real ones where S4AL_WEIGHTS says.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmarks.deploy.onnx_file import export_onnx
from benchmarks.deploy.predict import segment
from orchestrator.recipe.config import RunConfig, build, changed, override
from orchestrator.run.preflight import check_data, with_local_weights
from querying.base.errors import UserError
from querying.base.forms import use_plain_forms
from querying.dataset.label_values import IGNORE
from querying.dataset.shard_writer import ShardWriter
from tests.small import small_config
from tests.training.tiny import step
from training.batches.batch import Batch
from training.inference.evaluation import EvaluationTask, ShardEvaluator
from training.inference.predictor import Predictor
from training.kernels.depthwise import SparseDepthwiseConv
from training.kernels.expansion import ExpandingBlock
from training.losses.upsampled import full_size
from training.methods.registry import METHODS
from training.network.checkpoint import load_model, save_model
from training.network.deeplab import build_model, normalise
from training.network.encoder_check import conditions, licence
from training.network.first_weights import load_backbone, load_encoder_state, store_backbone
from training.settings.training import ModelSettings

SMALL = {"aspp_channels": 8, "decoder_channels": 8, "low_level_channels": 8, "embedding_dim": 6, "weights": "none"}
ENCODERS = {
    "mobilenetv2_100": 16,
    "mobilenetv3_small_100": 16,
    "mobilenetv4_conv_small": 16,
    "resnet18": 8,
    "resnet50d": 16,
    "tf_efficientnet_lite0": 16,
    "efficientnet_b0": 16,
    "tf_efficientnetv2_b0": 16,
    "convnext_atto": 16,
    "regnety_002": 16,
    "pvt_v2_b0": 32,
    "swin_tiny_patch4_window7_224": 32,
    "vit_tiny_patch16_224": 16,
    "vit_small_patch14_dinov2": 14,
    "vit_small_patch16_dinov3": 16,
}
"""And their output stride; the sides of the images are no multiples of it."""
DECODERS = {
    "vit_tiny_patch16_224": "linear",
    "vit_small_patch14_dinov2": "dpt",
    "vit_small_patch16_dinov3": "dpt",
}
ONE_SIZE = {"tf_efficientnet_lite0", "tf_efficientnetv2_b0", "pvt_v2_b0", "swin_tiny_patch4_window7_224"}
ONE_SIZE |= {"vit_small_patch16_dinov3"}
"""Of their exported files."""
QUICK = ("mobilenetv3_small_100", "resnet18", "convnext_atto", "pvt_v2_b0", "vit_tiny_patch16_224")
SIZE = 44, 60
CLASSES = 3

each = pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ENCODERS]
)


def settings(name, **changes):
    fits = {"output_stride": ENCODERS.get(name, 16), "decoder": DECODERS.get(name, "plus")}
    return ModelSettings(**{**SMALL, "encoder": name, **fits, **changes})


def network(name, seed=0, *, embedding=False, **changes):
    torch.manual_seed(seed)
    return build_model(settings(name, **changes), CLASSES, embedding=embedding)


def pixels(count, seed=1, size=SIZE):
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def one_step(method, number):
    """A step on two labelled images and two of the pool, some of whose pixels are known."""
    images = pixels(4, seed=number)
    labels = images.argmax(1).to(torch.uint8)
    seen = torch.ones(1, 2, *SIZE, dtype=torch.bool)
    batch = Batch(images[:2], labels[:2], images[2:], labels[2:], images[2:][None][:0], seen)
    torch.manual_seed(number)  # of dropout
    loss = torch.stack([*method(batch, step()).values()]).sum()
    assert torch.isfinite(loss)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    loss.backward()
    missing = [name for name, one in method.named_parameters() if one.requires_grad and one.grad is None]
    assert missing == [], "several workers would wait for the gradient of these"
    optimizer.step()
    optimizer.zero_grad()


def checkpoint(folder, name, model, **changes):
    meta = {"classes": ["a", "b", "c"], "palette": [[0, 0, 0], [9, 9, 9], [99, 9, 9]], "height": SIZE[0]}
    meta |= {"width": SIZE[1], "model": settings(name, **changes).model_dump(mode="json")}
    save_model(folder, model.state_dict(), meta)
    return folder


@each
def test_an_encoder_trains_goes_on_bit_for_bit_scores_is_evaluated_and_predicts(name, tmp_path):
    method = METHODS["supervised"](lambda embedding: network(name, embedding=embedding), step()).train()
    one_step(method, 1)
    folder = checkpoint(tmp_path, name, method.network)
    again = METHODS["supervised"](lambda embedding: network(name, seed=9, embedding=embedding), step()).train()
    again.network.load_state_dict(load_model(folder)[0])
    one_step(method, 2)
    one_step(again, 2)
    there = again.state_dict()
    assert all(torch.equal(value, there[key]) for key, value in method.state_dict().items())

    with torch.no_grad():  # heads that tell pixels apart
        method.network.class_head.out.weight.normal_(generator=torch.Generator().manual_seed(3))
    predict = Predictor(checkpoint(tmp_path, name, method.network), "cpu")
    images = pixels(3, seed=5)
    logits = predict(images)
    with torch.inference_mode():
        expected = method.network.eval()(normalise(images)).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * float(np.ptp(expected.numpy())))
    alone, features = predict.with_features(images)
    assert torch.equal(alone, logits)
    assert features.shape == (3, method.network.widths().features)
    passes = list(predict.dropout_passes(images[:1], [1.0, 0.75], 2, 7))
    assert passes[0][0].shape[2:] == logits.shape[2:]
    assert not torch.equal(passes[0][0], passes[1][0])

    labels = images.argmax(1).to(torch.uint8)
    labels[0, :7] = IGNORE
    with ShardWriter(tmp_path / "data", "test", num_classes=CLASSES, shard_size=3) as writer:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            writer.add(f"image-{number}", image.permute(1, 2, 0).numpy(), label.numpy())
    [shard] = writer.close()
    counts = ShardEvaluator(lambda: predict, CLASSES, 2, 1).evaluate_shard(EvaluationTask(tmp_path / "data", shard))
    expected = np.zeros((CLASSES, CLASSES), int)
    for some in (slice(0, 2), slice(2, 3)):
        found, known = full_size(predict(images[some]), torch.Size(SIZE)).argmax(1), labels[some] != IGNORE
        np.add.at(expected, (labels[some][known].numpy(), found[known].numpy()), 1)
    assert counts == expected.tolist()
    assert expected.sum() == 3 * SIZE[0] * SIZE[1] - 7 * SIZE[1]
    assert (expected.sum(0) > 0).sum() > 1, "or this tells nothing apart"

    image_HWC = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    label_HW, _ = segment(predict, image_HWC, SIZE, Path("x.png"), False)
    resized = torch.from_numpy(np.array(Image.fromarray(image_HWC).resize(SIZE[::-1], Image.Resampling.BILINEAR)))
    by_hand = full_size(predict(resized.permute(2, 0, 1)[None]), torch.Size((50, 70))).argmax(1)[0]
    assert (torch.from_numpy(label_HW) == by_hand).float().mean() > 0.95


@each
@pytest.mark.slow
def test_the_exported_encoder_computes_what_pytorch_does(name, tmp_path):
    model = network(name)
    with torch.no_grad():
        model.class_head.out.weight.normal_(generator=torch.Generator().manual_seed(3))
    file = tmp_path / "model.onnx"
    agreement = export_onnx(checkpoint(tmp_path, name, model), file)
    assert agreement.is_rounding
    assert agreement.size == (SIZE if name in ONE_SIZE else None)
    facts = {one.key: json.loads(one.value) for one in onnx.load(file).metadata_props}
    assert facts.get("only_size") == (list(SIZE) if name in ONE_SIZE else None)


@pytest.mark.parametrize("decoder", ["linear", pytest.param("dpt", marks=pytest.mark.slow)])
def test_a_plain_transformers_file_computes_what_pytorch_does_whatever_is_padded(tmp_path, decoder):
    """The export itself compares an image of 44x60 and one of 32x41, patches have 16 pixels."""
    name, changes = "vit_tiny_patch16_224", {"decoder": decoder, "output_stride": 16}
    model = network(name, **changes)
    with torch.no_grad():
        model.class_head.out.weight.normal_(generator=torch.Generator().manual_seed(3))
    assert export_onnx(checkpoint(tmp_path, name, model, **changes), tmp_path / "model.onnx").is_rounding


@pytest.mark.parametrize("align_corners", [False, True])
@torch.inference_mode()
def test_an_image_of_any_size_has_the_logits_that_it_has_in_an_image_padded_by_hand(align_corners):
    model = network("convnext_atto", embedding=True, align_corners=align_corners).eval()
    assert model.multiple == 16
    assert network("resnet18").multiple == 1
    x = torch.randn(2, 3, 35, 50, generator=torch.Generator().manual_seed(1))
    found, padded = model(x), model(F.pad(x, (0, 14, 0, 13)))
    assert padded.logits.shape[2:] == (12, 16), "stride 4"
    for mine, theirs in zip(found, padded, strict=True):
        by_hand = F.interpolate(theirs, (48, 64), mode="bilinear", align_corners=align_corners)[..., :35, :50]
        assert torch.equal(mine, by_hand)
    with pytest.raises(ValueError, match="decode: convnext_atto pads images to a multiple of 16: say their `size`"):
        model.decode(*model.encode(x))
    assert model.unpadded(model.encode(x)[0], (35, 50)).shape[2:] == (9, 13), "of 12 x 16 cells of 4 pixels"


@torch.inference_mode()
def test_weights_of_another_mean_and_deviation_see_theirs(monkeypatch):
    name = next(one for one in ("mobilenetv3_small_050", "tf_efficientnetv2_b0") if timm.get_pretrained_cfg(one))
    ours = network(name).eval().encoder
    cfg = timm.get_pretrained_cfg(name)
    cfg = cfg.__class__(**{**vars(cfg), "mean": (0.5, 0.4, 0.3), "std": (0.25, 0.5, 0.5)})
    monkeypatch.setattr(timm, "get_pretrained_cfg", lambda given: cfg)
    other = network(name).eval().encoder
    images = pixels(1).float() / 255
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (cfg.mean, cfg.std))
    for mine, expected in zip(other(normalise(pixels(1))), ours.net((images - mean) / std), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)
    assert ours.state_dict().keys() == other.state_dict().keys(), "constants, not weights"


def test_the_maps_that_a_decoder_wants_have_the_channels_and_strides_of_timm():
    for name in ("resnet18", "pvt_v2_b0", "convnext_atto"):
        encoder = network(name).encoder
        maps = encoder(torch.zeros(1, 3, 64, 96))
        assert [one.shape[1] for one in maps] == list(encoder.channels)
        assert [64 // one.shape[2] for one in maps] == [4, ENCODERS[name]] == list(encoder.strides)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_100", "mobilenetv4_conv_small"])
def test_the_fast_forms_of_layers_are_those_of_pytorch(name):
    """Loss and gradients in float64: of a step with them, and of one with `train.kernels=plain`."""
    fast = network(name, dropout=0.0).double().train()
    own = [module for module in fast.modules() if isinstance(module, (SparseDepthwiseConv, ExpandingBlock))]
    assert own, "or this compares nothing"
    x = torch.randn(4, 3, 64, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for plain in (False, True):
        use_plain_forms(plain)
        try:
            fast.zero_grad()
            fast(x).logits.square().mean().backward()
        finally:
            use_plain_forms(False)
        found.append({key: value.grad.clone() for key, value in fast.named_parameters()})
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": "resnet5O"}, "model.backbone=resnet5O: timm .* has no such network: did you mean 'resnet50'?"),
        ({"encoder": "convnext_tiny.fb_in1"}, "convnext_tiny.fb_in1.* did you mean 'convnext_tiny.fb_in1k'"),
        ({"encoder": "pvt_v2_b0"}, "the last map of pvt_v2_b0 has stride 32: set model.output_stride=32"),
        (
            {"encoder": "vit_tiny_patch16_224"},
            "plain vision transformer.*set model.decoder=dpt or model.decoder=linear",
        ),
        ({"encoder": "inception_v3", "output_stride": 32}, "it is no encoder of images of any size"),
        ({"encoder": "ghostnet_100", "drop_path": 0.1, "output_stride": 32}, "ghostnet_100 has no stochastic depth"),
        ({"encoder": "resnet18", "dilation": "last"}, "model.dilation=last: is of mobilenetv2_100, not of resnet18"),
        ({"encoder": "convnext_atto_rms", "weights": "imagenet"}, "timm has no weights of convnext_atto_rms"),
    ],
)
def test_an_encoder_that_can_not_be_is_refused_before_anything_starts(toy_data, changes, message):
    config = changed(small_config(), model={"weights": "none", **changes})
    with pytest.raises(UserError, match=message) as caught:
        check_data(config, toy_data)
    assert "\n" not in str(caught.value)


def test_encoder_is_another_word_for_backbone(tmp_path):
    base = RunConfig(name="x")
    assert override(base, ["model.encoder=resnet18"]).model.backbone == "resnet18"
    assert override(base, ["model.encoder=resnet18", "model.backbone=resnet18"]).model.backbone == "resnet18"
    with pytest.raises(UserError, match=r"model\.encoder=resnet18 and model\.backbone=resnet50 are two words for one"):
        override(base, ["model.encoder=resnet18", "model.backbone=resnet50"])
    assert build({"name": "x", "model": {"encoder": "resnet18"}}).model.backbone == "resnet18"
    assert changed(base, model={"encoder": "resnet18"}).model.backbone == "resnet18"
    with pytest.raises(UserError, match="encoder=resnet18 and backbone=resnet50 are two words for one key"):
        build({"name": "x", "model": {"encoder": "resnet18", "backbone": "resnet50"}})
    assert "encoder" not in base.model_dump()["model"]


def test_licences_are_said_where_timm_knows_them():
    assert licence("resnet18").endswith(": licence apache-2.0")
    assert conditions("resnet18") == ""
    assert "licence dinov3-license, a text of its own: read and accept it" in conditions("vit_small_patch16_dinov3")
    assert conditions("convnextv2_atto.fcmae").endswith("not for commercial use")


def hub_folder(folder, name, seed=1):
    """As huggingface's hub has it: the whole classification network, and what it is."""
    torch.manual_seed(seed)
    state = timm.create_model(name).state_dict()
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": name, "num_classes": 1000}))
    return state


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_100", "convnext_atto", "pvt_v2_b0"])
def test_a_folder_of_the_hub_is_read_and_the_runs_own_copy_too(tmp_path, name):
    state = hub_folder(tmp_path, name)
    config = changed(small_config(), model={"encoder": name, "weights": str(tmp_path), "output_stride": ENCODERS[name]})
    assert with_local_weights(config).model.weights == str(tmp_path / "model.safetensors")
    model = network(name)
    load_backbone(model, tmp_path)
    loaded = model.encoder.state_dict()
    first = next(iter(loaded))
    plain = first.removeprefix("net.")
    source = plain if plain in state else plain.replace("_", ".", 1)
    assert torch.equal(loaded[first], state[source])
    store_backbone(settings(name, weights=str(tmp_path)), tmp_path / "own.safetensors")
    again = network(name, seed=5)
    load_backbone(again, tmp_path / "own.safetensors")
    assert all(torch.equal(value, loaded[key]) for key, value in again.encoder.state_dict().items())
    with pytest.raises(UserError, match=f"these are weights of '{name}', model.backbone=resnet34"):
        load_backbone(network("resnet34"), tmp_path)
    state.pop(source)
    with pytest.raises(UserError, match="is missing"):
        load_encoder_state(network(name), state, source="x")
    with pytest.raises(UserError, match=r"x: alien\.weight is no parameter of"):
        load_encoder_state(network(name), {**load_file(tmp_path / "model.safetensors"), "alien.weight": torch.zeros(1)},
                           source="x")  # fmt: skip


def test_files_with_pickles_are_refused_with_the_remedy(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(UserError, match=r"no model\.safetensors in this folder, but pytorch_model\.bin, which has"):
        load_backbone(network("resnet18"), tmp_path)
    with pytest.raises(UserError, match="files can run code when they are read: convert it once"):
        load_backbone(network("resnet18"), tmp_path / "pytorch_model.bin")


@pytest.mark.skipif("S4AL_WEIGHTS" not in os.environ, reason="S4AL_WEIGHTS is not set: no ImageNet weights here")
@pytest.mark.parametrize("name", ["mobilenetv2_100", "tf_efficientnet_lite0", "tf_efficientnet_lite2"])
@torch.inference_mode()
def test_real_weights_are_read_and_are_not_random(name):
    """The features of a trained network are sparser in direction than those of a random one: images of two kinds
    (stripes, noise) are further apart than two of a kind."""
    model = network(name).eval()
    load_backbone(model, Path(os.environ["S4AL_WEIGHTS"]))
    rows = torch.arange(96).view(1, 1, -1, 1).expand(2, 3, 96, 96)
    stripes = ((rows // torch.tensor([4, 5]).view(2, 1, 1, 1)) % 2 * 200 + 20).to(torch.uint8)
    noise = pixels(2, seed=3, size=(96, 96))
    deep = model.encode(normalise(torch.cat([stripes, noise])))[-1].mean((2, 3))
    unit = F.normalize(deep - deep.mean(0), dim=1)
    cosine = unit @ unit.T
    assert cosine[0, 1] > 0.3
    assert cosine[2, 3] > 0.3
    assert cosine[:2, 2:].max() < 0
