"""What a data set's regime is, by hand, and that what it advises can be typed."""

import shlex

import numpy as np
import pytest

from benchmarks.datasets.doctor import doctor_command
from benchmarks.datasets.regime import RECIPES, Neighbours, Regime
from benchmarks.recipes.catalogue import find, resolve


def neighbours(*greys):
    """Of images of one grey each."""
    found = Neighbours()
    for grey in greys:
        found.add(np.full((32, 48, 3), grey, np.uint8))
    return found


def test_redundancy_by_hand():
    """Steps of 10 between neighbours, 40 between images four apart (and 40 around the end): 1 - 10 / 40."""
    assert neighbours(*range(0, 80, 10)).redundancy() == pytest.approx(0.75)
    assert neighbours(*[100] * 8).redundancy() == 1
    # neighbours 200 apart, those four apart, too
    assert neighbours(0, 200, 0, 200, 200, 0, 200, 0).redundancy() < 0.01
    assert neighbours(*range(7)).redundancy() is None


def test_order_makes_a_video_redundant():
    rng = np.random.default_rng(0)
    video = np.cumsum(rng.normal(0, 2, (40, 12, 16, 3)), axis=0) * 3 + 128
    frames = np.clip(video, 0, 255).astype(np.uint8).repeat(4, 1).repeat(4, 2)
    inorder, shuffled = Neighbours(), Neighbours()
    for frame in frames:
        inorder.add(frame)
    for place in rng.permutation(len(frames)):
        shuffled.add(frames[place])
    assert inorder.redundancy() > 0.5
    assert abs(shuffled.redundancy()) < 0.2


def regime(images=200, masked=200, redundancy=0.0, **shares):
    return Regime(images, masked, redundancy, shares or {"road": 0.6, "car": 0.4})


def advice(one, name="mine", size=(100, 100)):
    return "\n".join(one.advice(name, size, "data/mine"))


def test_what_is_advised_follows_from_what_was_measured():
    plain = advice(regime())
    assert plain.startswith("s4al run custom_s4al_plus query.region_size=8 --data data/mine: every image has a mask")
    assert advice(regime(), size=(360, 480)).startswith("s4al run custom_s4al_plus --data")
    assert "cover" not in plain
    assert "diverse" not in plain
    assert "seeds" not in plain
    partly = advice(regime(masked=100))
    assert "initial.images=100 query.per_image=0 reference=false" in partly, "all masks that were paid for"
    assert "headroom" not in partly, "it needs every mask"
    assert "s4al init DIR" in advice(Regime(200, 0, 0.0, {}))
    assert "query.select=diverse" in advice(regime(redundancy=0.7))
    assert "three seeds" in advice(regime(images=30, masked=30))
    rare = regime(road=0.97, sign=0.02, pole=0.01, gone=0.0)
    assert rare.rare == ["pole"]
    assert "initial.cover=true" in advice(rare)
    assert "initial.cover" not in advice(regime(masked=100, road=0.99, pole=0.01)), "all masks are used anyway"


def test_every_command_that_is_advised_is_one():
    for (name, size), recipe in RECIPES.items():
        data = find(recipe).data
        assert (data.dataset, data.size) == (name, size)
    for one in (regime(), regime(masked=100), regime(redundancy=0.7, pole=0.01, road=0.99)):
        for name, size in (("mine", (100, 100)), ("toy", (96, 128)), *RECIPES):
            command, *_ = one.advice(name, size, "DATA")
            words = shlex.split(command.partition(" --data")[0])
            assert words[:2] == ["s4al", "run"]
            more = ["query.select=diverse", "query.class_share=0.5", "initial.cover=true", "query.acquisition=random"]
            for extra in ([], *([one] for one in more)):
                resolve(words[2], [*words[3:], *extra])


def test_the_doctor_shows_regime_and_first_command(toy_data, capsys):
    doctor_command(toy_data.root)
    shown = capsys.readouterr().out
    assert "regime of the train split" in shown
    assert "100.0 %" in shown
    assert f"start with: s4al run toy_s4al_plus --data {toy_data.root}" in shown
