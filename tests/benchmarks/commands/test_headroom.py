"""What a recipe can show: the ceiling of its head, its fit, and the control with the pool's true labels."""

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.commands import headroom
from benchmarks.recipes.catalogue import RECIPES, find
from orchestrator.choices import HeadroomPart
from orchestrator.folder.layout import RunLayout
from orchestrator.studies.headroom import SUPERVISED, TRUTH, control, few_images
from querying.base.errors import UserError
from querying.base.files import read_json
from querying.dataset.shards import decode_label, read_truth
from tests.small import SMALL, small_config, small_run


def test_the_control_learns_the_pool_with_its_true_labels(toy_data, tmp_path):
    small_run(toy_data.root, tmp_path, "train.pool_labels=truth", "query.per_image=0", "train.epochs=1")
    truth = {name: mask for shard in toy_data.shards("train") for name, mask in read_truth(toy_data.root, shard)}
    found = {}
    for path in RunLayout(tmp_path).scores(0).glob("pseudo-*.arrow"):
        table = pa.ipc.open_file(path).read_all()
        found |= dict(zip(table["image_id"].to_pylist(), map(decode_label, table["label"].to_pylist()), strict=True))
    assert found
    for name, label_HW in found.items():
        np.testing.assert_array_equal(label_HW, truth[name])


@pytest.mark.parametrize("method", ["supervised", "mean_teacher"])
def test_only_what_learns_pseudo_labels_can_have_true_ones_instead(method):
    with pytest.raises(UserError, match=r"train.pool_labels=truth needs train.method=self_training or st\+\+"):
        small_config("train.pool_labels=truth", f"train.method={method}", "cycles=0")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_every_recipe_has_a_plan(name):
    recipe = find(name)
    fitted = few_images(recipe, 4, 1000)
    first = fitted.train_at(0, last=True)
    assert (first.epochs * first.steps_per_epoch, first.batch_size, fitted.initial.images) == (1000, 4, 4)
    assert (fitted.augment.scale_min, fitted.augment.scale_max, fitted.augment.flip) == (1, 1, 0)

    student, alone = control(recipe, TRUTH, 3).train_at(1, last=True), control(recipe, SUPERVISED, 3)
    teacher = alone.train_at(0, last=True)
    assert (student.method, student.pool_labels, teacher.method) == ("self_training", "truth", "supervised")
    assert (teacher.epochs, teacher.steps_per_epoch) == (student.epochs, student.steps_per_epoch)
    assert alone.seed == 3


def test_a_verdict_needs_two_seeds_and_more_than_their_spread():
    found = {"gain": 0.02, "spread": None, "seeds": [{}]}
    assert "two or more are needed" in headroom.verdict(found)
    assert headroom.verdict({**found, "spread": 0.01, "seeds": [{}, {}]}).endswith("can show what a pool brings")
    assert "ranks no semi-supervised methods" in headroom.verdict({**found, "spread": 0.03, "seeds": [{}, {}]})


@pytest.mark.slow
def test_the_ceiling_of_real_scenes_at_half_size(camvid, tmp_path):
    """CamVid at 120x160: 79.9 on test, pole 14 (issue 24: 79.4 and 16 by another average)."""
    from benchmarks.datasets.ingest import ingest

    index = ingest("camvid", camvid, tmp_path / "data", size=(120, 160))
    found = headroom.ceiling(find("camvid_splits"), index)
    assert found["miou"] == pytest.approx(0.799, abs=0.001)
    assert found["iou"][2] == pytest.approx(0.14, abs=0.005)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_three_answers_and_again_from_their_files(toy_data, tmp_path, capsys):
    parts = list(HeadroomPart)
    for _ in range(2):
        headroom.headroom_command(
            "toy_s4al_plus", [*SMALL, "model.weights=none"], toy_data.root, tmp_path, "local", parts, 4, 20, "0,1"
        )
    shown = capsys.readouterr().out
    assert shown.count("headroom: ") == 5  # trainings of the first time alone
    assert shown.count("4 images after 20 steps") == 2
    found = read_json(tmp_path / "control.json")["found"]
    assert [row["seed"] for row in found["seeds"]] == [0, 1]
    gains = [row[TRUTH] - row[SUPERVISED] for row in found["seeds"]]
    assert found["gain"] == pytest.approx(np.mean(gains))
    assert found["spread"] == pytest.approx(np.std(gains, ddof=1))
    assert read_json(tmp_path / "ceiling.json")["found"]["miou"] > 0.5
