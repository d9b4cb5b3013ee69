"""What a sweep's driver does with its trials: room for them, values that do not go together, attempts, MLflow."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.recipes.catalogue import find
from orchestrator.folder.recipe_file import read_recipe
from orchestrator.process.progress import SilentProgress
from orchestrator.recipe.config import override
from orchestrator.recipe.provenance import provenance
from orchestrator.studies.room import room_for
from orchestrator.studies.sweep import DRAWN, FAILED, FINISHED, PRUNED, SweepRecord
from orchestrator.studies.trials import SweepTrials, all_recipes, single_changes
from orchestrator.tracking.uri import absolute
from querying.base.errors import UserError
from querying.base.files import read_json
from tests.mlflow_files import sqlite_uri
from tests.orchestrator.studies.test_space import space
from tests.orchestrator.studies.test_sweep import SETTINGS, TRIAL
from tests.small import small_config

ROOT = Path(__file__).parents[3]


class Cluster:
    """One node."""

    def __init__(self, cpus, gpus=0):
        self.cpus, self.gpus = cpus, gpus
        self.device = "cuda" if gpus else "cpu"
        self.address = "127.0.0.1:6379"

    def room(self, processes, threads):
        slots = self.cpus // threads
        return (min(slots, self.gpus) if self.gpus else slots) // processes


def configs(*overrides):
    """With images enough for two workers."""
    return [small_config("teacher.batch_size=4", "train.batch_size=4", *words.split()) for words in overrides]


@pytest.mark.parametrize(
    ("overrides", "cluster", "parallel", "at_once", "resources", "where"),
    [
        ([""], Cluster(2), None, 2, {"CPU": 1}, "local"),
        ([""], Cluster(8), 3, 3, {"CPU": 1}, "local"),
        ([""], Cluster(2), 9, 2, {"CPU": 1}, "local"),
        (["query.threads=2"], Cluster(2), None, 1, {"CPU": 2}, "local"),
        (["", "train.threads=2"], Cluster(4), None, 2, {"CPU": 2}, "local"),  # the larger of two samples
        ([""], Cluster(8, gpus=2), None, 2, {"CPU": 1, "GPU": 1}, "local"),
        (["", "train.workers=2"], Cluster(8), None, 4, {"CPU": 0}, "ray"),
        (["train.workers=2"], Cluster(8), 9, 4, {"CPU": 0}, "ray"),
        (["train.workers=2 query.actors=4"], Cluster(8), None, 2, {"CPU": 0}, "ray"),
        (["train.workers=2 query.actors=40"], Cluster(8), None, 1, {"CPU": 0}, "ray"),  # so many scorers as fit
    ],
)
def test_as_many_trials_at_a_time_as_find_room(overrides, cluster, parallel, at_once, resources, where):
    room = room_for(configs(*overrides), cluster, parallel)
    assert (room.at_once, dict(room.resources), room.where[0]) == (at_once, resources, where)


def test_a_trial_that_never_fits_is_said():
    with pytest.raises(UserError, match=r"no node of the cluster has room for one trial \(train.workers"):
        room_for(configs("", "train.threads=3"), Cluster(2), None)
    with pytest.raises(UserError, match="no node"):
        room_for(configs("train.workers=2"), Cluster(1), None)


class Listed:
    """Draws what it is given, and remembers what it is told."""

    def __init__(self, *values, total=None):
        self.values, self.total, self.told = values, total or len(values), {}

    def draw(self, number, before):
        if number >= len(self.values):
            raise UserError("s.yaml: has no more than 3 different samples")
        return self.values[number]

    def tell(self, number, values, objective):
        self.told[number] = objective


def trials_of(root, data, sampler):
    base = override(find("toy_s4al_plus"), [*TRIAL, "data.evaluate_on=val"])
    record = SweepRecord(root)
    record.begin({**SETTINGS, "recipe": base.model_dump(mode="json")})
    return SweepTrials(record, sampler, record.settings(), data, ["local", "-"], SilentProgress())


def test_values_that_do_not_go_together_fail_alone_and_the_next_begins(tmp_path, toy_data):
    wrong = {"augment.scale_min": 1.2, "augment.scale_max": 1.1}
    too_many = {"initial.images": 500}
    sampler = Listed(wrong, {"train.lr": 0.1}, too_many, {"train.lr": 0.2}, total=9)
    trials = trials_of(tmp_path, toy_data, sampler)
    assert trials.next().number == 1
    assert trials.next().number == 3
    assert trials.next() is None  # exhausted before its nine
    states = [one.state for one in SweepRecord(tmp_path).samples]
    assert states == [FAILED, DRAWN, FAILED, DRAWN]
    assert "scale_min is larger than scale_max" in trials.record.samples[0].error
    assert "initial.images=500" in trials.record.samples[2].error
    assert sampler.told == {0: None, 2: None}


def test_fewer_samples_than_there_are_begin_no_other(tmp_path, toy_data):
    values = [{"train.lr": 0.1 * number} for number in (1, 2, 3, 4)]
    first = trials_of(tmp_path, toy_data, Listed(*values))
    assert [first.next().number for _ in range(3)] == [0, 1, 2]
    again = trials_of(tmp_path, toy_data, Listed(*values, total=2))
    assert [again.next().number for _ in range(3)] == [0, 1, 2]  # begun, not ended
    assert again.next() is None


def test_what_is_tried_is_known_before_the_first_trial(toy_data):
    base = small_config("train.threads=1")
    points = space("train.threads: {choice: [1, 4]}\ntrain.epochs: {randint: [2, 50]}")
    singles = single_changes(points, base)
    assert max(one.train.threads for one in singles) == 4
    assert max(one.train.epochs for one in singles) == 50
    listed = Listed({"train.threads": 4}, {"train.epochs": 7})
    assert [(one.train.threads, one.train.epochs) for one in all_recipes(listed, base, toy_data)] == [(4, 3), (1, 7)]
    with pytest.raises(UserError, match=r"sample 1 \(initial.images=500\): initial.images=500"):
        all_recipes(Listed({}, {"initial.images": 500}), base, toy_data)


def test_a_relative_database_is_the_same_file_for_a_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    for same in ("sqlite:////a/b.db", "http://host:5000", "none", "postgresql://a/b"):
        assert absolute(same) == same


class Told:
    """Trials of given commands of `python -m benchmarks`, and how each ended."""

    def __init__(self, root, *commands):
        self.left, self.root, self.how, self.said = list(enumerate(commands)), root, {}, []

    def next(self):
        from orchestrator.studies.ray_trials import TrialTask

        if not self.left:
            return None
        number, command = self.left.pop(0)
        recipe = small_config().model_dump(mode="json")
        return TrialTask(number, self.root / str(number), recipe, command, self.root / f"{number}.log", Path.cwd())

    def known(self):
        return []

    def reached(self, number, row):
        raise AssertionError("no run, no curve")

    def ended(self, number, how, error):
        assert number not in self.how
        self.how[number] = (how, error)

    def say(self, text):
        self.said.append(text)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_trial_that_fails_is_tried_again_but_not_for_a_users_mistake(local_ray, tmp_path):
    """Trial 0 ends well without a run, twice; trial 1 is refused, once."""
    from orchestrator.studies.ray_trials import run_trials, scheduler_of

    (tmp_path / "work").mkdir()
    (tmp_path / "work/stop").touch()  # of a sweep that was killed while it stopped
    told = Told(tmp_path, ["show", "toy_splits"], ["show", "toy_split"])
    run_trials(
        told, scheduler=scheduler_of("fifo", "max", 1, []), at_once=2, resources={"CPU": 1}, retries=1,
        work=tmp_path / "work", environment={},
    )  # fmt: skip
    assert not (tmp_path / "work").exists()
    assert told.how[0][0] == told.how[1][0] == "failed"
    assert told.how[0][1].startswith("after 2 attempts: ")
    assert (tmp_path / "0.log").read_text().count("name: toy_splits") == 2
    assert "status 2: unknown recipe 'toy_split': did you mean 'toy_splits'" in told.how[1][1]
    assert (tmp_path / "1.log").read_text().count("unknown recipe") == 1


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_actor_that_freezes_on_a_cluster_that_was_joined_is_killed_and_its_trial_tried_again(local_ray, tmp_path):
    from orchestrator.studies.ray_trials import run_trials, scheduler_of
    from querying.base.pulse import read_beat

    frozen = []

    def freeze():
        while not (beats := [read_beat(path) for path in (tmp_path / "work").glob("beat-*.json")]) or None in beats:
            time.sleep(0.05)
        frozen.append(beats[0].pid)
        os.kill(beats[0].pid, signal.SIGSTOP)

    freezing = threading.Thread(target=freeze)
    freezing.start()
    told = Told(tmp_path, ["show", "toy_splits"])
    run_trials(
        told, scheduler=scheduler_of("fifo", "max", 1, []), at_once=1, resources={"CPU": 1}, retries=1,
        work=tmp_path / "work", environment={}, silent_s=5,
    )  # fmt: skip
    freezing.join()
    assert told.how[0][1].startswith("after 2 attempts: ")
    assert len(told.said) == 1
    assert f"trial 0: its actor (process {frozen[0]} on " in told.said[0]
    assert "is lost: nothing was heard of it for " in told.said[0]
    assert not Path(f"/proc/{frozen[0]}").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_mlflow_knows_how_each_trial_ended_and_leaves_those_on_their_way(tmp_path, toy_data):
    from mlflow import MlflowClient

    from benchmarks.commands.sweep_end import conclude
    from tests.small import small_run

    record = SweepRecord(tmp_path / "sweep")
    record.begin(SETTINGS)
    uri = sqlite_uri(tmp_path / "mlflow.db")
    for number, state in enumerate((FINISHED, PRUNED, FAILED, DRAWN)):
        sample = record.draw(Listed(*({"train.lr": 0.1 * n} for n in range(1, 5))))
        record.keep(replace(sample, state=state, outcome={"miou": 0.1 * number} if state == FINISHED else {}))
        settled_run(record.folder(number), toy_data, small_run if state == FINISHED else None)
    conclude(SweepRecord(tmp_path / "sweep"), SETTINGS, uri)
    runs = MlflowClient(uri).search_runs([e.experiment_id for e in MlflowClient(uri).search_experiments()])
    found = {run.data.tags["s4al.trial"]: run.info.status for run in runs if "s4al.trial" in run.data.tags}
    assert found == {"0": "FINISHED", "1": "KILLED", "2": "FAILED"}


def settled_run(root, data, make):
    """A run folder with its recipe; `make` runs it."""
    from orchestrator.folder.layout import RunLayout
    from orchestrator.run.start import settle

    root.mkdir(parents=True)
    config = small_config("cycles=0", "train.epochs=1")
    layout = RunLayout(root)
    settle(layout, config, provenance(data, layout.backbone))
    if make:
        make(data.root, root, "cycles=0", "train.epochs=1")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
def test_a_trial_that_dies_once_is_finished_by_its_second_attempt_with_the_drivers_code(toy_data, tmp_path):
    """Each attempt that publishes a checkpoint is killed; without retries that is every trial, with one retry none.

    The driver stands in another folder than its trials, and its database is named relative to that.
    """
    from mlflow import MlflowClient

    (tmp_path / "space.yaml").write_text("train.lr: {choice: [1e-2, 1e-1]}\n")
    environment = {key: value for key, value in os.environ.items() if key not in ("RAY_ADDRESS", "PYTHONPATH")}
    dying = {**environment, "S4AL_FAILPOINT": "cycle-000/checkpoint:published=kill"}
    out = tmp_path / "sweep"
    command = [sys.executable, "-m", "benchmarks", "sweep", "toy_s4al_plus", *TRIAL, "train.epochs=1"]
    command += ["--space", tmp_path / "space.yaml", "--samples", 2, "--scheduler", "fifo", "--data", toy_data.root]
    tracking = f"sqlite:///{os.path.relpath(tmp_path, ROOT)}/mlflow.db"

    def sweep(folder, retries, env):
        words = [*command, "--out", folder, "--retries", retries, "--tracking", tracking]
        return subprocess.run([str(word) for word in words], cwd=ROOT, env=env, capture_output=True, text=True)

    none = sweep(tmp_path / "none", 0, dying)
    assert none.returncode == 5, none.stdout + none.stderr
    assert "no trial finished; trial 0: after 1 attempts: " in none.stderr
    once = sweep(out, 1, dying)
    assert once.returncode == 0, once.stdout + once.stderr
    record = SweepRecord(out)
    assert [one.state for one in record.samples] == [FINISHED, FINISHED]
    assert {one.values["train.lr"] for one in record.samples} == {0.01, 0.1}
    assert read_json(out / "trials/0000/summary.json")["evaluated_on"] == "val"
    code = read_recipe(out / "trials/0000/recipe.yaml")[1]["code"]
    assert code == provenance(toy_data, tmp_path / "no-backbone")["code"]

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    finished = [run for run in runs if "s4al.trial" in run.data.tags and "sweep/miou" in run.data.metrics]
    assert sorted(run.data.tags["s4al.trial"] for run in finished) == ["0", "1"]
