"""An encoder of the user's own, by import path; the example is that of the documentation."""

import itertools
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from benchmarks.deploy.onnx_file import export_onnx
from benchmarks.deploy.predict import predict_command
from orchestrator.run.preflight import check_data, with_local_weights
from querying.base.errors import Interrupted, UserError
from querying.base.files import read_json, write_json
from querying.base.own_code import read_source
from querying.dataset.shards import read_images
from tests.small import small_config, small_run
from training.inference.predictor import Predictor, load_network
from training.network.deeplab import build_model, normalise
from training.network.first_weights import store_backbone
from training.settings.training import ModelSettings

PAGE = Path(__file__).parents[3] / "docs" / "start" / "own_code.md"
MINE = "model.backbone=small:Small", "model.weights=none"
WRONG = """
import torch
from torch import nn
from small import Small, stage

constant = 3
def fails(output_stride, drop_path): raise KeyError("no such thing")
def number(output_stride, drop_path): return 3
def bare(output_stride, drop_path): return nn.Conv2d(3, 8, 3)

class Wide(Small):
    channels = 24, 97

class Three(Small):
    def forward(self, image):
        return *super().forward(image), image

class Extra(Small):
    def __init__(self, output_stride, drop_path):
        super().__init__(output_stride, drop_path)
        self.head = nn.Linear(3, 3)

class Reads(Small):
    "What a convolution gives is read by BatchNorm and, with no module, once more."
    def forward(self, image):
        low = self.low(image)
        conv, norm, act = self.deep[1]
        deep = conv(self.deep[0](low))
        return low, act(norm(deep)) + 3 * deep
"""


def forget():
    for name in ("small", "lab_of_wrong_encoders"):
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With the module of the page, as a user would have it where the command is started."""
    (tmp_path / "small.py").write_text(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)[2])
    (tmp_path / "lab_of_wrong_encoders.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    forget()
    yield tmp_path
    forget()


def test_the_example_of_the_documentation_runs_resumes_and_is_used_where_its_module_is(
    folder, toy_data, tmp_path_factory, monkeypatch, caplog
):
    asked = itertools.count(1)
    monkeypatch.setattr("training.fit.loop.stop_file", lambda work: SimpleNamespace(exists=lambda: next(asked) == 3))
    with pytest.raises(Interrupted):
        small_run(toy_data.root, folder / "run", *MINE)
    assert small_run(toy_data.root, folder / "run", *MINE)["finished"]
    checkpoint = folder / "run/cycle-001/checkpoint"
    assert read_json(checkpoint / "meta.json")["own_code"] == read_source("small:Small").hashes
    assert set(read_source("small:Small").hashes) == {"small"}
    image = folder / "image.png"
    _, pixels_HWC = next(iter(read_images(toy_data.root, toy_data.shards("test")[0])))
    Image.fromarray(pixels_HWC).save(image)

    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if one != str(folder)])
    forget()
    missing = r"model\.backbone=small:Small: small can not be imported \(is its folder in PYTHONPATH\?\)"
    with pytest.raises(UserError, match=missing):
        predict_command(folder / "run", image, elsewhere / "out", None)
    with pytest.raises(UserError, match=missing):
        export_onnx(checkpoint, elsewhere / "model.onnx")
    with pytest.raises(UserError, match=missing):
        check_data(small_config(*MINE), toy_data)
    monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])
    predict_command(folder / "run", image, elsewhere / "out", None)
    assert (elsewhere / "out/image.png").exists()
    assert export_onnx(checkpoint, elsewhere / "model.onnx").is_rounding
    assert [one for one in caplog.records if one.name == "training.inference.predictor"] == []


def test_an_encoder_that_has_changed_is_said_in_a_run_and_not_run_elsewhere(folder, toy_data, caplog, monkeypatch):
    small_run(toy_data.root, folder / "run", *MINE, "cycles=0", "train.epochs=1")
    checkpoint = folder / "run/cycle-000/checkpoint"
    with caplog.at_level(logging.WARNING):
        load_network(checkpoint)
        assert caplog.messages == []
        ran = folder / "ran"
        (folder / "small.py").write_text((folder / "small.py").read_text() + f"\nopen({str(ran)!r}, 'w').close()\n")
        monkeypatch.setattr("querying.base.own_code._read", {})  # another process
        forget()
        with pytest.raises(UserError, match="was trained with another source of small, and what is here is not run"):
            load_network(checkpoint)
        assert not ran.exists()
        load_network(checkpoint, folder)
    assert ran.exists()
    assert caplog.messages == [f"{checkpoint}: was trained with another source of small"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("os:abort", "no module of your own has this name"),
        ("torch.hub:load", "notes no source of torch"),
        ("small:Small", "was trained with another source of small"),
    ],
)
def test_a_checkpoint_that_somebody_gives_calls_nothing(folder, toy_data, monkeypatch, spec, message):
    """It names a function that is there, and notes no source, or that of another module."""
    small_run(toy_data.root, folder / "run", *MINE, "cycles=0", "train.epochs=1")
    checkpoint = folder / "run/cycle-000/checkpoint"
    meta = read_json(checkpoint / "meta.json")
    noted = {"own_code": {"os": "0" * 64, "small": "0" * 64}}
    write_json(checkpoint / "meta.json", {**meta, **noted, "model": {**meta["model"], "backbone": spec}})
    called = []
    monkeypatch.setattr("training.network.backbones.own_encoder", lambda *given: called.append(given))
    with pytest.raises(
        UserError,
        match=message,
    ):
        load_network(checkpoint)
    assert called == []


def test_what_no_module_reads_is_not_folded_away(folder, toy_data):
    words = ("model.backbone=lab_of_wrong_encoders:Reads", "model.weights=none", "cycles=0")
    small_run(toy_data.root, folder / "run", *words)
    checkpoint = folder / "run/cycle-000/checkpoint"
    image = torch.randint(0, 256, (2, 3, 48, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain = load_network(checkpoint)(normalise(image)).logits
    found = Predictor(checkpoint, "cpu")(image, 1.0)
    assert plain.std() > 1e-4
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-4 * float(plain.std()))


def test_a_weight_file_has_the_names_of_the_module(folder):
    settings = ModelSettings(backbone="small:Small", weights=str(folder / "first.safetensors"))
    state = build_model(settings, 2, embedding=False).encoder.state_dict()
    save_file({name: tensor + 1 for name, tensor in state.items()}, settings.weights)
    store_backbone(settings, folder / "kept.safetensors")
    save_file({**state, "fc.weight": torch.zeros(2)}, settings.weights)
    with pytest.raises(UserError, match=r"fc\.weight is no parameter of small:Small"):
        store_backbone(settings, folder / "other.safetensors")
    with pytest.raises(UserError, match=r"is a folder; model\.backbone=small:Small needs a file"):
        with_local_weights(small_config(MINE[0], f"model.weights={folder}"))
    with pytest.raises(UserError, match=r"backbone=small:Small needs weights=none or a safetensors file"):
        small_config(MINE[0], "model.weights=imagenet")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lab_of_nobody:Mine", r"lab_of_nobody can not be imported \(is its folder in PYTHONPATH\?\)"),
        ("lab_of_wrong_encoders:gone", "has no gone"),
        ("lab_of_wrong_encoders:constant", "is not a function"),
        ("lab_of_wrong_encoders:fails", "KeyError: 'no such thing'"),
        ("lab_of_wrong_encoders:number", r"gives int, not a torch\.nn\.Module"),
        ("lab_of_wrong_encoders:bare", "has no `channels`"),
        ("lab_of_wrong_encoders:Wide", r"gives maps of .*\(2, 96, 5, 7\).* expected .*\(2, 97, 5, 7\)"),
        ("lab_of_wrong_encoders:Three", r"gives maps of .*\(2, 3, 72, 104\)"),
        ("lab_of_wrong_encoders:Extra", r"its maps do not need head\.weight"),
    ],
)
def test_what_is_no_encoder_is_said_before_anything_starts(folder, toy_data, spec, message):
    with pytest.raises(UserError, match=message) as caught:
        check_data(small_config(f"model.backbone={spec}", "model.weights=none"), toy_data)
    assert str(caught.value).startswith(f"model.backbone={spec}: ")


def test_both_output_strides_are_those_of_the_example(folder, toy_data):
    for stride in (8, 16):
        check_data(small_config(*MINE, f"model.output_stride={stride}"), toy_data)
