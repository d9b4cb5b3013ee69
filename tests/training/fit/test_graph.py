"""What of a CUDA graph a CPU can show; what it computes is in test_gpu.py."""

import gc
import weakref

import torch

from training.fit.cuda_graph import capture
from training.network.deeplab import build_model
from training.settings.training import ModelSettings


def captured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", lambda module, sample: module)
    settings = ModelSettings(aspp_channels=8, decoder_channels=8, low_level_channels=8, embedding_dim=8)
    network = build_model(settings, 3, embedding=False)
    capture(network, (2, 3, 32, 32))
    return network


def test_a_captured_network_and_its_graph_go_when_nothing_holds_them(monkeypatch):
    network = captured(monkeypatch)
    gone = weakref.ref(network)
    gc.disable()
    try:
        del network
        assert gone() is None
    finally:
        gc.enable()


def test_what_was_not_captured_runs_as_before(monkeypatch):
    network = captured(monkeypatch)
    image = torch.zeros(1, 3, 32, 32)
    assert network.eval()(image).logits.shape[:2] == (1, 3)
    assert network.train()(torch.zeros(4, 3, 32, 32)).logits.shape[:2] == (4, 3)
