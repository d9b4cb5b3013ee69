"""Every recipe that ships comes to its end, its report and its model included, at the smallest size that there is."""

import logging

import numpy as np
import pytest
from PIL import Image

import benchmarks.deploy.onnx_file
from benchmarks.commands.run import run_command
from benchmarks.datasets.ingest import ingest
from benchmarks.recipes.catalogue import RECIPES
from orchestrator.audit.files import audit_run
from orchestrator.folder.layout import RunLayout
from querying.base.files import read_json
from querying.dataset.shards import read_images, read_truth

CLASSES = 19
"""Of Cityscapes; recipes for S4AL name classes by number."""
SMALLER = (
    "data.dataset=null", "data.size=null", "initial.list=null", "model.weights=none", "model.aspp_channels=8",
    "model.decoder_channels=8", "model.low_level_channels=8", "model.embedding_dim=8", "reco.queries=8",
    "reco.negatives=8", "train.epochs=1", "train.last_epochs=null", "train.steps_per_epoch=2", "train.threads=1",
    "train.precision=fp32", "train.crop=null", "teacher.epochs=null", "teacher.steps_per_epoch=null",
    "augment.cutout_size=8", "query.batch_size=4", "query.threads=1", "query.scales=[1.0]",
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """24 + 4 + 6 generated scenes of 48x64, whose right halves have other classes, so that there are 19."""
    root = tmp_path_factory.mktemp("scenes")
    toy = ingest("toy", None, root / "toy", size=(48, 64), counts=(24, 4, 6), num_classes=11)
    for split in ("train", "val", "test"):
        for kind in ("images", "masks"):
            (root / "raw" / split / kind).mkdir(parents=True)
        for shard in toy.shards(split):
            for image_id, image_HWC in read_images(toy.root, shard):
                Image.fromarray(image_HWC).save(root / "raw" / split / "images" / f"{image_id}.png")
            for image_id, mask_HW in read_truth(toy.root, shard):
                renumbered = np.where(mask_HW == 255, 255, (mask_HW + 8) % CLASSES)
                both_HW = np.where(np.arange(64) < 32, mask_HW, renumbered).astype(np.uint8)
                Image.fromarray(both_HW).save(root / "raw" / split / "masks" / f"{image_id}.png")
    (root / "classes.txt").write_text("".join(f"class {number}\n" for number in range(CLASSES)))
    return ingest("folder", root / "raw", root / "data", size=None, classes_file=root / "classes.txt").root


def smaller(recipe):
    words = [*SMALLER, f"cycles={min(3, recipe.cycles)}"]
    words += [f"initial.fraction={max(0.2, recipe.initial.fraction)}"]
    words += [f"train.batch_size={min(2, recipe.train.batch_size)}"]
    words += [f"train.batch_size_unlabelled={min(2, recipe.train.batch_size_unlabelled)}"]
    words += ["teacher.batch_size=2"] if recipe.teacher.batch_size else []
    words += ["methods.s4al.cold_start=0", "methods.s4al.replay_from=0"] if recipe.train.method == "s4al" else []
    words += ["initial.images=4"] if recipe.initial.images else []
    words += [f"budget={max(0.9, recipe.budget)}"] if recipe.budget else []
    if recipe.query.per_image:  # of the 12 regions of an image, so that some are left for every cycle
        words += [f"query.per_image={min(3, recipe.query.per_image)}", "query.exclude_border=false"]
    words += ["query.region_size=16"] if recipe.query.unit != "pixel" else []
    words += ["query.images=2"] if recipe.query.images else []
    words += ["evaluate.window=[32,32]", "evaluate.stride=[16,16]"] if recipe.evaluate.window else []
    return words


def network(name):
    return tuple(RECIPES[name]().model.model_dump().items())


NETWORKS = {network(name): name for name in reversed(RECIPES)}
"""Network -> the first recipe that has it, whose model is exported: to export it again would only take minutes."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_to_its_end(data, tmp_path, monkeypatch, caplog, name):
    if NETWORKS[network(name)] != name:
        monkeypatch.setattr(
            benchmarks.deploy.onnx_file, "export_onnx", lambda checkpoint, file: file.write_bytes(b"onnx")
        )
    run = tmp_path / "run"
    words = smaller(RECIPES[name]())
    run_command(name, words, data, run, "local", None, "none")
    summary = read_json(run / "summary.json")
    assert summary["finished"]
    assert len(summary["cycles"]) == min(3, RECIPES[name]().cycles) + 1
    assert list(audit_run(RunLayout(run))) == []
    assert (run / "model.onnx").exists()
    # torch traces its second export in a process at DEBUG
    assert [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING] == []
    page = (run / "report/report.html").read_text()
    assert "because it failed" not in page
    recipe = RECIPES[name]()
    assert (run / "report/queried.png").exists() == bool(recipe.cycles and recipe.query.asked)
