"""`train.kernels=plain`: no fast form is used anywhere, and what comes out is the same but for rounding."""

import json

import numpy as np
import pytest
import torch

import training.inference.predictor
from orchestrator.folder.layout import RunLayout
from orchestrator.recipe.keys import MACHINE_KEYS
from querying.base.errors import UserError
from querying.base.forms import plain_forms, use_plain_forms
from querying.scoring import scorer
from querying.scoring.score_files import read_scores
from tests.small import small_config, small_run
from training.methods.registry import METHODS
from training.network.decoder import UpsampleConcatConv

WORDS = ("train.precision=fp32", "train.lr=1e-4")  # larger steps would make more of rounding


@pytest.fixture(autouse=True)
def as_before():
    yield
    use_plain_forms(False)


@pytest.fixture
def used(monkeypatch):
    """Names of the fast forms that have computed something."""
    names = set()

    def watched(owner, name, label):
        plain = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *args, **more: names.add(label) or plain(*args, **more))

    assert METHODS  # all modules of a training are loaded
    for function in torch.autograd.Function.__subclasses__():
        if function.__module__.startswith("training."):
            watched(function, "apply", function.__name__)
    watched(UpsampleConcatConv, "_fused", "_fused")
    for name in ("fold_batch_norm", "fuse_activations"):
        watched(training.inference.predictor, name, name)
    watched(scorer, "score_and_label", "score_and_label")
    return names


def outcome(root):
    """Losses of all epochs, and the scores of the pool's regions."""
    rows = [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
    losses = [row["train/loss"] for row in rows if row["stage"] == "train"]
    files = sorted(RunLayout(root).scores(0).glob("regions-*.arrow"))
    return losses, np.concatenate([read_scores(file, 12)[1] for file in files])


def test_a_plain_run_uses_no_fast_form_and_differs_by_rounding(toy_data, tmp_path, used):
    small_run(toy_data.root, tmp_path / "plain", *WORDS, "train.kernels=plain")
    assert used == set()
    assert plain_forms()
    small_run(toy_data.root, tmp_path / "fast", *WORDS)
    assert not plain_forms()
    assert {
        "_Convolution",
        "_Expansion",
        "_End",
        "_Cost",
        "_InfoNCE",
        "_fused",
        "fold_batch_norm",
        "score_and_label",
    } <= used
    (losses, scores), (fast_losses, fast_scores) = outcome(tmp_path / "plain"), outcome(tmp_path / "fast")
    assert losses == pytest.approx(fast_losses, rel=1e-3)
    np.testing.assert_allclose(scores, fast_scores, rtol=1e-3)
    model = "cycle-001/checkpoint/model.safetensors"
    assert (tmp_path / "plain" / model).read_bytes() != (tmp_path / "fast" / model).read_bytes()


def test_it_is_noted_and_refused_where_pytorch_is_wrong():
    assert "train.kernels" in MACHINE_KEYS  # a change in mid-run needs --allow-drift, and is noted
    with pytest.raises(UserError, match="kernels=plain needs precision=fp32 or auto"):
        small_config("train.kernels=plain", "train.precision=bf16")
