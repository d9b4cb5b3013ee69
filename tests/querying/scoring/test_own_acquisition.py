"""A user's own acquisition: found by its path, tried before anything starts, and used like ours."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from orchestrator.run.preflight import check_data
from querying.base.errors import UserError
from querying.labels.regions import RegionGrid
from querying.scoring.acquisition import entropy
from querying.scoring.custom_acquisition import own_acquisition
from tests.querying.scoring.test_scorer import colours, scorer
from tests.small import small_config, small_run

MODULE = """
import sys
import torch

def surprise(log_p):
    return -(log_p.exp() * log_p).sum(1)

def flat(log_p): return log_p
def whole(log_p): return (log_p.sum(1) * 0).long()
def numbers(log_p): return 3.0
def broken(log_p): return log_p.sum(1) / 0
def in_place(log_p): return 1 - log_p.exp_().amax(1)
def leaves(log_p): sys.exit(0)
def fails(log_p): raise KeyError("no such thing")
def unsure_once(log_p): return log_p.sum(1) * (float("nan") if len(log_p) == 1 else 1.0)
constant = 3
"""


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    (tmp_path / "lab_of_mine.py").write_text(MODULE)
    (tmp_path / "lab_broken.py").write_text("1 / 0\n")
    (tmp_path / "lab_leaves.py").write_text("raise SystemExit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_it_is_used_as_ours_are(tmp_path):
    log_p = torch.randn(2, 5, 6, 7).log_softmax(1)
    assert torch.equal(own_acquisition("lab_of_mine:surprise")(log_p), entropy(log_p))
    own, ours = (
        scorer(tmp_path, RegionGrid(8, 8, 4), acquisition=name).score(["a", "b"], colours(2), {})[0]
        for name in ("lab_of_mine:surprise", "entropy")
    )
    assert own["image_id"].equals(ours["image_id"])
    own_R, ours_R = (rows["score"].flatten().to_numpy() for rows in (own, ours))
    np.testing.assert_allclose(own_R, ours_R, rtol=1e-6)  # ours is found without the log-probabilities


def test_one_that_works_in_place_changes_no_pseudo_label(tmp_path):
    own, ours = (
        scorer(tmp_path, RegionGrid(8, 8, 4), acquisition=name).score(["a", "b"], colours(2), {})[1]
        for name in ("lab_of_mine:in_place", "least_confidence")
    )
    assert own["coverage"].to_pylist() == pytest.approx(ours["coverage"].to_pylist())
    assert own["label"].equals(ours["label"])


def test_a_run_asks_what_it_says(toy_data, tmp_path):
    for name, run in (("lab_of_mine:surprise", "own"), ("entropy", "ours")):
        small_run(toy_data.root, tmp_path / run, f"query.acquisition={name}")
    own, ours = (
        pq.read_table(tmp_path / run / "cycle-000/query/query.parquet", columns=["image_id", "region"])
        for run in ("own", "ours")
    )
    assert own.equals(ours)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lab_of_nobody:f", r"lab_of_nobody can not be imported \(is its folder in PYTHONPATH\?\)"),
        ("lab_broken:f", "importing lab_broken: ZeroDivisionError"),
        ("lab_of_mine:f", "lab_of_mine has no f"),
        ("lab_of_mine:constant", "is not a function"),
        ("lab_of_mine:flat", r"gives torch.float32 \(2, 3, 4, 5\) .* not a float tensor \(2, 4, 5\)"),
        ("lab_of_mine:whole", r"gives torch.int64 \(2, 4, 5\)"),
        ("lab_of_mine:numbers", "gives float for"),
        ("lab_of_mine:broken", "not finite"),
        ("lab_of_mine:fails", "KeyError: 'no such thing'"),
        ("lab_of_mine:leaves", "SystemExit: 0"),
        ("lab_leaves:f", "importing lab_leaves: SystemExit: 3"),
    ],
)
def test_what_is_no_acquisition_is_said_before_anything_starts(toy_data, spec, message):
    with pytest.raises(UserError, match=message) as caught:
        check_data(small_config(f"query.acquisition={spec}"), toy_data)
    assert str(caught.value).startswith(f"query.acquisition={spec}: ")


def test_a_score_that_is_not_finite_names_the_image(tmp_path):
    one = scorer(tmp_path, RegionGrid(8, 8, 4), acquisition="lab_of_mine:unsure_once")
    with pytest.raises(FloatingPointError, match="image a: the network's output or its score is not finite"):
        one.score(["a"], colours(1), {})


@pytest.mark.parametrize("name", ["entropi", "a b:c", "module:", ":f", "os.system('x'):f", "a:b:c"])
def test_another_name_is_no_path(name):
    with pytest.raises(UserError, match=r"acquisition: Input should be 'entropy', .* or package\.module:function"):
        small_config(f"query.acquisition={name!r}")
