"""What a run is said to take, against what is counted by hand and what a run really leaves."""

import json

import pytest
import yaml

from benchmarks.commands import show
from orchestrator.process.progress import SilentProgress
from orchestrator.recipe.config import override
from orchestrator.run import estimate, training_watch
from orchestrator.run.estimate import Rates, bytes_kept, disk_line, estimate_lines, in_words, measured, seconds, size
from querying.base.errors import UserError
from tests.small import small_config


def test_counts_times_rates(toy_data):
    """24 train, 4 val and 6 test images; teacher and reference see 2 images a step, the student 2 + 2."""
    config = small_config("reference=true", "train.validate_epochs=2", "evaluate.best_on_val=true")
    found = seconds(config, toy_data, Rates({0: 1.0, 1: 10.0}, {"evaluate_images": 100.0, "score_shard": 1000.0}))
    assert found["training"] == 3 * 2 * 2 * 1 + 3 * 2 * 4 * 10 + 3 * 2 * 2 * 1
    assert found["evaluation"] == 3 * 100 * (2 * 6 + 2 * 4)  # last and best; after epochs 2 and 3
    assert found["scoring"] == 24 * 1000
    alone = small_config("cycles=0")
    assert seconds(alone, toy_data, Rates({0: 1.0}, {"evaluate_images": 1.0})) == {
        "training": 12, "evaluation": 6, "scoring": 0,
    }  # fmt: skip


def test_a_run_leaves_about_what_is_said(finished, toy_data, monkeypatch):
    """Its networks, scores and ledger, without the room for the report, ONNX and the states of a training."""
    monkeypatch.setattr(estimate, "PAGES", 0)
    monkeypatch.setattr(estimate, "STATES", -2)
    config = small_config("train.epochs=1", "cycles=2", "reference=true", "query.threshold=0.2", "model.dropout=0")
    kept = sum(path.stat().st_size for path in finished.rglob("*") if path.is_file())
    assert kept == pytest.approx(bytes_kept(config, toy_data), rel=0.1)


def test_a_disk_that_is_too_small_is_said(toy_data, tmp_path, monkeypatch):
    assert disk_line(small_config(), toy_data, tmp_path).endswith("are free")
    monkeypatch.setattr(estimate.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000_000}))
    assert "1 MB are free: too little: free some" in disk_line(small_config(), toy_data, tmp_path)


def test_a_few_steps_of_every_kind_are_really_made(toy_data, tmp_path, monkeypatch):
    before = sorted(path.stat().st_mtime_ns for path in toy_data.root.rglob("*"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rates = measured(small_config("train.method=st++", "cycles=2", "query.per_image=0", "reco.weight=0"), toy_data)
    assert rates.train.keys() == {0, 1, 2}
    assert rates.shards.keys() == {"evaluate_images", "score_shard", "count_shard", "rank_shard"}
    assert all(0 < value < 60 for value in (*rates.train.values(), *rates.shards.values()))
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.stat().st_mtime_ns for path in toy_data.root.rglob("*")) == before


def test_what_is_shown_with_data_is_still_the_recipe(toy_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(estimate, "measured", lambda config, index: Rates({0: 1.0}, {"evaluate_images": 1.0}))
    monkeypatch.setattr(show, "resolve", lambda recipe, overrides: override(small_config(), overrides))
    show.show_recipe("toy", ["cycles=0", "data.size=null", "data.dataset=null"], toy_data.root)
    printed = capsys.readouterr().out
    assert printed.startswith("# about 18 s on this machine (training 0:12, evaluation 0:06), about ")
    assert yaml.safe_load(printed)["cycles"] == 0
    with pytest.raises(UserError, match="expects 96x96"):
        show.show_recipe("toy", ["data.size=[96,96]", "data.dataset=null"], toy_data.root)
    with_several = small_config("query.actors=4", "budget=0.5")
    lines = estimate_lines(with_several, toy_data)
    assert any("query.actors share the work" in line for line in lines)
    assert any("budget and stop_at may end it earlier" in line for line in lines)


def test_words_of_times_and_sizes():
    assert [in_words(value) for value in (40, 150, 3600 * 3.1, 86_400 * 2.4)] == [
        "40 s",
        "2.5 min",
        "3.1 h",
        "2.4 days",
    ]
    assert [size(value) for value in (10, 310e6, 1.24e9)] == ["1 MB", "310 MB", "1.2 GB"]


class Progress(SilentProgress):
    def __init__(self):
        self.said, self.note = [], ""

    def say(self, line):
        self.said.append(line)

    def update(self, done, total, note):
        self.note = note


def test_a_run_says_once_how_long_its_trainings_take(tmp_path, monkeypatch):
    """10 steps of 4 images in 20 s: 2 images/s; 90 steps are left, and 240 images of later trainings."""
    import os

    path, progress = tmp_path / "progress.json", Progress()
    monkeypatch.setattr(training_watch, "POLL_S", 0.01)

    def at(step, when):
        staged = path.with_name(".staged")
        staged.write_text(json.dumps({"step": step, "total": 100, "loss": 1.0, "waiting": 0.0}))
        os.utime(staged, (when, when))
        staged.replace(path)

    at(0, 1000)
    with training_watch.followed(tmp_path, progress, "main cycle 0", 4, later=240):
        wait_for(lambda: True, 0.2)
        assert progress.said == []
        at(10, 1020)
        wait_for(lambda: progress.said, 5)
        at(20, 1040)
    [line] = progress.said
    assert "run: about 4:40 of training left" in progress.note
    assert line.startswith("about 5:00 of training in this run at 2.0 images/s; evaluation and scoring come on top")


def test_of_the_last_training_its_own_line_says_all(tmp_path, monkeypatch):
    path, progress = tmp_path / "progress.json", Progress()
    monkeypatch.setattr(training_watch, "POLL_S", 0.01)
    with training_watch.followed(tmp_path, progress, "main cycle 1", 4, later=0):
        path.write_text(json.dumps({"step": 60, "total": 100, "loss": 1.0, "waiting": 0.0}))
        wait_for(lambda: progress.note, 5)
    assert progress.said == []
    assert "run:" not in progress.note


def wait_for(there, seconds):
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end and not (there() and seconds > 1):
        time.sleep(0.01)
