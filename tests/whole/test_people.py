"""`s4al run` where people answer: it waits with status 3, MLflow says so, the same command goes on to the report."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.annotated import hand_in, make_data, truth
from tests.mlflow_files import sqlite_uri
from tests.small import small_config

ROOT = Path(__file__).parents[2]
IMAGES, FIRST = 20, 5
KEYS = ("cycles=1", "query.region_size=16", "query.per_image=1", "query.threshold=0.3", "train.epochs=1",
        "train.steps_per_epoch=1", "query.scales=[1]", "augment.cutout_size=8", "annotator=human",
        f"initial.images={FIRST}")  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    make_data(root / "data", IMAGES, FIRST)
    (root / "recipe.yaml").write_text(small_config(*KEYS).to_yaml())
    return root


def s4al(*words, cwd, **env):
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "__main__.py"), *map(str, words)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, timeout=600)


def state_of(uri):
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiments = [one.experiment_id for one in client.search_experiments() if one.name != "Default"]
    runs = client.search_runs(experiments, "tags.`s4al.recipe` != ''")
    assert len(runs) == 1
    return runs[0].info.status, runs[0].data.tags.get("s4al.state")


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_a_run_waits_and_goes_on(project, tmp_path, backend):
    uri = sqlite_uri(tmp_path / "mlflow.db")
    run = tmp_path / "run"
    command = ["run", project / "recipe.yaml", "--data", project / "data", "--out", run, "--backend", backend]

    waits = s4al(*command, cwd=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert waits.returncode == 3, waits.stderr
    lines = [line for line in waits.stderr.splitlines() if line.startswith("s4al: ")]
    assert lines == [waits.stderr.splitlines()[-1]]
    assert lines[0].startswith("s4al: waiting for labels of cycle 1: 15 regions of 15 images, about 2 minutes")
    assert lines[0].endswith(f"s4al annotate import {run} FILE, then this command again")
    assert state_of(uri) == ("RUNNING", "waiting")

    status = s4al("status", run, cwd=tmp_path)
    assert (status.returncode, status.stderr) == (0, "")
    assert "0 of 15 regions of 15 images answered" in status.stdout
    assert "waiting for labels of cycle 1: 15 regions" in status.stdout
    hand_in(run, truth(IMAGES), 0, 2)
    assert "anna" in s4al("status", run, cwd=tmp_path).stdout
    assert s4al("verify", run, cwd=tmp_path).returncode == 0
    assert s4al(*command, cwd=tmp_path, MLFLOW_TRACKING_URI=uri).returncode == 3

    hand_in(run, truth(IMAGES), 1, 2)
    done = s4al(*command, cwd=tmp_path, MLFLOW_TRACKING_URI=uri)
    assert done.returncode == 0, done.stderr
    assert state_of(uri) == ("FINISHED", None)
    assert s4al("verify", run, cwd=tmp_path).returncode == 0
    page = (run / "report" / "report.html").read_text()
    assert "What people answered" in page
    assert all(f'<td class="text">{name}</td>' in page for name in ("anna", "bert", "cleo"))
    assert "15 of 15 regions" in page
    assert "nothing new" in str(hand_in(run, truth(IMAGES), 1, 2))
    assert "finished" in s4al("status", run, cwd=tmp_path).stdout


def test_partial_is_for_people_alone(project, tmp_path):
    words = ["run", project / "recipe.yaml", "annotator=simulated", "--partial", "--data", project / "data"]
    done = s4al(*words, "--out", tmp_path / "run", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "s4al: --partial: only where people answer (annotator=human)\n")


@pytest.mark.parametrize("command", ["splits", "sweep", "headroom"])
def test_many_trainings_do_not_wait_for_people(project, tmp_path, command):
    done = s4al(command, project / "recipe.yaml", "--data", project / "data", "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 2
    assert "annotator=human: people answer one run" in done.stderr
    assert not (tmp_path / "out").exists()
