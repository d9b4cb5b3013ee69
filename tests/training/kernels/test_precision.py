"""A precision is what its name says, on every machine, and a user whose machine emulates bf16 is told so."""

from types import SimpleNamespace

import pytest
import torch

from orchestrator.process.progress import SilentProgress
from tests.small import small_run
from training.inference.predictor import Predictor
from training.kernels.precision import fast_bf16, trains_in_bf16


@pytest.mark.parametrize(("fast", "precision", "told"), [(False, "bf16", 1), (True, "bf16", 0), (False, "fp32", 0)])
def test_emulated_bf16_is_said(toy_data, tmp_path, monkeypatch, fast, precision, told):
    said = []
    monkeypatch.setattr("orchestrator.run.stages.fast_bf16", lambda: fast)
    monkeypatch.setattr(SilentProgress, "say", lambda self, line: said.append(line))
    small_run(toy_data.root, tmp_path, "cycles=0", "train.epochs=1", f"train.precision={precision}")
    assert sum("this machine emulates it" in line for line in said) == told


@pytest.mark.parametrize(("major", "has_it"), [(7, False), (8, True), (9, True)])
def test_auto_is_bf16_on_gpus_that_compute_in_it(monkeypatch, major, has_it):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    assert fast_bf16() is has_it
    assert trains_in_bf16("auto", torch.device("cuda")) is has_it
    assert trains_in_bf16("bf16", torch.device("cuda"))
    assert not trains_in_bf16("fp32", torch.device("cuda"))
    assert not trains_in_bf16("auto", torch.device("cpu"))


def test_a_network_that_predicts_in_float32_leaves_no_tf32(toy_data, tmp_path, monkeypatch):
    small_run(toy_data.root, tmp_path, "cycles=0", "train.epochs=1")
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    Predictor(tmp_path / "cycle-000" / "checkpoint", "cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_every_stage_computes_where_the_back_end_does(toy_data, tmp_path, monkeypatch):
    """A Ray cluster may count no GPU on a machine that has one; "cpu" would then be recorded, and not be true."""
    devices, original = [], Predictor.__init__

    def spy(self, checkpoint, device=None, **options):
        devices.append(device)
        original(self, checkpoint, device, **options)

    monkeypatch.setattr(Predictor, "__init__", spy)
    small_run(toy_data.root, tmp_path, "cycles=2", "train.method=st++", "query.per_image=0")
    assert len(devices) > 5
    assert set(devices) == {"cpu"}
