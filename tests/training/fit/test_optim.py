"""Optimisers, rates and the shortening of gradients, each against its formula."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from querying.base.files import read_json
from tests.small import small_config, small_run
from training.fit.optim import clip, learning_rate, new_optimizer, set_lr
from training.settings.training import TrainSettings


def rates(**settings):
    train = TrainSettings(steps_per_epoch=2, **settings)
    return [learning_rate(step, train) for step in range(2 * train.epochs)]


def test_poly_falls_by_the_epoch_from_the_base():
    assert rates(epochs=3, lr=0.01) == [
        0.01, 0.01, *[pytest.approx(0.01 * (2 / 3) ** 0.9)] * 2, *[pytest.approx(0.01 * (1 / 3) ** 0.9)] * 2
    ]  # fmt: skip
    assert rates(epochs=4, lr=4.0, poly_power=1) == [4.0, 4.0, 3.0, 3.0, 2.0, 2.0, 1.0, 1.0]
    assert rates(epochs=4, lr=2.0, poly_power=2)[2] == pytest.approx(2.0 * 0.75**2)


def test_a_cosine_falls_to_half_in_the_middle():
    expected = [0.6 * (1 + math.cos(math.pi * epoch / 6)) / 2 for epoch in range(6)]
    assert rates(epochs=6, lr=0.6, schedule="cosine")[::2] == pytest.approx(expected)
    assert rates(epochs=6, lr=0.6, schedule="cosine")[6] == pytest.approx(0.3)


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_rates_rise_step_by_step_and_fall_over_what_is_left(schedule):
    """Five epochs of two steps, a fifth of the steps to rise in: at half the base, at the base, then as four epochs."""
    found = rates(epochs=5, lr=0.8, schedule=schedule, warmup=0.2)
    assert found[:2] == pytest.approx([0.4, 0.8])
    assert found[2:] == pytest.approx(rates(epochs=4, lr=0.8, schedule=schedule))
    # 3 of 10 steps: the second epoch ends at the base, having begun at 3/3 of it; the third has 0.1 of 0.7 behind it
    found = rates(epochs=5, lr=3.0, poly_power=1, warmup=0.3)
    assert found[:6] == pytest.approx([1.0, 2.0, 3.0, 3.0, 3.0 * 6 / 7, 3.0 * 6 / 7])


def test_every_group_keeps_its_ratio_to_the_base():
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr_scale": scale} for scale in (1.0, 10.0)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_lr(optimizer, 0.02)
    assert [group["lr"] for group in optimizer.param_groups] == [0.02, 0.2]


def test_adamw_by_its_formula_in_float64():
    """Four steps with another rate each: weights shrink by rate * decay, biases do not, the rate is the head's."""
    rng = np.random.default_rng(0)
    start = {"weight": rng.standard_normal((3, 4)), "bias": rng.standard_normal(3)}
    layer = nn.Linear(4, 3).double()
    with torch.no_grad():
        for name, value in start.items():
            getattr(layer, name).copy_(torch.from_numpy(value))
    train = TrainSettings(optimizer="adamw", lr=0.01, head_lr_scale=4, weight_decay=0.3, betas=(0.8, 0.95))
    optimizer = new_optimizer(layer, train)
    mean = {name: np.zeros_like(value) for name, value in start.items()}
    square = {name: np.zeros_like(value) for name, value in start.items()}
    for step, rate in enumerate((0.01, 0.02, 0.005, 0.001), 1):
        set_lr(optimizer, rate)
        for name in start:
            gradient = rng.standard_normal(start[name].shape)
            getattr(layer, name).grad = torch.from_numpy(gradient)
            mean[name] = 0.8 * mean[name] + 0.2 * gradient
            square[name] = 0.95 * square[name] + 0.05 * gradient**2
            start[name] -= 4 * rate * (0.3 if name == "weight" else 0.0) * start[name]
            unbiased = mean[name] / (1 - 0.8**step), square[name] / (1 - 0.95**step)
            start[name] -= 4 * rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
        optimizer.step()
        for name, value in start.items():
            np.testing.assert_allclose(getattr(layer, name).detach().numpy(), value, rtol=1e-12, atol=1e-14)


def test_sgd_by_its_formula_decays_biases_too():
    layer = nn.Linear(1, 1).double()
    with torch.no_grad():
        layer.weight.fill_(2.0)
        layer.bias.fill_(1.0)
    optimizer = new_optimizer(layer, TrainSettings(lr=0.1, head_lr_scale=1, momentum=0.5, weight_decay=0.2))
    layer.weight.grad, layer.bias.grad = torch.full((1, 1), 0.6).double(), torch.full((1,), 0.8).double()
    optimizer.step()
    # g + decay * w, then Nesterov: g + momentum * g
    assert layer.weight.item() == pytest.approx(2.0 - 0.1 * 1.5 * (0.6 + 0.4))
    assert layer.bias.item() == pytest.approx(1.0 - 0.1 * 1.5 * (0.8 + 0.2))


def test_gradients_are_shortened_together_and_only_where_they_are_longer():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    groups = [{"params": parameters[:1], "lr": 1.0}, {"params": parameters[1:], "lr": 9.0}]
    optimizer = torch.optim.SGD(groups, lr=1.0)

    def give():
        for parameter, value in zip(parameters, ([3.0, 0.0], [4.0], None), strict=True):
            parameter.grad = None if value is None else torch.tensor(value)

    give()
    clip(optimizer, 0.5)  # the length is 5: a tenth is left
    assert parameters[0].grad.tolist() == pytest.approx([0.3, 0.0], rel=1e-5)
    assert parameters[1].grad.tolist() == pytest.approx([0.4], rel=1e-5)
    give()
    clip(optimizer, 5.1)
    assert parameters[0].grad.tolist() == [3.0, 0.0]
    assert parameters[1].grad.tolist() == [4.0]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"betas": (0.8, 0.9)}, r"betas is not of optimizer=sgd: leave it at its default, \(0\.9, 0\.999\)"),
        ({"optimizer": "adamw", "momentum": 0.5}, r"momentum is not of optimizer=adamw: .* 0\.9"),
        ({"optimizer": "adamw", "nesterov": False}, r"nesterov is not of optimizer=adamw: .* True"),
        ({"schedule": "cosine", "poly_power": 1.0}, "poly_power is of schedule=poly, not of schedule=cosine"),
    ],
)
def test_keys_of_another_optimiser_or_schedule_are_refused(settings, line):
    with pytest.raises(ValueError, match=line):
        TrainSettings(**settings)


def test_a_training_shortens_its_gradients_and_takes_the_schedules_rates(toy_data, tmp_path):
    """With gradients of no length weights stay where they began, as at no rate; without, they do not."""
    words = ("cycles=0", "train.epochs=2", "train.method=supervised", "reco.weight=0", "train.weight_decay=0")
    words += ("train.schedule=cosine", "train.warmup=0.5")
    given = {"short": ["train.clip_norm=1e-9"], "still": ["train.lr=1e-12"], "free": []}
    found = {}
    for name, more in given.items():
        small_run(toy_data.root, tmp_path / name, *words, *more)
        folder = tmp_path / name / "cycle-000/checkpoint"
        found[name] = load_file(folder / "model.safetensors")["class_head.out.weight"]
    torch.testing.assert_close(found["short"], found["still"], rtol=0, atol=1e-6)
    assert (found["free"] - found["still"]).abs().max() > 1e-3
    rates = [epoch["train/lr"] for epoch in read_json(folder / "meta.json")["history"]]
    train = small_config(*words).train
    assert rates == [learning_rate(1, train), learning_rate(3, train)] == [train.lr, train.lr]
