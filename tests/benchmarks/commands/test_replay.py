"""Asking again: the same acquisition asks the same, another one something else, and the run stays as it is."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

import querying.dataset.shards
from benchmarks.commands.replay import replay_command
from benchmarks.datasets.ingest import ingest
from benchmarks.results.replay import rank_agreement
from orchestrator.folder.layout import RunLayout
from querying.base.errors import UserError
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid
from querying.scoring.score_files import read_scores
from tests.faults.common import contents
from tests.small import small_config


def replay(run, out, *overrides, **changes):
    options = {"acquisition": None, "data": None, "backend": "local", "address": None}
    replay_command(run, overrides, out=out, **{**options, **changes})


@pytest.fixture
def no_truth(monkeypatch):
    def refused(*args):
        raise AssertionError("the truth was opened")

    for module in ("querying.labels.oracle.read_truth", "training.inference.evaluation.read_truth"):
        monkeypatch.setattr(module, refused)
    assert querying.dataset.shards.read_truth is not refused


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
def test_a_run_may_be_the_folder_in_which_one_stands(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(finished, tmp_path / "run"))
    replay(Path(), None, acquisition="margin")
    assert (tmp_path / "run.replay-margin/replay.md").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        replay(Path(), tmp_path / "file")


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


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        ("query.acquisition=coreset query.unit=image query.images=2", "24"),
        ("query.unit=image query.images=3", "36"),
        ("query.unit=pixel query.region_size=1 query.per_image=5", "95"),
        ("query.select=class_balanced", "38"),
        ("query.select=diverse", "38"),
    ],
)
@pytest.mark.usefixtures("no_truth")
def test_other_units_and_selections_can_be_asked_for(finished, tmp_path, words, cells):
    replay(finished, tmp_path / "out", *words.split())
    row = next(line for line in (tmp_path / "out/replay.md").read_text().splitlines() if line.startswith("| 0 |"))
    assert row.split("|")[3].strip() == cells
    assert 0 < float(row.split("|")[4]) < 100


@pytest.mark.parametrize(("size", "unit"), [(1, "pixel"), (8, "cell"), (24, "cell"), (12, "image")])
def test_nothing_that_the_run_has_bought_is_asked_for_on_another_grid(finished, tmp_path, size, unit):
    words = [
        f"query.unit={unit}",
        f"query.region_size={size}",
        f"query.{'images' if unit == 'image' else 'per_image'}=9",
    ]
    replay(finished, tmp_path / "out", *words)
    layout = RunLayout(finished)
    height, width = 48, 64
    theirs = RegionGrid(height, width, small_config().query.region_size)
    ours = RegionGrid(height, width, size)
    bought = {i: theirs.mask(regions) for i, regions in Ledger(layout.ledger).bought(1).items()}
    whole = set(Ledger(layout.ledger).images(0))
    table = pq.read_table(tmp_path / "out/query-001.parquet")
    for image_id, region in zip(table["image_id"].to_pylist(), table["region"].to_pylist(), strict=True):
        assert image_id not in whole
        assert image_id not in bought or not bought[image_id][ours.box(region)].any()
    assert table.num_rows


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


def test_scores_that_are_all_equal_have_no_rank_correlation(tmp_path, monkeypatch):
    """0.1 seven times has a standard deviation above 0 in float32."""
    (tmp_path / "regions-00000.arrow").touch()
    monkeypatch.setattr(
        "querying.scoring.score_files.read_scores", lambda path, n: (["a"], np.full((1, n), 0.1, np.float32))
    )
    assert rank_agreement(tmp_path, tmp_path, 7) is None


def test_what_can_not_be_asked_again_is_named(finished, toy_data, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"train\.lr=1: a replay changes keys of `query` alone"):
        replay(finished, out, "train.lr=1")
    with pytest.raises(UserError, match=r"query\.acquisition"):
        replay(finished, out, acquisition="margn")
    with pytest.raises(UserError, match=r"coreset chooses whole images: it needs query\.unit=image, query\.images=N"):
        replay(finished, out, acquisition="coreset")
    other = ingest("toy", None, tmp_path / "other", size=(48, 64), counts=(4, 2, 2), num_classes=6)
    with pytest.raises(UserError, match=r"other: not the data set that .* was made with"):
        replay(finished, out, data=other.root)
    copy = shutil.copytree(finished, tmp_path / "copy")
    for cycle in (0, 1):
        shutil.rmtree(RunLayout(copy).query(cycle))
    with pytest.raises(UserError, match="it has asked nothing"):
        replay(copy, out)
    assert not out.exists()
