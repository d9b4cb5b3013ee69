"""The grid: each cell once, whatever happens to the driver in between."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.commands.splits import splits_command
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.process.interrupt import PARENT
from querying.base.errors import InfrastructureError, UserError
from querying.base.files import read_json
from tests.mlflow_files import sqlite_uri
from tests.small import SMALL

ROOT = Path(__file__).parents[3]
TINY = [*[key for key in SMALL if not key.startswith("teacher")], "train.epochs=1"]


def grid(data, out, methods="supervised,mean_teacher", **changes):
    options = {
        "splits": "1/4",
        "seeds": "0",
        "family": None,
        "backend": "local",
        "address": None,
        "tracking": "none",
        "parallel": 1,
    }
    splits_command("toy_splits", TINY, methods=methods, data=data, out=out, **{**options, **changes})


@pytest.fixture
def trainings(monkeypatch):
    """The trainings that were begun, as METHOD/SPLIT/SEED."""
    begun = []
    original = LocalBackend.train

    def train(self, job):
        begun.append("/".join(job.out.parts[-5:-2]))
        original(self, job)

    monkeypatch.setattr(LocalBackend, "train", train)
    return begun


def test_a_grid_that_failed_continues_with_the_cell_that_failed(toy_data, tmp_path, trainings, monkeypatch, capsys):
    out = tmp_path / "grid"
    with monkeypatch.context() as broken:

        def train(self, job):
            trainings.append("broken")
            raise InfrastructureError("no more")

        calm = LocalBackend.train
        broken.setattr(LocalBackend, "train", lambda self, job: (train if trainings else calm)(self, job))  # noqa: PLW0108
        with pytest.raises(InfrastructureError):
            grid(toy_data.root, out)
    assert trainings == ["supervised/1_4/seed-0", "broken"]
    grid(toy_data.root, out)
    assert trainings[2:] == ["mean_teacher/1_4/seed-0"]
    grid(toy_data.root, out)
    assert len(trainings) == 3
    shown = capsys.readouterr().out
    assert "mean_teacher 1/4 seed 0: finished already" in shown
    assert "toy_splits, mIoU %, mean ± sample standard deviation over seeds" in " ".join(shown.split())
    summaries = [read_json(out / method / "1_4/seed-0/summary.json") for method in ("supervised", "mean_teacher")]
    assert summaries[0]["labelled_set"] == summaries[1]["labelled_set"]  # the same images for every method
    assert summaries[0]["labelled_set"]["images"] == 6
    assert f"{100 * summaries[1]['cycles'][0]['miou']:.2f}" in shown


def test_a_method_by_another_recipe_is_refused_before_it_trains(toy_data, tmp_path, trainings, monkeypatch):
    out = tmp_path / "grid"
    grid(toy_data.root, out, methods="supervised")
    monkeypatch.setattr("tests.benchmarks.commands.test_splits_command.TINY", [*TINY, "train.lr=0.5"])
    said = r"supervised/1_4/seed-0 and mean_teacher 1/4 seed 0 are of two recipes: train\.lr is \S+ and 0\.5; another"
    with pytest.raises(UserError, match=said):
        grid(toy_data.root, out, methods="mean_teacher")
    assert trainings == ["supervised/1_4/seed-0"]
    assert not (out / "mean_teacher").exists()


def test_the_control_is_nobodys_best_network(toy_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.commands.splits._miou", lambda one: 0.9 if one.method == "pool_truth" else 0.1)
    grid(toy_data.root, tmp_path / "grid", "pool_truth,supervised")
    shown = capsys.readouterr().out
    assert "best: supervised 1/4 seed 0" in shown
    assert "1/4: the pool's true labels bring" in " ".join(shown.split())


def test_a_cell_side_by_side_leaves_checks_and_table_to_its_parent(toy_data, tmp_path, monkeypatch, capsys):
    """A covering draw itself reads the masks once."""
    from querying.labels.oracle import SimulatedOracle

    read, classes = [], SimulatedOracle.classes
    monkeypatch.setattr(SimulatedOracle, "classes", lambda self: read.append("masks") or classes(self))
    monkeypatch.setattr("benchmarks.commands.splits.follow_parent", lambda: None)
    grid(toy_data.root, tmp_path / "own", methods="supervised")
    assert len(read) == 2
    assert "over seeds" in capsys.readouterr().out
    monkeypatch.setenv(PARENT, str(os.getppid()))
    grid(toy_data.root, tmp_path / "child", methods="supervised")
    assert len(read) == 3
    assert "over seeds" not in capsys.readouterr().out


@pytest.mark.slow  # drives three processes
def test_a_killed_driver_repeats_no_finished_cell(toy_data, tmp_path):
    out = tmp_path / "grid"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "splits",
        "toy_splits",
        *TINY,
        "--methods",
        "supervised,cps,unimatch",
    ]
    command += ["--splits", "1/4", "--data", str(toy_data.root), "--out", str(out), "--backend", "local"]
    command += ["--tracking", "none", "--parallel", "1"]  # the cells one after the other, in the driver itself
    environment = {**os.environ, "S4AL_FAILPOINT": "cycle-000/checkpoint:sealed@2=kill"}
    assert subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=200).returncode == -9
    assert not (out / "cps/1_4/seed-0/cycle-000/checkpoint").exists()
    before = {path: path.stat().st_mtime_ns for path in (out / "supervised").rglob("*") if path.is_file()}
    assert before
    subprocess.run(command, cwd=ROOT, capture_output=True, timeout=200, check=True)
    after = {path: path.stat().st_mtime_ns for path in (out / "supervised").rglob("*") if path.is_file()}
    assert after == before
    assert all(read_json(out / m / "1_4/seed-0/summary.json")["finished"] for m in ("cps", "unimatch"))


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_one_parent_and_a_child_for_each_cell(toy_data, tmp_path):
    from mlflow import MlflowClient

    uri = sqlite_uri(tmp_path / "mlflow.db")
    grid(toy_data.root, tmp_path / "grid", seeds="0,1", methods="supervised", tracking=uri)
    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "toy_splits"]
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    cells = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {r.data.tags["s4al.seed"] for r in cells} == {"0", "1"}
    for one in cells:
        tags = one.data.tags
        assert (tags["s4al.method"], tags["s4al.split"], tags["s4al.family"]) == ("supervised", "1/4", "drawn")
        assert tags["s4al.protocol"] == "whole image, last checkpoint, on test"
        decided = read_json(tmp_path / f"grid/supervised/1_4/seed-{tags['s4al.seed']}/labelled_set.json")
        assert tags["s4al.labelled_set"] == decided["sha256"]
        assert one.data.metrics["miou"] >= 0
    assert {r.info.status for r in runs} == {"FINISHED"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "supervised,cpss"}, "did you mean 'cps'"),
        ({"seeds": "0,x"}, "--seeds '0,x'"),
        ({"seeds": "1,1"}, "named twice"),
        ({"splits": "1/4,2/8"}, "named twice"),
        ({"methods": ","}, "--methods: expected names"),
        ({"methods": "cps", "splits": "1"}, "all 24 train images are labelled, no pool is left"),
        ({"seeds": "99999999999"}, r"^supervised 1/4 seed 99999999999: seed: Input should be less than"),
        (
            {"splits": "1/4,1/24", "seeds": "0,1,2,3,4,5"},
            r"^initial.cover=true: with seed \d it takes \d images to show",
        ),
    ],
)
def test_every_mistake_is_found_before_the_first_cell(toy_data, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        grid(toy_data.root, tmp_path / "grid", **changes)
    assert not (tmp_path / "grid").exists()


def test_quick_is_what_it_is_for_a_run_and_reaches_every_cell(toy_data, tmp_path, monkeypatch):
    asked = []

    def run_all(tasks, at_once, progress, environment):
        asked.extend(tasks)
        raise UserError("enough")

    monkeypatch.setattr("benchmarks.commands.splits.run_all", run_all)
    keys = [key for key in TINY if not key.startswith(("train.epochs", "train.steps"))]
    options = {"splits": "1/4", "seeds": "0", "family": None, "backend": "local", "address": None, "tracking": "none"}
    with pytest.raises(UserError, match="enough"):
        splits_command("toy_splits", keys, methods="supervised,mean_teacher", data=toy_data.root, out=tmp_path / "grid",
                       parallel=2, quick=True, **options)  # fmt: skip
    assert len(asked) == 2
    assert all("--quick" in task.command for task in asked)
    monkeypatch.setattr("benchmarks.commands.splits.check_data", lambda config, *_: asked.append(config) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        splits_command("toy_splits", keys, methods="supervised", data=toy_data.root, out=tmp_path / "grid",
                       parallel=1, quick=True, **options)  # fmt: skip
    assert (asked[-1].train.epochs, asked[-1].train.steps_per_epoch) == (2, 20)


def test_quick_trials_of_a_sweep(toy_data, tmp_path, monkeypatch):
    from benchmarks.commands.sweep import sweep_command

    def begin(record, settings):
        train = settings["recipe"]["train"]
        raise UserError(f"{settings['recipe']['name']}: {train['epochs']} epochs of {train['steps_per_epoch']} steps")

    monkeypatch.setattr("orchestrator.studies.sweep.SweepRecord.begin", begin)
    with pytest.raises(UserError, match=r"toy_splits.quick: 2 epochs of 20 steps"):
        sweep_command("toy_splits", [], space="rates", samples=1, scheduler="fifo", search="random", objective="miou",
                      mode="max", seed=0, data=toy_data.root, out=tmp_path / "sweep", address=None, tracking="none",
                      parallel=None, retries=0, quick=True)  # fmt: skip
