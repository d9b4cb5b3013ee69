"""Whole runs, by the command, of networks that are not the paper's: a plain transformer with DPT, ConvNeXt and MLP."""

import json

import numpy as np
import pytest
import torch

from benchmarks.commands.run import run_command
from orchestrator.audit.files import audit_run
from orchestrator.folder.layout import RunLayout
from querying.dataset.shards import read_images, read_truth
from querying.labels.ledger import Ledger
from tests.small import SMALL
from training.inference.predictor import Predictor
from training.losses.upsampled import full_size
from training.network.checkpoint import load_model

NETWORKS = {
    ("vit_tiny_patch16_224", "dpt", 16): ["train.optimizer=adamw", "train.lr=1e-4", "train.layer_decay=0.8"],
    ("convnext_atto", "mlp", 32): ["train.lr=0.001"],
}


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network[0])
def test_a_run_of_two_queries_ends_with_what_its_files_say(toy_data, tmp_path, network):
    encoder, decoder, stride = network
    keys = [
        *SMALL, f"model.encoder={encoder}", f"model.decoder={decoder}", f"model.output_stride={stride}",
        "model.weights=none", "cycles=2", "train.epochs=1", "query.scales=[0.7,1]", *NETWORKS[network],
    ]  # fmt: skip
    root = tmp_path / "run"
    run_command("toy_s4al_plus", keys, toy_data.root, root, "local", None, "none")
    summary = json.loads((root / "summary.json").read_text())
    assert summary["finished"]
    assert [row["cycle"] for row in summary["cycles"]] == [0, 1, 2]
    layout, pool = RunLayout(root), 24 - 5  # a fifth is labelled at first
    bought = [Ledger(layout.ledger).read(cycle, ["image_id"]).num_rows for cycle in (1, 2)]
    assert bought == [2 * pool, 2 * pool]
    assert list(audit_run(layout)) == []
    assert (root / "report" / "report.html").stat().st_size > 10_000
    state, meta = load_model(layout.checkpoint(2))
    assert meta["model"]["backbone"] == encoder
    assert any(name.startswith("join.") for name in state)

    predict = Predictor(layout.checkpoint(2), "cpu")
    counts = np.zeros((6, 6), int)
    for shard in toy_data.shards("test"):
        pairs = zip(read_images(toy_data.root, shard), read_truth(toy_data.root, shard), strict=True)
        for (_, image_HWC), (_, truth_HW) in pairs:
            logits = predict(torch.from_numpy(image_HWC.copy()).permute(2, 0, 1)[None])
            found_HW = full_size(logits, torch.Size(truth_HW.shape)).argmax(1)[0].numpy()
            known = truth_HW != 255
            np.add.at(counts, (truth_HW[known], found_HW[known]), 1)
    hits = np.diag(counts)
    iou = hits / np.maximum(counts.sum(0) + counts.sum(1) - hits, 1)
    there = counts.sum(0) + counts.sum(1) > 0
    assert summary["cycles"][-1]["miou"] == pytest.approx(iou[there].mean(), abs=1e-3)
