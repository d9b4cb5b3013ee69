"""Sweeps: what is remembered, what Tune is told, what is drawn and written; slow: real ones, killed and submitted."""

import csv
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import spearmanr

from benchmarks.commands.compare import compare_any
from benchmarks.commands.sweep import sweep_command
from benchmarks.commands.sweep_end import conclude
from benchmarks.figures.sweep_figures import _places, figures
from benchmarks.recipes.catalogue import find
from benchmarks.report.sweep_table import as_csv, as_markdown
from benchmarks.results.sweep import best_so_far, importance, side_by_side
from orchestrator.choices import Checkpoint
from orchestrator.recipe.config import override
from orchestrator.run.outcome import curve, outcome, total_steps
from orchestrator.studies.sweep import DRAWN, FAILED, FINISHED, PRUNED, Sample, SweepRecord, best, config_of
from orchestrator.studies.trials import base_of
from querying.base.errors import DamagedError, UserError
from querying.base.files import read_json, write_json
from tests.faults.processes import until
from tests.mlflow_files import sqlite_uri
from tests.small import SMALL, small_config, small_run

ROOT = Path(__file__).parents[3]
TRIAL = [*SMALL, "cycles=0", "train.epochs=9", "train.steps_per_epoch=2"]
SPACE = "train.lr: {loguniform: [0.001, 0.3]}\nreco.weight: {choice: [0.0, 0.1]}\n"
SETTINGS = {
    "recipe": find("toy_s4al_plus").model_dump(mode="json"), "space": [], "search": "random", "scheduler": "asha",
    "objective": "miou", "mode": "max", "seed": 0, "data": "x", "samples": 4,
}  # fmt: skip


class Fixed:
    total = 9

    def draw(self, number, before):
        assert len(before) == number
        return {"train.lr": (number + 1) / 10}


def samples():
    """Four finished, one stopped early, one failed, one on its way."""
    found = []
    for number, (lr, kind, miou) in enumerate(
        [(0.1, "a", 0.3), (0.2, "a", 0.5), (0.3, "b", 0.4), (0.4, "b", 0.6), (0.5, "a", None), (0.6, "a", None)]
    ):
        one = Sample(number, {"train.lr": lr, "query.acquisition": kind}, FINISHED, [{"step": 9, "miou": miou or 0.2}])
        one.outcome = {"miou": miou, "labelled_fraction": 0.1, "seconds": 5.0 + number} if miou else {}
        found.append(one)
    found[4].state, found[5].state, found[5].error = PRUNED, FAILED, "status 5: no memory"
    return [*found, Sample(6, {"train.lr": 0.7})]


def test_samples_are_remembered_and_only_more_of_them_is_the_same_sweep(tmp_path):
    record = SweepRecord(tmp_path / "s")
    record.begin(SETTINGS)
    first = [record.draw(Fixed()) for _ in range(3)]
    first[1].state, first[1].rows = PRUNED, [{"step": 4, "miou": 0.25}]
    record.keep(first[1])
    again = SweepRecord(tmp_path / "s")
    assert again.samples == first
    again.begin({**SETTINGS, "samples": 9})
    assert again.draw(Fixed()).values == {"train.lr": 0.4}
    with pytest.raises(UserError, match="s: holds another sweep: its scheduler differs"):
        again.begin({**SETTINGS, "scheduler": "fifo"})
    (tmp_path / "s/trials/0001.json").unlink()
    with pytest.raises(DamagedError, match="sample 1 is missing"):
        SweepRecord(tmp_path / "s")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/photo.png").touch()
    with pytest.raises(UserError, match="other: is not empty and not a sweep"):
        SweepRecord(tmp_path / "other").begin(SETTINGS)


def test_a_trial_that_ended_unseen_is_finished_and_one_that_failed_is_tried_again(tmp_path, toy_data):
    record = SweepRecord(tmp_path)
    trial = ("cycles=0", "train.epochs=2", "train.validate_epochs=1")
    record.begin({**SETTINGS, "recipe": small_config(*trial).model_dump(mode="json")})
    for _ in range(3):
        record.draw(Fixed())
    small_run(toy_data.root, record.folder(0), *trial)
    record.samples[0].rows = [{"step": 2, "miou": 0.1}]  # as far as it was seen
    record.samples[1].state, record.samples[1].error = FAILED, "x"
    record.keep(record.samples[1])
    record.settle()
    states = [one.state for one in SweepRecord(tmp_path).samples]
    assert states == [one.state for one in record.samples] == [FINISHED, DRAWN, DRAWN]
    assert record.samples[0].outcome == outcome(record.folder(0))
    assert record.samples[0].rows == curve(record.folder(0), small_config(*trial))
    assert [row["step"] for row in SweepRecord(tmp_path).samples[0].rows] == [2, 4]


def test_a_runs_curve_goes_on_over_its_cycles_and_ends_with_its_outcome(tmp_path, toy_data):
    """Two trainings of three epochs of two steps, looked at after each."""
    config = small_config("train.validate_epochs=1", "data.evaluate_on=val")
    assert curve(tmp_path, config) == []
    assert outcome(tmp_path) is None
    summary = small_run(toy_data.root, tmp_path, "train.validate_epochs=1", "data.evaluate_on=val")
    rows = curve(tmp_path, config)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12]
    assert total_steps(config) == 12
    assert rows[2]["miou"] == pytest.approx(summary["cycles"][0]["miou"], abs=2e-3)
    found = outcome(tmp_path)
    assert rows[-1]["miou"] == pytest.approx(found["miou"], abs=2e-3)
    assert found["seconds"] == pytest.approx(sum(sum(row["seconds"].values()) for row in summary["cycles"]))


def test_a_curve_is_read_while_its_training_goes_on(tmp_path):
    (tmp_path / "cycle-000/training").mkdir(parents=True)
    text = '[{"epoch": 0, "step": 2, "val/miou": 0.1}, {"epoch": 2, "step": 6, "val/miou": 0.2}]'
    (tmp_path / "cycle-000/training/validation.json").write_text(text)
    assert curve(tmp_path, small_config()) == [{"step": 2, "miou": 0.1}, {"step": 6, "miou": 0.2}]


def test_asha_knows_what_ended_before():
    """Rungs at 3 and 9 of 27 steps; of four trials at a rung all but the best are stopped, also after a restart."""
    from types import SimpleNamespace

    from orchestrator.studies.ray_trials import scheduler_of

    past = [
        [{"step": 1, "miou": 0.5}, {"step": 3, "miou": 0.6}],
        [{"step": 1, "miou": 0.1}],
        [{"step": 1, "miou": 0.2}],
    ]
    for known, expected in ((past, "STOP"), ([], "CONTINUE")):
        asha = scheduler_of("asha", "max", 27, known)
        trial = SimpleNamespace(trial_id="new")
        asha.on_trial_add(None, trial)
        assert asha.on_trial_result(None, trial, {"step": 2, "miou": 0.0}) == "CONTINUE"
        assert asha.on_trial_result(None, trial, {"step": 3, "miou": 0.3}) == expected
        good = SimpleNamespace(trial_id="good")
        asha.on_trial_add(None, good)
        assert asha.on_trial_result(None, good, {"step": 3, "miou": 0.7}) == "CONTINUE"
    asha = scheduler_of("asha", "min", 27, past)
    asha.on_trial_add(None, trial)
    assert asha.on_trial_result(None, trial, {"step": 3, "miou": 0.05}) == "CONTINUE"
    assert asha.on_trial_result(None, trial, {"step": 27, "miou": 0.01}) == "CONTINUE"  # its evaluation is to come


def test_trials_are_judged_on_val():
    base = find("toy_s4al_plus")
    assert base_of(base, [], "asha", "miou").data.evaluate_on == "val"
    assert base_of(base, [], "asha", "miou").train.validate_epochs == 1
    assert base_of(override(base, ["train.validate_epochs=3"]), [], "asha", "miou").train.validate_epochs == 3
    assert base_of(base, [], "fifo", "seconds").train.validate_epochs == 0
    assert base.reference
    assert not base_of(base, [], "asha", "miou").reference
    assert base_of(base, ["reference=true"], "asha", "miou").reference
    with pytest.raises(UserError, match=r"data.evaluate_on=test: a sweep chooses"):
        base_of(base, ["data.evaluate_on=test"], "asha", "miou")
    with pytest.raises(UserError, match="use fifo with --objective seconds"):
        base_of(base, [], "asha", "seconds")


def test_the_best_is_a_finished_one_and_the_first_of_equals():
    found = samples()
    assert best(found, "miou", "max").number == 3
    assert best(found, "miou", "min").number == 0
    assert best(found, "seconds", "min").number == 0
    assert best(found[4:], "miou", "max") is None
    found[1].outcome["miou"] = 0.6
    assert best(found, "miou", "max").number == 1
    assert best_so_far(samples(), "miou", "max") == [0.3, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6]
    assert best_so_far(samples()[4:], "miou", "max") == [None, None, None]


def test_importance_is_rank_correlation_or_the_correlation_ratio():
    """Groups a: 0.3, 0.5, b: 0.4, 0.6, 0.5; means 0.4 and 0.5, in all 0.46."""
    figures_of = [(0.1, "a", 0.3), (0.2, "a", 0.5), (0.3, "b", 0.4), (0.4, "b", 0.6), (0.5, "b", 0.5)]
    done = [
        Sample(n, {"lr": lr, "kind": kind}, FINISHED, [], {"miou": y}) for n, (lr, kind, y) in enumerate(figures_of)
    ]
    found = importance(done, "miou")
    y = [y for _, _, y in figures_of]
    assert found["lr"] == pytest.approx(abs(spearmanr(range(5), y)[0]))
    between = 2 * 0.06**2 + 3 * 0.04**2
    assert found["kind"] == pytest.approx(math.sqrt(between / sum((one - 0.46) ** 2 for one in y)))
    assert list(found) == sorted(found, key=lambda key: -found[key])
    assert importance(done[:4], "miou") == {}
    constant = [Sample(n, {"a": 1}, FINISHED, [], {"miou": n / 10}) for n in range(5)]
    assert importance(constant, "miou") == {}


def test_trials_that_were_stopped_early_are_compared_where_all_have_been():
    """At step 2 of curves that end at 6, 4 and 2; a trial without a figure is left out."""
    ends = [(FINISHED, 3), (PRUNED, 2), (PRUNED, 1), (DRAWN, 0), (FAILED, 1)]
    trials = [
        Sample(n, {"a": n}, state, [{"step": 2 * k, "miou": n + k / 10} for k in range(1, end + 1)], {"miou": 9.0})
        for n, (state, end) in enumerate(ends)
    ]
    compared, of = side_by_side(trials, "miou")
    assert [(one.number, value) for one, value in compared] == [(0, 0.1), (1, 1.1), (2, 2.1)]
    assert of == "mIoU on val at step 2, all trials"
    assert side_by_side(trials, "seconds") == ([], "seconds of finished trials")


def test_table_and_csv_and_figures(tmp_path):
    text = as_markdown(samples(), SETTINGS)
    lines = text.splitlines()
    assert "7 trials: 4 finished, 1 pruned, 1 failed; max of miou on val, asha." in lines[0]
    assert [line.split("|")[1].strip() for line in lines[4:]] == ["3", "1", "2", "0", "4", "5", "6"]
    assert "| 3 | finished | 60.00 % | 9 | 10.00 | 8 | 0.4 | b |" in text
    assert "failed: status 5: no memory" in text
    rows = list(csv.DictReader(as_csv(samples(), "miou").splitlines()))
    assert [row["state"] for row in rows] == [FINISHED] * 4 + [PRUNED, FAILED, DRAWN]
    assert (rows[3]["miou"], rows[4]["miou"], rows[4]["last_val_miou"]) == ("0.6", "", "0.2")
    assert set(figures(samples(), SETTINGS)) == {"progress", "importance", "parallel"}
    assert set(figures(samples()[5:], SETTINGS)) == {"progress"}


def test_a_comparison_of_a_sweep_goes_where_it_is_asked_and_takes_no_option_that_it_has_not(tmp_path, capsys):
    root, out = tmp_path / "sweep", tmp_path / "out"
    record = SweepRecord(root)
    record.begin(SETTINGS)
    record.keep(replace(record.draw(Fixed()), state=FINISHED, outcome={"miou": 0.5}))
    for against, tracking, checkpoint, message in (
        ("supervised", "none", Checkpoint.last, "--against supervised: the trials of a sweep"),
        (None, "none", Checkpoint.best_on_val, "--checkpoint best_on_val: of a sweep"),
        (None, "ftp://x", Checkpoint.last, "--tracking 'ftp://x'"),
    ):
        with pytest.raises(UserError, match=message):
            compare_any([root], out, against, tracking, checkpoint)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a folder"):
        compare_any([root], tmp_path / "file", None, "none", Checkpoint.last)
    assert (out.exists(), (root / "sweep.md").exists(), capsys.readouterr().out) == (False, False, "")
    compare_any([root], out, None, "none", Checkpoint.last)
    assert {"sweep.md", "sweep.csv", "progress.png"} <= {path.name for path in out.iterdir()}
    assert sorted(path.name for path in root.iterdir()) == ["sweep.json", "trials"]


def test_an_axis_is_logarithmic_where_its_ends_are_far_apart():
    """1e-4 to 1e-2: 1e-3 is half-way; 1 to 7: 4 is."""
    heights, marks = _places([1e-4, 1e-3, 1e-2, 2e-4, 3e-4, 4e-4, 5e-4, None])
    assert heights[:3] == pytest.approx([0, 0.5, 1])
    assert math.isnan(heights[-1])
    assert [word for _, word in marks] == ["0.0001", "0.001", "0.01"]
    assert _places([1, 2, 3, 4, 5, 6, 7])[0] == pytest.approx([n / 6 for n in range(7)])
    assert _places(["b", "a", None, "b"])[1] == [(0, "a"), (1, "b")]


def test_values_of_a_trial_make_an_ordinary_recipe():
    config = config_of(SETTINGS["recipe"], Sample(12, {"train.lr": 0.25}))
    assert (config.name, config.train.lr) == ("toy_s4al_plus.trial-0012", 0.25)


def sweep(data, out, space, *overrides, count=12, **changes):
    options = {
        "samples": count, "scheduler": "asha", "search": "random", "objective": "miou", "mode": "max", "seed": 0,
        "address": None, "tracking": None, "parallel": None, "retries": 1,
    }  # fmt: skip
    sweep_command("toy_s4al_plus", [*TRIAL, *overrides], space=str(space), data=data, out=out, **{**options, **changes})


@pytest.fixture
def space(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def test_mistakes_are_found_before_anything_starts(toy_data, tmp_path, space):
    out = tmp_path / "out"
    for changes, message in (
        ({"samples": None}, "--samples"),
        ({"objective": "speed", "scheduler": "asha"}, "use fifo"),
        ({"objective": "speed", "scheduler": "fifo"}, "--objective speed: there are miou, pixel_accuracy, .*seconds"),
        ({"tracking": "nowhere"}, "--tracking 'nowhere'"),
    ):
        with pytest.raises(UserError, match=message):
            sweep(toy_data.root, out, space, **changes)
    with pytest.raises(UserError, match="unknown key"):
        sweep(toy_data.root, out, space, "train.learning=1")
    bad = tmp_path / "bad.yaml"
    bad.write_text("query.region_size: {choice: [16, 40, 300]}\ninitial.images: {choice: [5, 500]}\n")
    with pytest.raises(UserError, match=r"sample \d+ \(.*(region_size=300|initial.images=500)"):
        sweep(toy_data.root, out, bad, count=6)
    assert not out.exists()


def test_the_first_images_of_every_sample_are_found_before_anything_starts(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.commands.sweep.started", lambda *_: pytest.fail("too late"))
    names, space = tmp_path / "names.txt", tmp_path / "space.yaml"
    names.write_text("nosuch\n")
    for text, message in (
        (f"initial.list: {{grid: [{names}]}}", r"initial\.list=\S+names\.txt: nosuch: no image of the train split"),
        ("initial.cover: {grid: [false, true]}", r"initial\.cover=true: with seed 1 it takes \d images"),
    ):
        space.write_text(text)
        with pytest.raises(UserError, match=message):
            sweep(toy_data.root, tmp_path / "out", space, "initial.images=1", "seed=1", count=None, search="grid")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
def test_a_sweep_of_twelve_trials_and_its_best_trial_made_again(toy_data, tmp_path, space):
    from mlflow import MlflowClient

    uri = sqlite_uri(tmp_path / "mlflow.db")
    out = tmp_path / "sweep"
    sweep(toy_data.root, out, space, tracking=uri)
    record = SweepRecord(out)
    states = [one.state for one in record.samples]
    assert len(states) == 12
    assert set(states) <= {FINISHED, PRUNED}
    assert states.count(PRUNED) >= 2
    winner = best(record.samples, "miou", "max")
    for name in ("sweep.md", "sweep.csv", "progress.png", "parallel.png", "best.onnx"):
        assert (out / name).stat().st_size > 100
    pruned = next(one for one in record.samples if one.state == PRUNED)
    assert pruned.rows[-1]["step"] < 18
    assert not (record.folder(pruned.number) / "summary.json").exists()

    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "toy_s4al_plus"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    group = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    trials = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == group.info.run_id]
    assert sorted(int(run.data.tags["s4al.trial"]) for run in trials) == list(range(12))
    assert all("train.lr" in run.data.params for run in trials)
    assert group.data.metrics["best/miou"] == pytest.approx(winner.outcome["miou"])
    version = client.get_model_version_by_alias("toy_s4al_plus.sweep", "best")
    assert client.get_run(version.run_id).data.tags["s4al.trial"] == str(winner.number)

    conclude(record, record.settings(), uri)
    compare_any([out], None, None, uri, Checkpoint.last)
    assert len(client.search_model_versions("name = 'toy_s4al_plus.sweep'")) == 1

    again = tmp_path / "again"
    recipe = record.folder(winner.number) / "recipe.yaml"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "run",
        str(recipe),
        "--data",
        str(toy_data.root),
        "--out",
        str(again),
    ]
    subprocess.run([*command, "--backend", "local", "--tracking", "none"], check=True, cwd=ROOT, capture_output=True)
    model = "cycle-000/checkpoint/model.safetensors"
    assert (again / model).read_bytes() == (record.folder(winner.number) / model).read_bytes()
    assert outcome(again)["miou"] == winner.outcome["miou"]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.filterwarnings("ignore")
def test_a_driver_killed_at_half_time_repeats_no_finished_trial(toy_data, tmp_path, space):
    from mlflow import MlflowClient

    out, uri = tmp_path / "sweep", f"sqlite:///{tmp_path}/mlflow.db"
    command = [
        sys.executable, "-m", "benchmarks", "sweep", "toy_s4al_plus", *TRIAL, "--space", str(space), "--samples", "6",
        "--scheduler", "fifo", "--data", str(toy_data.root), "--out", str(out), "--tracking", uri,
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )

    def done():
        return [n for n in range(6) if (out / f"trials/{n:04d}.json").exists()
                and read_json(out / f"trials/{n:04d}.json")["state"] == FINISHED]  # fmt: skip

    until(lambda: len(done()) >= 3, 600)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = {n: os.stat(out / f"trials/{n:04d}/summary.json").st_mtime_ns for n in done()}
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    record = SweepRecord(out)
    assert [one.state for one in record.samples] == [FINISHED] * 6
    for number, written in before.items():
        assert os.stat(out / f"trials/{number:04d}/summary.json").st_mtime_ns == written
        assert f"trial {number}: finished already" in finished.stdout
    assert len({str(one.values) for one in record.samples}) == 6

    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "toy_s4al_plus"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    numbers = [int(run.data.tags["s4al.trial"]) for run in runs if "s4al.trial" in run.data.tags]
    assert sorted(numbers) == list(range(6))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ctrl_c_saves_the_trials_and_leaves(toy_data, tmp_path, space):
    out = tmp_path / "sweep"
    command = [
        sys.executable, "-m", "benchmarks", "sweep", "toy_s4al_plus", *TRIAL, "train.epochs=900", "--space", str(space),
        "--samples", "2", "--scheduler", "fifo", "--data", str(toy_data.root), "--out", str(out), "--tracking", "none",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until(lambda: len(list(out.glob("trials/*/cycle-000/training/progress.json"))) == 2, 300)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopped, trials saved" in said
    for number in range(2):
        assert read_json(out / f"trials/{number:04d}.json")["state"] == DRAWN
        assert list(out.glob(f"trials/{number:04d}/cycle-000/training/states/step-*"))


def test_a_damaged_sample_is_named(tmp_path):
    record = SweepRecord(tmp_path)
    record.begin(SETTINGS)
    record.draw(Fixed())
    path = tmp_path / "trials/0000.json"
    path.write_text(path.read_text().replace("0.1", "0.2"))
    with pytest.raises(DamagedError, match=r"0000\.json"):
        SweepRecord(tmp_path)
    shutil.rmtree(tmp_path / "trials")
    write_json(tmp_path / "sweep.json", SETTINGS)
    assert SweepRecord(tmp_path).samples == []
