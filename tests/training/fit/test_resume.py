"""A training of any method that is stopped in an epoch ends as an undisturbed one: weights and losses, bit for bit."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from querying.base.errors import Interrupted
from querying.base.files import read_json
from tests.small import small_run
from tests.training.tiny import SMALL_U2PL, batch, method, step, total
from tests.training.two_ranks import TwoRanks
from training.fit.progress import TIMINGS, TrainingProgress
from training.fit.states import TrainingStates
from training.methods.registry import METHODS
from training.settings.traits import TRAITS

METHODS_SETTINGS = {"cps": {"cutmix": True}, "u2pl": SMALL_U2PL, "s4al": {"frequent": (0, 1), "rare": (2,)}}

CASES = {
    **{
        name: (f"train.method={name}", "methods.u2pl.memory=50", "methods.s4al.cold_start=1")
        for name in TRAITS
        if TRAITS[name].labels_pool
    },
    "deal": ("train.method=deal",),
    "cps with cutmix": ("train.method=cps", "methods.cps.cutmix=true"),
    "adamw": (
        "train.method=mean_teacher",
        "train.optimizer=adamw",
        "train.lr=0.001",
        "train.layer_decay=0.8",
        "train.clip_norm=0.5",
        "train.schedule=cosine",
        "train.warmup=0.4",
    ),
}


def outcome(root):
    """Weights and losses of the finished training."""
    checkpoint = root / "cycle-000" / "checkpoint"
    history = read_json(checkpoint / "meta.json")["history"]
    losses = [{k: v for k, v in epoch.items() if k not in TIMINGS} for epoch in history]
    return (checkpoint / "model.safetensors").read_bytes(), losses


def steps(trained, optimizer, numbers):
    for number in numbers:
        torch.manual_seed(number)
        g = torch.Generator().manual_seed(number)
        one = batch(pool=2, views=trained.strong_views, seed=number)
        here = step(methods=METHODS_SETTINGS, done=number / 8)._replace(cycle=1)
        optimizer.zero_grad()
        total(trained(one, here._replace(generator=g))).backward()
        optimizer.step()
        trained.after_step(number)


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_state_is_all_that_it_remembers(tmp_path, name):
    """Three steps, saved, restored into one that began elsewhere, and three more: all tensors as after six."""

    def begin(seed):
        trained = method(name, step(methods=METHODS_SETTINGS), seed=seed)
        return trained, torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=0.05, momentum=0.9)

    straight = begin(0)
    steps(*straight, range(6))
    first, second = begin(0), begin(5)
    steps(*first, range(3))
    TrainingStates(tmp_path, "inputs").save(*first, TrainingProgress(3))
    assert TrainingStates(tmp_path, "inputs").restore(*second) == TrainingProgress(3)
    steps(*second, range(3, 6))
    expected = straight[0].state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in second[0].state_dict().items())


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c != "mean_teacher")) for c in CASES])
def test_a_stopped_training_ends_as_an_undisturbed_one(toy_data, tmp_path, monkeypatch, case):
    overrides = ("cycles=0", "train.epochs=2", *CASES[case])
    small_run(toy_data.root, tmp_path / "calm", *overrides)

    asked = itertools.count(1)
    monkeypatch.setattr("training.fit.loop.stop_file", lambda work: SimpleNamespace(exists=lambda: next(asked) == 3))
    with pytest.raises(Interrupted, match="stopped after step 3,"):
        small_run(toy_data.root, tmp_path / "run", *overrides)
    monkeypatch.undo()
    small_run(toy_data.root, tmp_path / "run", *overrides)

    weights, losses = outcome(tmp_path / "run")
    assert (weights, losses) == outcome(tmp_path / "calm")
    assert len(losses) == 2


def test_the_state_holds_second_network_and_teacher_and_momentum_of_what_is_trained(toy_data, tmp_path, monkeypatch):
    for name, other, momentum in (("cps", "second", True), ("mean_teacher", "teacher.network", False)):
        monkeypatch.setattr("training.fit.loop.stop_file", lambda work: SimpleNamespace(exists=lambda: True))
        with pytest.raises(Interrupted):
            small_run(toy_data.root, tmp_path / name, "cycles=0", f"train.method={name}")
        [state] = (tmp_path / name / "cycle-000/training/states").iterdir()
        tensors = load_file(state / "model.safetensors")
        head = "class_head.out.weight"
        assert not torch.equal(tensors[f"model/network.{head}"], tensors[f"model/{other}.{head}"]) or not momentum
        assert f"model/{other}.class_head.bn.running_var" in tensors
        assert f"momentum/network.{head}" in tensors
        assert (f"momentum/{other}.{head}" in tensors) == momentum


@pytest.mark.slow  # each starts six processes that import torch
@pytest.mark.parametrize("case", [case for case in CASES if case != "u2pl"])
def test_two_ranks_that_were_stopped_end_as_undisturbed_ones(toy_data, tmp_path, case):
    """Each rank has its own images; only rank 0's teacher and statistics are in the state."""
    overrides = ("cycles=0", "train.epochs=2", "train.workers=2", "train.batch_size=4", *CASES[case])
    overrides += ("train.batch_size_unlabelled=4", "teacher.batch_size=4")
    small_run(toy_data.root, tmp_path / "calm", *overrides, backend=TwoRanks())
    with pytest.raises(Interrupted):
        small_run(toy_data.root, tmp_path / "run", *overrides, backend=TwoRanks(stop_after=3))
    small_run(toy_data.root, tmp_path / "run", *overrides, backend=TwoRanks())
    assert outcome(tmp_path / "run") == outcome(tmp_path / "calm")
