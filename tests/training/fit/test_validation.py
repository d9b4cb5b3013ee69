"""The val split looked at during training: the same figure as afterwards, the same from any number of workers, and no
influence on what is trained."""

import copy
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.folder.layout import RunLayout
from orchestrator.recipe.config import build, override
from querying.base.errors import Interrupted, UserError
from querying.base.files import read_json
from tests.small import small_config, small_run
from tests.training.two_ranks import TwoRanks
from training.fit.validation import MIOU, Validator, best_epoch, due
from training.fit.worker import Worker
from training.inference.predictor import Predictor
from training.network.checkpoint import best_folder
from training.network.deeplab import build_model
from training.settings.training import EvaluateSettings, ModelSettings, TrainSettings

ON_VAL = ("cycles=0", "data.evaluate_on=val", "train.validate_epochs=1")
BEST = (*ON_VAL, "evaluate.best_on_val=true")


def history(root, cycle=0):
    return read_json(root / f"cycle-{cycle:03d}" / "checkpoint" / "meta.json")["history"]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def calm(toy_data, tmp_path_factory):
    """Four epochs, looked at after each."""
    root = tmp_path_factory.mktemp("calm")
    return root, small_run(toy_data.root, root, *BEST, "train.epochs=4")


def test_the_last_epochs_figure_is_the_evaluations(calm):
    """But for a pixel that the folding of BatchNorm has moved over an edge."""
    root, summary = calm
    assert history(root)[-1][MIOU] == pytest.approx(summary["cycles"][0]["miou"], abs=2e-3)
    assert len({row[MIOU] for row in history(root)}) > 1


def test_looking_changes_nothing(calm, toy_data, tmp_path):
    root, _ = calm
    small_run(toy_data.root, tmp_path, "cycles=0", "data.evaluate_on=val", "train.epochs=4")
    assert weights(tmp_path / "cycle-000/checkpoint") == weights(root / "cycle-000/checkpoint")
    assert not any(MIOU in row for row in history(tmp_path))


def test_the_best_weights_are_those_of_the_best_epoch(calm, toy_data, tmp_path):
    """Kept beside the last, reported beside theirs, and they give the figure that chose them."""
    root, summary = calm
    rows, row = history(root), summary["cycles"][0]
    best = max(rows, key=lambda one: one[MIOU])
    found = row["best_on_val"]
    assert (found["epoch"], found["val_miou"]) == (best["epoch"], best[MIOU])
    assert found["miou"] == pytest.approx(best[MIOU], abs=2e-3)
    assert set(found["class_iou"]) == set(row["class_iou"])
    kept = load_file(best_folder(root / "cycle-000/checkpoint") / "model.safetensors")
    last = load_file(root / "cycle-000/checkpoint/model.safetensors")
    same = all(torch.equal(kept[name], last[name]) for name in last)
    assert kept.keys() == last.keys()
    assert same == (best["epoch"] == rows[-1]["epoch"])


def test_the_best_is_not_the_last_where_an_earlier_epoch_was_better(toy_data, tmp_path, monkeypatch):
    """Figures 0.3, 0.5, 0.5, 0.2: the weights of the second epoch, as they were when it was looked at."""
    figures = iter([0.3, 0.5, 0.5, 0.2])
    kept = []

    def miou(self, network):
        kept.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return next(figures)

    monkeypatch.setattr(Validator, "miou", miou)
    summary = small_run(toy_data.root, tmp_path, *BEST, "train.epochs=4")
    best = load_file(best_folder(tmp_path / "cycle-000/checkpoint") / "model.safetensors")
    assert all(torch.equal(best[name], tensor) for name, tensor in kept[1].items())
    assert (summary["cycles"][0]["best_on_val"]["epoch"], summary["cycles"][0]["best_on_val"]["val_miou"]) == (1, 0.5)


@pytest.mark.parametrize(("at", "step"), [(4, 3), (6, 4)], ids=["in an epoch", "while it is looked at"])
def test_a_stop_loses_neither_the_best_nor_a_figure(calm, toy_data, tmp_path, monkeypatch, at, step):
    """Each epoch asks three times: after its two steps, and before the only batch of the val split."""
    root, _ = calm
    asked = itertools.count(1)
    monkeypatch.setattr("training.fit.loop.stop_file", lambda work: SimpleNamespace(exists=lambda: next(asked) == at))
    with pytest.raises(Interrupted, match=f"stopped after step {step},"):
        small_run(toy_data.root, tmp_path, *BEST, "train.epochs=4")
    monkeypatch.undo()
    small_run(toy_data.root, tmp_path, *BEST, "train.epochs=4")
    for folder in ("cycle-000/checkpoint", "cycle-000/checkpoint/best_on_val"):
        assert weights(tmp_path / folder) == weights(root / folder)
    assert [row[MIOU] for row in history(tmp_path)] == [row[MIOU] for row in history(root)]


def test_every_number_of_workers_counts_the_same(toy_data):
    """Shards of 5 in batches of 2 over one, two and three workers, whose sums meet as their mean."""
    torch.manual_seed(0)
    index = replace(toy_data, splits={**toy_data.splits, "val": toy_data.shards("train")})
    network = build_model(ModelSettings(aspp_channels=8, decoder_channels=8, low_level_channels=8), 6, embedding=False)

    def counted(world):
        sums = []
        for rank in range(world):
            worker = Worker(rank, world, torch.device("cpu"), mean=lambda own: sums.append(own) or own)
            Validator(index, EvaluateSettings(), 2, 1, worker, lambda: False).miou(network)
        mean = torch.stack(sums).mean(0)
        worker = Worker(0, world, torch.device("cpu"), mean=lambda own: mean)
        assert len({tuple(own.tolist()) for own in sums}) == world
        return Validator(index, EvaluateSettings(), 2, 1, worker, lambda: False).miou(network)

    alone = counted(1)
    assert 0 < alone < 1
    assert counted(2) == counted(3) == alone


def test_every_worker_looks_with_the_statistics_of_rank_0(toy_data):
    """Another worker's BatchNorm has seen other images since the last step."""
    torch.manual_seed(0)
    first = build_model(ModelSettings(aspp_channels=8, decoder_channels=8, low_level_channels=8), 6, embedding=False)
    other = copy.deepcopy(first)
    for buffer in other.buffers():
        buffer.add_(1)
    theirs = first.buffers()
    worker = Worker(1, 1, torch.device("cpu"), broadcast=lambda own: own.copy_(next(theirs)))
    Validator(toy_data, EvaluateSettings(), 2, 1, worker, lambda: False).miou(other)
    assert next(theirs, None) is None
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), other.buffers(), strict=True))


def test_all_workers_meet_a_stop_and_an_output_that_is_not_finite_together(toy_data):
    """What another worker has met arrives with the sum."""
    network = build_model(ModelSettings(aspp_channels=8, decoder_channels=8, low_level_channels=8), 6, embedding=False)
    for flags, check in (((0.5, 0.0), None), ((0.0, 0.5), FloatingPointError), ((0.5, 0.5), FloatingPointError)):

        def mean(own, flags=flags):
            return torch.cat([own[:-2], own.new_tensor(flags)])

        validator = Validator(toy_data, EvaluateSettings(), 2, 1, Worker(0, 2, mean=mean), lambda: False)
        if check:
            with pytest.raises(check, match="evaluation on val"):
                validator.miou(network)
        else:
            assert validator.miou(network) is None
    with torch.no_grad():
        network.class_head.out.bias.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="evaluation on val"):
        Validator(toy_data, EvaluateSettings(), 2, 1, Worker(), lambda: False).miou(network)


@pytest.mark.slow  # processes that import torch
def test_two_ranks_look_and_end_as_without_looking(toy_data, tmp_path):
    two = ("train.workers=2", "train.batch_size=4", "teacher.batch_size=4", "query.batch_size=1")
    summary = small_run(toy_data.root, tmp_path / "seen", *BEST, *two, backend=TwoRanks())
    small_run(toy_data.root, tmp_path / "unseen", "cycles=0", "data.evaluate_on=val", *two, backend=TwoRanks())
    assert weights(tmp_path / "seen/cycle-000/checkpoint") == weights(tmp_path / "unseen/cycle-000/checkpoint")
    assert history(tmp_path / "seen")[-1][MIOU] == pytest.approx(summary["cycles"][0]["miou"], abs=2e-3)


def test_the_student_learns_from_the_last_teacher(toy_data, tmp_path, monkeypatch):
    """Whatever was best on val: pseudo-labels come from the last weights."""
    used = []
    load = Predictor.__init__
    monkeypatch.setattr(
        Predictor, "__init__", lambda self, checkpoint, *rest, **more: used.append(checkpoint) or load(self, checkpoint)
    )
    small_run(toy_data.root, tmp_path, "train.validate_epochs=2", "evaluate.best_on_val=true")
    first = RunLayout(tmp_path).checkpoint(0).resolve()
    second = RunLayout(tmp_path).checkpoint(1).resolve()
    assert used == [first, best_folder(first), first, second, best_folder(second)]


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(0, 4, []), (1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (9, 3, [3])]
)
def test_looks_are_every_so_many_epochs_and_after_the_last(every, epochs, expected):
    settings = TrainSettings(validate_epochs=every, epochs=epochs)
    assert [done for done in range(1, epochs + 1) if due(settings, done)] == expected


def test_the_first_of_equals_is_best():
    rows = [{"epoch": 0}, {"epoch": 1, MIOU: 0.5}, {"epoch": 2, MIOU: 0.5}, {"epoch": 3, MIOU: 0.4}]
    assert best_epoch(rows) == {"epoch": 1, MIOU: 0.5}
    assert best_epoch(rows[:1])[MIOU] < 0


def test_what_can_not_be_looked_at_is_refused(toy_data):
    from orchestrator.run.preflight import check_data

    with pytest.raises(UserError, match=r"evaluate\.best_on_val=true needs train\.validate_epochs"):
        override(small_config(), ["evaluate.best_on_val=true"])
    with pytest.raises(UserError, match=r"train\.validate_epochs: .*greater than or equal to 0"):
        build({"name": "x", "train": {"validate_epochs": -1}})
    without = replace(toy_data, splits={name: s for name, s in toy_data.splits.items() if name != "val"})
    check_data(small_config(), without)
    with pytest.raises(UserError, match="no split 'val'"):
        check_data(small_config("train.validate_epochs=1"), without)
    shards = [replace(shard, masked=shard.masked - 1) for shard in toy_data.shards("val")]
    unmasked = replace(toy_data, splits={**toy_data.splits, "val": tuple(shards)})
    with pytest.raises(UserError, match="split 'val' have no mask"):
        check_data(small_config("train.validate_epochs=1"), unmasked)
    shards = [replace(shard, class_pixels=(0,) * toy_data.num_classes) for shard in toy_data.shards("val")]
    void = replace(toy_data, splits={**toy_data.splits, "val": tuple(shards)})
    check_data(small_config(), void)
    shards = [replace(shard, class_pixels=(0,) * toy_data.num_classes) for shard in toy_data.shards("train")]
    with pytest.raises(UserError, match="all pixels of split 'train' are void, so there is nothing to learn from"):
        check_data(small_config(), replace(toy_data, splits={**toy_data.splits, "train": tuple(shards)}))
    with pytest.raises(UserError, match="all pixels of split 'val' are void, so there is nothing to measure"):
        check_data(small_config("train.validate_epochs=1"), void)
