"""What a cycle says of its pseudo-labels and of the end of its training: recounted, said in time, audited."""

import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as hnp

from benchmarks.recipes.catalogue import resolve
from orchestrator.audit.files import audit_run
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import seal
from orchestrator.folder.record import latest
from orchestrator.process.progress import SilentProgress
from orchestrator.run.context import RunContext
from orchestrator.run.diagnosis import POOL_COUNTS, learning_row, still_falling
from orchestrator.run.inputs import stage_inputs
from orchestrator.run.loop import run as run_experiment
from querying.base.files import read_json, sealed, write_json
from querying.dataset.label_values import IGNORE
from querying.dataset.shards import decode_label, read_truth
from querying.labels.ledger import Ledger
from querying.labels.pool_counts import PoolCounts
from tests.small import small_config, small_run

QUICK = ("train.epochs=1", "query.threshold=0.3", "query.scales=[1.0]")


class Heard(SilentProgress):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def heard_run(index, root, *overrides):
    root.mkdir()
    heard = Heard()
    context = RunContext(
        config=small_config(*overrides), index=index, layout=RunLayout(root), backend=LocalBackend(), progress=heard
    )
    return run_experiment(context), heard.lines


@pytest.fixture(scope="module")
def finished(toy_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("diagnosis") / "run"
    small_run(toy_data.root, root, *QUICK)
    return root


def pool(index, scores):
    """(pseudo-label, truth) of every image of the pool, read without anything that is tested here."""
    truth = {i: mask for shard in index.shards("train") for i, mask in read_truth(index.root, shard)}
    for path in sorted(scores.glob("pseudo-*.arrow")):
        for row in pa.ipc.open_file(path).read_all().to_pylist():
            yield decode_label(row["label"]), truth[row["image_id"]]


def test_the_counts_are_those_of_a_second_count(finished, toy_data):
    layout = RunLayout(finished)
    pseudo, truth = (np.stack(maps) for maps in zip(*pool(toy_data, layout.scores(0)), strict=True))
    row = read_json(layout.summary)["cycles"][0]["pseudo_labels"]
    assert 0.05 < row["kept"] == (pseudo != IGNORE).mean() < 1
    known = (truth != IGNORE) & (pseudo != IGNORE)
    assert row["precision"] == pytest.approx((pseudo == truth)[known].mean(), abs=1e-12)
    for number, name in enumerate(toy_data.classes):
        labelled, true = pseudo == number, truth == number
        assert row["class_share"][name] == pytest.approx(labelled.mean(), abs=1e-12)
        right = (labelled & true).sum()
        expected = right / (labelled & known).sum() if (labelled & known).any() else None
        assert row["class_precision"][name] == (None if expected is None else pytest.approx(expected, abs=1e-12))
        assert row["class_recall"][name] == (pytest.approx(right / true.sum(), abs=1e-12) if true.any() else None)
    assert row["vanished"] == [
        name for number, name in enumerate(toy_data.classes) if (truth == number).any() and not (pseudo == number).any()
    ]
    assert (row["images"], row["masks"]) == (len(pseudo), len(pseudo))
    assert "pseudo_labels" not in read_json(layout.summary)["cycles"][1]  # the last network labels nothing


def test_the_record_has_them_once_and_the_audit_has_nothing_to_say(finished, toy_data):
    [row] = [one for one in latest(finished / "metrics.jsonl") if one["stage"] == "score"]
    said = read_json(finished / "summary.json")["cycles"][0]["pseudo_labels"]
    assert row["pseudo_labels/kept"] == said["kept"]
    first = toy_data.classes[0]
    assert row[f"pseudo_labels/class_share/{first}"] == said["class_share"][first]
    found = [line for line in audit_run(RunLayout(finished)) if "recipe.yaml" not in line]
    assert found == []


def resealed(layout):
    for stage, folder in (("score", layout.scores(0)), ("select", layout.query(0))):
        seal(folder, inputs=stage_inputs(layout, Ledger(layout.ledger), stage, 0), seconds=1)


def one_more_pixel(layout):
    path = layout.scores(0) / POOL_COUNTS
    data = read_json(path)
    data["counts"][0][0] += 1
    path.write_text(sealed(data) + "\n")
    resealed(layout)


def another_summary(layout):
    summary = read_json(layout.summary)
    summary["cycles"][0]["pseudo_labels"]["class_share"]["road"] = 0.5
    write_json(layout.summary, summary)


def another_row(layout):
    other = {"score": {"pseudo_labels/kept": 0.01}}
    lines = [sealed({**row, **other.get(row["stage"], {})}) for row in latest(layout.metrics)]
    layout.metrics.write_text("\n".join(lines) + "\n")


def no_row(layout):
    rows = [row for row in latest(layout.metrics) if row["stage"] != "score"]
    layout.metrics.write_text("".join(sealed(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    ("forge", "named"),
    [
        (one_more_pixel, "does not count the pseudo-labels that lie beside it"),
        (another_summary, "class_share: road is 0.5"),
        (another_row, "pseudo_labels/kept is 0.01"),
        (no_row, "1 rows are missing or of another result, the first: run main, cycle 0, stage score"),
    ],
)
def test_what_contradicts_the_labels_is_named(finished, tmp_path, toy_data, forge, named):
    layout = RunLayout(shutil.copytree(finished, tmp_path / "run"))
    from orchestrator.folder.recipe_file import write_recipe
    from orchestrator.recipe.provenance import provenance

    write_recipe(layout.recipe, small_config(*QUICK), provenance(toy_data, layout.backbone))
    forge(layout)
    assert named in "\n".join(audit_run(layout))


def test_a_collapsed_run_says_which_classes_it_lost(toy_data, tmp_path):
    """Nothing is as sure as that."""
    summary, lines = heard_run(toy_data, tmp_path / "run", *QUICK, "query.threshold=1.0")
    row = summary["cycles"][0]["pseudo_labels"]
    assert (row["kept"], row["precision"]) == (0, None)
    assert row["vanished"] == [name for name, found in row["class_recall"].items() if found is not None]
    [warning] = [line for line in lines if "pseudo-labelled" in line]
    assert warning.startswith(f"warning: main cycle 0: no pixel of {', '.join(row['vanished'])} is pseudo-labelled")


def test_who_learns_no_pseudo_labels_has_none_counted(toy_data, tmp_path):
    summary, _ = heard_run(toy_data, tmp_path / "run", *QUICK, "train.method=supervised")
    assert "pseudo_labels" not in summary["cycles"][0]
    assert not (tmp_path / "run" / "cycle-000" / "scores" / POOL_COUNTS).exists()


@settings(deadline=None)
@given(st.data())
def test_what_is_kept_and_what_is_not_are_all_pixels(data):
    classes = data.draw(st.sampled_from([1, 2, 3, 6, 16, 19, 255]))
    labels = st.one_of(st.integers(0, classes - 1), st.just(IGNORE))
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, max_side=6))
    maps = st.lists(hnp.arrays(np.uint8, shape, elements=labels), min_size=1, max_size=3)
    pseudo = data.draw(maps)
    truth = [data.draw(st.one_of(st.none(), hnp.arrays(np.uint8, shape, elements=labels))) for _ in pseudo]
    total = PoolCounts.empty(classes)
    for one, true in zip(pseudo, truth, strict=True):
        total += PoolCounts.of(one, true, classes)
    assert total.counts.sum() == len(pseudo) * pseudo[0].size
    assert total.counts[:, -1].sum() == sum((one == IGNORE).sum() for one in pseudo)
    assert total.masks == sum(true is not None for true in truth)
    assert np.array_equal(PoolCounts.from_dict(total.to_dict()).counts, total.counts)
    names = [f"class {number}" for number in range(classes)]
    row = total.summary(names)
    assert sum(row["class_share"].values()) == pytest.approx(row["kept"])
    for number, name in enumerate(names):
        pixels = sum((one == number).sum() for one in pseudo)
        shown = any(true is None or (true == number).any() for true in truth)
        assert (name in row["vanished"]) == (pixels == 0 and shown)


def test_shares_of_six_pixels_by_hand():
    """Truth 0 0 0 / 1 1 void, labelled 0 0 - / 0 1 1: of class 0 two of three are found, and two of three labels are
    right; of class 1 one of two, and its label on void says nothing; class 2 is not there and not missed."""
    pseudo = np.array([[0, 0, 255], [0, 1, 1]], np.uint8)
    truth = np.array([[0, 0, 0], [1, 1, 255]], np.uint8)
    row = PoolCounts.of(pseudo, truth, 3).summary(["a", "b", "c"])
    assert row["kept"] == 5 / 6
    assert row["precision"] == 3 / 4
    assert row["class_share"] == {"a": 3 / 6, "b": 2 / 6, "c": 0}
    assert row["class_precision"] == {"a": 2 / 3, "b": 1, "c": None}
    assert row["class_recall"] == {"a": 2 / 3, "b": 1 / 2, "c": None}
    assert row["vanished"] == []
    blind = PoolCounts.of(pseudo, None, 3).summary(["a", "b", "c"])
    assert (blind["kept"], blind["precision"], blind["class_recall"]["a"]) == (5 / 6, None, None)
    assert blind["vanished"] == ["c"]  # nobody knows that it is not there


def history(*losses, part="train/ce"):
    return [{"epoch": epoch, "train/loss": 9.0, part: loss} for epoch, loss in enumerate(losses)]


def test_whether_a_loss_still_falls():
    flat = learning_row(history(8, 7, 6, 5, 4, 4, 4, 4))["learning"]
    assert flat == {"loss": 4, "fall": 0, "falling": False}
    falling = learning_row(history(8, 7, 6, 5, 4, 4, 3, 3))["learning"]
    assert falling == {"loss": 3, "fall": 0.25, "falling": True}
    # 10 % lower, but the epochs scatter by more than twice that: variances 2 and 2, standard error 2^0.5
    noisy = learning_row(history(9, 9, 9, 9, 6, 4, 5.5, 3.5))["learning"]
    assert noisy["fall"] == pytest.approx(0.1)
    assert not noisy["falling"]
    assert learning_row(history(7, 6, 5, 4, 3, 2, 1)) == {}  # seven epochs tell nothing
    whole = learning_row([{"train/loss": loss} for loss in (8, 8, 8, 8, 4, 4, 2, 2)])["learning"]
    assert whole == {"loss": 2, "fall": 0.5, "falling": True}


@pytest.mark.parametrize(
    ("cycle", "keys", "remedy"),
    [
        (0, [], "train.epochs"),
        (0, ["teacher.epochs=3"], "teacher.epochs"),
        (0, ["teacher.epochs=3", "train.method=mean_teacher"], "train.epochs"),
        (1, ["teacher.epochs=3", "train.last_epochs=9"], "train.epochs"),
        (2, ["train.last_epochs=9"], "train.last_epochs"),
        (2, [], "train.epochs"),
    ],
)
def test_the_key_that_is_named_is_the_one_that_counts(cycle, keys, remedy):
    config = resolve("toy_s4al_plus", ["cycles=2", *keys])
    [line] = still_falling({"cycle": cycle, "learning": {"falling": True, "fall": 0.1}}, config)
    assert line.endswith(f"({remedy})")


def test_a_run_whose_loss_falls_to_its_end_says_so(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr("training.fit.loop.learning_rate", lambda step, train: train.lr / 10)
    summary, lines = heard_run(
        toy_data, tmp_path / "run", *QUICK, "cycles=0", "train.epochs=16", "train.steps_per_epoch=3"
    )
    learning = summary["cycles"][0]["learning"]
    said = [line for line in lines if "still falling" in line]
    assert len(said) == learning["falling"] == 1
    assert f"by {100 * learning['fall']:.0f} %" in said[0]
