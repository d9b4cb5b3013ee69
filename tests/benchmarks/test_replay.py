"""Asking again: the same acquisition asks the same, another one something else, and the run stays as it is."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

import querying.shards
from benchmarks.ingest import ingest
from benchmarks.replay import rank_agreement, replay_command
from orchestrator.layout import RunLayout
from querying.errors import UserError
from querying.scorer import read_scores
from tests.faults.common import contents


def replay(run, out, *overrides, **changes):
    options = {"acquisition": None, "data": None, "backend": "local", "address": None}
    replay_command(run, overrides, out=out, **{**options, **changes})


@pytest.fixture
def no_truth(monkeypatch):
    def refused(*args):
        raise AssertionError("the truth was opened")

    for module in ("querying.oracle.read_truth", "training.evaluation.read_truth"):
        monkeypatch.setattr(module, refused)
    assert querying.shards.read_truth is not refused


@pytest.mark.usefixtures("no_truth")
def test_the_same_acquisition_asks_the_same_and_the_run_stays_as_it_is(finished, tmp_path, capsys):
    before = contents(finished)
    replay(finished, tmp_path / "out")
    assert contents(finished) == before
    layout = RunLayout(finished)
    for cycle in (0, 1):
        asked = pq.read_table(layout.query(cycle) / "query.parquet")
        assert pq.read_table(tmp_path / f"out/query-{cycle:03d}.parquet").equals(asked)
    text = capsys.readouterr().out
    assert "asked again with the same settings" in text
    assert text.count("| 100.0 | 1.000 |") == 2
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "replay.md",
        "query-000.parquet",
        "query-001.parquet",
    }


@pytest.mark.usefixtures("no_truth")
def test_another_acquisition_asks_something_else(finished, tmp_path):
    replay(finished, tmp_path / "out", acquisition="random")
    text = (tmp_path / "out/replay.md").read_text()
    assert "query.acquisition entropy -> random" in text
    row = next(line for line in text.splitlines() if line.startswith("| 0 |")).split("|")
    assert row[2] == row[3]
    assert 0 < float(row[4]) < 60
    assert abs(float(row[5])) < 0.3


def test_another_grid_is_compared_in_pixels(finished, tmp_path):
    replay(finished, tmp_path / "out", "query.region_size=8", "query.per_image=8")
    row = next(line for line in (tmp_path / "out/replay.md").read_text().splitlines() if line.startswith("| 0 |"))
    both, agreement = row.split("|")[4:6]
    assert 10 < float(both) <= 100
    assert not agreement.strip()


def test_the_rank_correlation_is_spearmans(finished, tmp_path):
    layout = RunLayout(finished)
    first, second = layout.scores(0), layout.scores(1)
    grid = 12
    pairs = []
    for path in sorted(second.glob("regions-*.arrow")):
        a, b = (dict(zip(*read_scores(folder / path.name, grid), strict=True)) for folder in (first, second))
        pairs += [(x, y) for name in a.keys() & b.keys() for x, y in zip(a[name], b[name], strict=True)]
    pairs = [pair for pair in pairs if np.isfinite(pair).all()]
    assert rank_agreement(first, second, grid) == pytest.approx(spearmanr(*zip(*pairs, strict=True))[0])


def test_what_can_not_be_asked_again_is_named(finished, toy_data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"train\.lr=1: a replay changes keys of `query` alone"):
        replay(finished, out, "train.lr=1")
    with pytest.raises(UserError, match=r"query\.acquisition"):
        replay(finished, out, acquisition="margn")
    other = ingest("toy", None, tmp_path / "other", size=(48, 64), counts=(4, 2, 2), num_classes=6)
    with pytest.raises(UserError, match=r"other: not the data set that .* was made with"):
        replay(finished, out, data=other.root)
    copy = shutil.copytree(finished, tmp_path / "copy")
    for cycle in (0, 1):
        shutil.rmtree(RunLayout(copy).query(cycle))
    with pytest.raises(UserError, match="it has asked nothing"):
        replay(copy, out)
    assert not out.exists()
