"""On a GPU: `pytest -m gpu`.  What the CPU's tests have shown must hold there, too, within rounding."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from orchestrator.folder.layout import RunLayout
from querying.base.files import read_json
from querying.dataset.shards import decode_label
from querying.labels.regions import RegionGrid
from querying.scoring.pool import ScoreTask, pool_batches
from querying.scoring.scorer import ShardScorer
from querying.settings import QuerySettings
from tests.small import small_run
from training.fit.cuda_graph import capture
from training.inference.predictor import Predictor
from training.network.deeplab import build_model
from training.settings.training import ModelSettings

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
SHAPE = (4, 3, 48, 64)


def network(dropout=0.0, embedding=True):
    torch.manual_seed(0)
    settings = ModelSettings(
        aspp_channels=16, decoder_channels=16, low_level_channels=8, embedding_dim=8, dropout=dropout
    )
    return build_model(settings, 5, embedding=embedding).cuda().to(memory_format=torch.channels_last)


def images(seed):
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(SHAPE, generator=generator, device="cuda")


def stepped(model, seed):
    """Outputs, gradients and statistics of a step."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    output = model(images(seed))
    maps = [one for one in output if one is not None]
    sum(one.float().square().mean() for one in maps).backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    return [one.detach().clone() for one in maps], gradients, [buffer.clone() for buffer in model.buffers()]


@pytest.mark.parametrize("embedding", [True, False])
def test_a_captured_network_computes_what_the_plain_one_does(embedding):
    plain, graphed = network(embedding=embedding), network(embedding=embedding)
    before = [buffer.clone() for buffer in graphed.buffers()]
    capture(graphed, SHAPE)
    assert all(torch.equal(*pair) for pair in zip(before, graphed.buffers(), strict=True))
    for seed in (1, 2, 3):
        for found, wanted in zip(stepped(graphed, seed), stepped(plain, seed), strict=True):
            for own, other in zip(found, wanted, strict=True):
                torch.testing.assert_close(own, other, rtol=2e-3, atol=2e-4)
    evaluated = graphed.eval()(images(9)[:1]).logits  # another batch, running statistics
    torch.testing.assert_close(evaluated, plain.eval()(images(9)[:1]).logits, rtol=2e-3, atol=2e-4)


def test_dropout_follows_the_seed_of_each_replay():
    graphed = network(dropout=0.5)
    capture(graphed, SHAPE)

    def logits(seed):
        torch.manual_seed(seed)
        return graphed(images(0)).logits.detach().clone()

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


@pytest.mark.parametrize("method", ["self_training", "mean_teacher", "unimatch", "u2pl"])
@pytest.mark.parametrize("graph", ["true", "false"])
def test_a_training_loses_what_it_loses_on_the_cpu(toy_data, tmp_path, method, graph, monkeypatch):
    overrides = ("cycles=0", f"train.method={method}", "train.epochs=2", "train.precision=fp32", "model.dropout=0")
    overrides += (f"train.cuda_graph={graph}", "augment.colour=0", "reco.weight=0")
    small_run(toy_data.root, tmp_path / "gpu", *overrides)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    small_run(toy_data.root, tmp_path / "cpu", *overrides)
    gpu, cpu = (read_json(RunLayout(tmp_path / name).checkpoint(0) / "meta.json")["history"] for name in ("gpu", "cpu"))
    assert [row["train/ce"] for row in gpu] == pytest.approx([row["train/ce"] for row in cpu], rel=0.05)


def test_a_whole_run_in_bf16_with_a_query(toy_data, tmp_path):
    summary = small_run(toy_data.root, tmp_path)
    assert summary["finished"]
    assert 0 <= summary["cycles"][-1]["miou"] <= 1


@pytest.mark.parametrize(("precision", "scores_apart", "labels_apart"), [("fp32", 5e-3, 0.002), ("bf16", 0.2, 0.03)])
def test_scores_and_labels_are_those_of_the_cpu(toy_data, tmp_path, precision, scores_apart, labels_apart):
    small_run(toy_data.root, tmp_path / "run", "cycles=0")
    checkpoint = RunLayout(tmp_path / "run").checkpoint(0).resolve()
    shard = toy_data.shards("train")[0]
    ids, batch = next(pool_batches(ScoreTask(0, toy_data.root, shard, frozenset(), {}), 4))

    def scored(device, precision):
        scorer = ShardScorer(
            lambda: Predictor(checkpoint, device, precision=precision), RegionGrid(48, 64, 16), tmp_path,
            QuerySettings(scales=(0.5, 1.0), threshold=0.01, exclude_border=False, threads=1), seed=0, cycle=0,
        )  # fmt: skip
        regions, pseudo = scorer.score(ids, batch, {})
        labels = np.stack([decode_label(png.as_py()) for png in pseudo["label"]])
        return np.array(pa.array(regions["score"]).to_pylist()), labels

    (own, own_labels), (other, other_labels) = scored("cuda", precision), scored("cpu", "fp32")
    assert np.abs(own - other).max() < scores_apart
    assert (own_labels != other_labels).mean() < labels_apart
