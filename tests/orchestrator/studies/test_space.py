"""Spaces of recipes' keys: what is refused, what is drawn, and that a sweep draws the same again."""

import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from benchmarks.recipes.catalogue import find
from orchestrator.recipe.config import flatten
from orchestrator.studies.samplers import new_sampler
from orchestrator.studies.space import load_space, parse_space, shipped_spaces, with_values
from querying.base.errors import UserError

BASE = find("toy_s4al_plus")
MIXED = """
train.lr: {loguniform: [1e-3, 0.1]}
reco.weight: {choice: [0.0, 0.1, 1.0]}
reco.queries: {choice: [16, 32], when: {reco.weight: [0.1, 1.0]}}
query.threshold: {uniform: [0.5, 0.9]}
train.steps_per_epoch: {randint: [10, 12]}
query.scales: {choice: [[1.0], [0.5, 1.0]]}
"""


def space(text=MIXED):
    return parse_space(text, BASE, "space.yaml")


def drawn(sampler, count):
    found = []
    for number in range(count):
        found.append(sampler.draw(number, found))
    return found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.learning_rate: {choice: [1]}", r"unknown key 'train.learning_rate'"),
        ("query.treshold: {choice: [1]}", r"unknown key 'query.treshold': did you mean 'query.threshold'"),
        ("train: {choice: [1]}", r"unknown key 'train'"),
        ("query.threshold: {choise: [0.7]}", r"query.threshold: expected one of choice, .*did you mean 'choice'"),
        ("query.threshold: {choice: [0.7], uniform: [0, 1]}", "query.threshold: expected one of"),
        ("query.threshold: 0.7", "query.threshold: expected one of"),
        ("query.threshold: {choice: []}", "query.threshold: choice: expected a list"),
        ("query.threshold: {choice: [0.7, 1.7]}", r"query.threshold: choice: query.threshold: .*\(got 1.7\)"),
        ("query.threshold: {uniform: [0.5, 1.5]}", r"query.threshold: uniform: query.threshold: .*\(got 1.5\)"),
        ("train.epochs: {choice: [many]}", r"train.epochs: choice: train.epochs: .*\(got 'many'\)"),
        ("train.lr: {uniform: [0.1]}", "train.lr: uniform: expected two numbers"),
        ("train.lr: {uniform: [0.1, 0.01]}", "train.lr: uniform: 0.1 is not below 0.01"),
        ("train.lr: {uniform: [a, b]}", "train.lr: uniform: expected two numbers"),
        ("train.weight_decay: {loguniform: [0, 1]}", "loguniform: 0 is not above 0"),
        ("train.epochs: {randint: [1, 2.5]}", "train.epochs: randint: expected two whole numbers"),
        ("train.epochs: {randint: [1, 1e30]}", r"train.epochs: randint: \[1, .*1e\+?30.*\] go beyond 64 bits"),
        (f"train.epochs: {{randint: [1, 1{'0' * 400}]}}", "train.epochs: randint: expected two whole numbers"),
        ("reco.queries: {choice: [8], when: {reco.weight: [1.0]}}", "reco.weight is not a choice or grid"),
        ("reco.queries: {choice: [8], when: [reco.weight]}", "reco.queries: when: expected other keys"),
        (
            "reco.weight: {choice: [0.5]}\nreco.queries: {choice: [8], when: {reco.weight: [1.0]}}",
            "reco.queries: when: reco.weight is never 1.0",
        ),
        (
            "reco.weight: {choice: [1.0], when: {reco.queries: [8]}}\n"
            "reco.queries: {choice: [8], when: {reco.weight: [1.0]}}",
            "conditions of reco.queries, reco.weight go round in a circle",
        ),
        ("[1, 2]", "a space is a mapping"),
        ("{}", "a space is a mapping"),
        ("a: [", "not valid YAML"),
        ("name: {choice: [a, b]}", "name: can not be searched: a trial has the recipe's name and its number"),
        ("data.evaluate_on: {choice: [val, test]}", "data.evaluate_on: can not be searched: .* than val"),
        ("train.epochs: {uniform: [1, 10]}", "train.epochs: uniform: the key takes whole numbers: use randint"),
        ("train.lr: {uniform: [0.1, true]}", "train.lr: uniform: expected two numbers"),
        ("model.weights: {choice: [no/w.safetensors]}", "model.weights=no/w.safetensors: no such file"),
        (
            "reco.weight: {choice: [0.5]}\nreco.queries: {choice: [8], when: {reco.weight: [much]}}",
            r"reco.queries: when: reco.weight: .*\(got 'much'\)",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_that_names_file_and_key(text, message):
    with pytest.raises(UserError, match=message) as caught:
        space(text)
    assert str(caught.value).startswith("space.yaml: ")
    assert "\n" not in str(caught.value)


def test_a_space_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UserError, match=r"--space papr: .*did you mean 'paper'.*there are paper, rates"):
        load_space("papr", BASE)
    with pytest.raises(UserError, match=r"none.yaml: cannot be read"):
        load_space(str(tmp_path / "none.yaml"), BASE)


@pytest.mark.parametrize("name", shipped_spaces())
@pytest.mark.parametrize("recipe", ["camvid_s4al_plus", "cityscapes_s4al_plus"])
def test_the_spaces_that_come_along_fit_the_papers_recipes(name, recipe):
    base = find(recipe)
    for values in drawn(new_sampler("random", load_space(name, base), 6, 0, "max"), 6):
        config = flatten(with_values(base, values).model_dump(mode="json"))
        assert {key: config[key] for key in values} == values


@given(st.integers(0, 2**31), st.integers(0, 10_000))
def test_samples_lie_in_the_space_and_conditions_hold(seed, number):
    values = space().draw(np.random.Generator(np.random.PCG64([seed, number])))
    assert 1e-3 <= values["train.lr"] <= 0.1
    assert 0.5 <= values["query.threshold"] <= 0.9
    assert values["train.steps_per_epoch"] in (10, 11, 12)
    assert ("reco.queries" in values) == (values["reco.weight"] > 0)
    config = with_values(BASE, values)
    assert config.train.lr == values["train.lr"]
    assert list(config.query.scales) == values["query.scales"]


def test_ranges_are_filled_evenly():
    """Half of the samples below the middle: of the logarithm, where that is what is even."""
    found = drawn(new_sampler("random", space(), 400, 1, "max"), 400)
    middle = math.sqrt(1e-3 * 0.1)
    assert 160 < sum(values["train.lr"] < middle for values in found) < 240
    assert 160 < sum(values["query.threshold"] < 0.7 for values in found) < 240
    counts = [sum(values["train.steps_per_epoch"] == n for values in found) for n in (10, 11, 12)]
    assert min(counts) > 100


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_sweep_that_goes_on_draws_the_same(search):
    if search == "optuna":
        pytest.importorskip("optuna")

    def told(sampler, found):
        for number, values in enumerate(found):
            sampler.tell(number, values, values["query.threshold"])

    whole = new_sampler(search, space(), 6, 3, "max")
    found = []
    for number in range(6):
        found.append(whole.draw(number, found))
        whole.tell(number, found[-1], found[-1]["query.threshold"])
    again = new_sampler(search, space(), 6, 3, "max")
    told(again, found[:4])
    assert again.draw(4, found[:4]) == found[4]
    assert new_sampler(search, space(), 6, 4, "max").draw(0, []) != found[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("mode", "better"), [("max", lambda x: x > 0.8), ("min", lambda x: x < 0.6)])
def test_optuna_goes_where_it_is_better(mode, better):
    pytest.importorskip("optuna")
    sampler = new_sampler("optuna", space("query.threshold: {uniform: [0.5, 0.9]}"), 40, 0, mode)
    found = []
    for number in range(40):
        found.append(sampler.draw(number, found))
        sampler.tell(number, found[-1], found[-1]["query.threshold"])
    assert sum(better(values["query.threshold"]) for values in found[20:]) >= 15


def test_no_sample_comes_twice_and_a_small_space_is_exhausted():
    text = "reco.weight: {choice: [0.0, 0.1]}\nreco.queries: {choice: [16, 32], when: {reco.weight: [0.1]}}"
    sampler = new_sampler("random", space(text), 4, 0, "max")
    found = drawn(sampler, 3)
    assert sorted(map(str, found)) == sorted(
        map(
            str,
            [{"reco.weight": 0.0}, {"reco.weight": 0.1, "reco.queries": 16}, {"reco.weight": 0.1, "reco.queries": 32}],
        )
    )
    with pytest.raises(UserError, match=r"space.yaml: has no more than 3 different samples"):
        sampler.draw(3, found)


def test_a_grid_is_every_combination_once():
    text = "reco.weight: {grid: [0.0, 0.1]}\nreco.queries: {grid: [16, 32], when: {reco.weight: [0.1]}}"
    sampler = new_sampler("grid", space(text), None, 0, "max")
    assert sampler.total == 3
    assert drawn(sampler, 3) == [
        {"reco.weight": 0.0}, {"reco.weight": 0.1, "reco.queries": 16}, {"reco.weight": 0.1, "reco.queries": 32},
    ]  # fmt: skip
    assert new_sampler("grid", space(text), 2, 0, "max").total == 2
    with pytest.raises(UserError, match=r"train\.lr: --search grid needs a list"):
        new_sampler("grid", space(), None, 0, "max")
    with pytest.raises(UserError, match="--search random needs --samples"):
        new_sampler("random", space(), None, 0, "max")


def test_a_missing_optuna_is_one_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(UserError, match=r"--search optuna: Optuna is not installed; run: pip install optuna"):
        new_sampler("optuna", space(), 4, 0, "max")


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=4))
def test_values_are_what_the_recipe_has_however_they_are_written(numbers):
    """YAML takes 1e-3 for text and 1 for a whole number; conditions find both."""
    written = ", ".join(f"{number:.3e}" for number in numbers)
    text = f"train.lr: {{choice: [{written}]}}\ntrain.momentum: {{choice: [0], when: {{train.lr: [{numbers[0]:.3e}]}}}}"
    lr, momentum = space(text).parameters
    assert lr.values == tuple(float(f"{number:.3e}") for number in numbers)
    assert momentum.when == {"train.lr": lr.values[:1]}
    assert repr(momentum.values) == "(0.0,)"


def test_a_file_in_a_space_is_found_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").touch()
    [one] = space("model.weights: {choice: [none, w.safetensors]}").parameters
    assert one.values == ("none", str(tmp_path / "w.safetensors"))
