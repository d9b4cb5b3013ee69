"""Options of a run beside the paper's form: thresholds by class, a network that goes on from the one before."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from orchestrator.audit.files import audit_run
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import digest
from orchestrator.folder.recipe_file import write_recipe
from orchestrator.recipe.provenance import provenance
from querying.base.files import read_json
from tests.small import small_config, small_run
from training.fit.assembly import new_networks
from training.network.deeplab import build_model
from training.network.first_weights import load_previous

QUICK = ("train.epochs=1", "query.scales=[1.0]")
PREVIOUS = (*QUICK, "train.start=previous")


def network(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def started(toy_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("levers") / "previous"
    root.mkdir()
    write_recipe(root / "recipe.yaml", small_config(*PREVIOUS), provenance(toy_data, root / "backbone.safetensors"))
    small_run(toy_data.root, root, *PREVIOUS)
    return root


def test_a_student_without_a_step_worth_its_name_is_the_network_before(toy_data, tmp_path):
    """At a rate of almost nothing only BatchNorm's statistics move."""
    root = tmp_path / "run"
    small_run(toy_data.root, root, *PREVIOUS, "train.lr=1e-12")
    before, after = (network(RunLayout(root).checkpoint(cycle)) for cycle in (0, 1))
    weights = [name for name in before if "running" not in name and "num_batches" not in name]
    assert len(weights) > 100
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in weights)
    small_run(toy_data.root, tmp_path / "fresh", *QUICK, "train.lr=1e-12")
    fresh = network(RunLayout(tmp_path / "fresh").checkpoint(1))
    assert not all(torch.allclose(before[name], fresh[name], atol=1e-6) for name in weights)


def test_the_run_notes_what_its_student_began_with(started, tmp_path):
    layout = RunLayout(started)
    inputs = read_json(layout.checkpoint(1) / "manifest.json")["inputs"]
    assert inputs["previous network"] == digest(layout.checkpoint(0), "*.safetensors")
    assert "previous network" not in read_json(layout.checkpoint(0) / "manifest.json")["inputs"]
    metas = [read_json(layout.checkpoint(cycle) / "meta.json").get("start") for cycle in (0, 1)]
    assert metas == [None, "previous"]
    assert list(audit_run(layout)) == []
    copy = RunLayout(shutil.copytree(started, tmp_path / "copy"))
    manifest = copy.checkpoint(1) / "manifest.json"
    from querying.base.files import write_json

    write_json(manifest, {**read_json(manifest), "inputs": {**inputs, "previous network": "0" * 64}})
    assert f"{copy.checkpoint(1)}: was made from another previous network" in list(audit_run(copy))


def test_the_control_goes_on_without_a_pool(toy_data, tmp_path):
    root = tmp_path / "run"
    small_run(toy_data.root, root, *PREVIOUS, "train.method=supervised", "query.per_image=0")
    metas = [read_json(RunLayout(root).checkpoint(cycle) / "meta.json") for cycle in (0, 1)]
    assert [(meta["method"], meta["pool_images"], meta.get("start")) for meta in metas] == [
        ("supervised", 0, None), ("supervised", 0, "previous"),
    ]  # fmt: skip


def test_only_the_first_of_several_networks_is_the_one_before(started):
    class Job:
        seed, cycle, backbone, previous = 0, 1, None, RunLayout(started).checkpoint(0)
        model, train, modules = small_config().model, small_config().train, None

    make = new_networks(Job, 6, torch.device("cpu"))
    first, second = (make(True).state_dict() for _ in range(2))
    there = network(Job.previous)
    assert all(torch.equal(first[name], there[name]) for name in there)
    assert not all(torch.equal(second[name], there[name]) for name in there)


@pytest.mark.slow
def test_a_head_that_the_network_before_did_not_have_stays_fresh(started):
    settings = small_config().model
    torch.manual_seed(1)
    model = build_model(settings, 6, embedding=True)
    there = network(RunLayout(started).checkpoint(0))
    head = {name for name in there if name not in build_model(settings, 6, embedding=False).state_dict()}
    assert head
    small = build_model(settings, 6, embedding=False)
    load_previous(small, RunLayout(started).checkpoint(0))
    assert all(torch.equal(tensor, there[name]) for name, tensor in small.state_dict().items())
    load_previous(model, RunLayout(started).checkpoint(0))
    assert all(torch.equal(tensor, there[name]) for name, tensor in model.state_dict().items())


def test_thresholds_by_class_keep_what_one_threshold_drops(toy_data, tmp_path):
    """Nothing reaches 0.99; with a share of a half, at least half of what is predicted as each class has a label, of
    that class or of one that is surer by its own measure."""
    strict = ("query.threshold=0.99", *QUICK)
    small_run(toy_data.root, tmp_path / "one", *strict)
    small_run(toy_data.root, tmp_path / "own", *strict, "query.class_share=0.5")
    one, own = (read_json(tmp_path / name / "summary.json")["cycles"][0]["pseudo_labels"] for name in ("one", "own"))
    assert one["kept"] < 0.01
    assert own["kept"] >= 0.5
    scores = RunLayout(tmp_path / "own").scores(0)
    thresholds = read_json(scores / "class_thresholds.json")["thresholds"]
    assert len(thresholds) == 6
    assert min(thresholds) < 0.99
    assert max(thresholds) <= 0.99
    regions = [(RunLayout(tmp_path / name).scores(0) / "regions-00000.arrow") for name in ("one", "own")]
    assert regions[0].exists()
    scores = [np.array(_scores(path)) for path in regions]
    assert np.allclose(*scores, rtol=1e-5)  # what is asked does not change


def _scores(path):
    import pyarrow as pa

    return [
        value for row in pa.ipc.open_file(path).read_all()["score"].to_pylist() for value in row if value is not None
    ]
