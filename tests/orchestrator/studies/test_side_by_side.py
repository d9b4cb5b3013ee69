"""Cells in processes of their own: how many, what they say, and how they end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.studies.processes import Task, run_all
from querying.base.errors import DamagedError, InfrastructureError, UserError
from querying.base.files import read_json
from tests.benchmarks.commands.test_splits_command import TINY, grid
from tests.faults.common import contents
from tests.faults.processes import until
from tests.mlflow_files import sqlite_uri

ROOT = Path(__file__).parents[3]


class Said:
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)


@pytest.fixture
def tasks(tmp_path, monkeypatch):
    """Makes tasks of shell scripts in the place of cells."""
    shell = tmp_path / "shell"
    shell.write_text('#!/bin/sh\nshift 2\neval "$1"\n')  # the words are -P, the program, then the script
    shell.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(shell))
    return lambda *scripts: [Task(f"cell {n}", [script], tmp_path / f"{n}.log") for n, script in enumerate(scripts)]


def test_no_more_than_so_many_run_at_a_time_and_all_is_shown(tasks, tmp_path):
    folder = tmp_path / "now"
    folder.mkdir()
    script = f"touch {folder}/$$; ls {folder} | wc -l; sleep 0.5; rm {folder}/$$"
    said = Said()
    run_all(tasks(*[script] * 5), 2, said)
    shown = [line.split("] ") for line in said.lines]
    assert sorted(name for name, _ in shown) == [f"[cell {n}" for n in range(5)]
    counts = [int(count) for _, count in shown]
    assert max(counts) == 2
    assert (tmp_path / "4.log").read_text().strip() in "12"


@pytest.mark.parametrize(
    ("script", "error", "how"),
    [
        ("exit 2", UserError, "status 2"),
        ("exit 4", DamagedError, "status 4"),
        ("exit 1", InfrastructureError, "status 1"),
        ("kill -KILL $$", InfrastructureError, "SIGKILL"),
    ],
)
def test_after_a_failure_the_others_end_and_none_is_begun(tasks, tmp_path, script, error, how):
    begun = tasks(script, f"sleep 0.6; touch {tmp_path}/second", f"touch {tmp_path}/third")
    with pytest.raises(error, match=f"cell 0: ended with {how}: it said nothing .*0.log"):
        run_all(begun, 2, Said())
    assert (tmp_path / "second").exists()
    assert not (tmp_path / "third").exists()


def test_a_stop_is_handed_on_and_waited_for(tasks, tmp_path):
    script = (
        f"trap 'sleep 0.3; touch {tmp_path}/saved-$$; exit 130' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    )

    class Stopped(Said):
        def say(self, line):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_all(tasks(script, f"while [ ! -e {tmp_path}/up ]; do sleep 0.05; done; echo now; sleep 30"), 2, Stopped())
    assert len(list(tmp_path.glob("saved-*"))) == 1


def left(words):
    """Living processes whose command holds the words."""
    return [pid for pid in os.listdir("/proc") if pid.isdigit() and words in line(pid)]


def line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def command(data, out, *more):
    words = [sys.executable, "-m", "benchmarks", "splits", "toy_splits", *TINY, "--methods", "supervised,cps,unimatch"]
    words += ["--splits", "1/4", "--data", data, "--out", out, "--parallel", "2", *more]
    return [str(word) for word in words]


@pytest.mark.slow  # eight processes with torch
@pytest.mark.filterwarnings("ignore")
def test_side_by_side_gives_what_one_after_the_other_gives(toy_data, tmp_path):
    from mlflow import MlflowClient

    uri = sqlite_uri(tmp_path / "mlflow.db")
    arguments = command(toy_data.root, tmp_path / "side", "--backend", "local", "--tracking", uri)
    subprocess.run(arguments, cwd=ROOT, timeout=300, check=True)
    grid(toy_data.root, tmp_path / "row", methods="supervised,cps,unimatch")
    for method in ("supervised", "cps", "unimatch"):
        cell = f"{method}/1_4/seed-0"
        assert contents(tmp_path / "side" / cell) == contents(tmp_path / "row" / cell)
    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "toy_splits"]
    runs = client.search_runs([experiment.experiment_id])
    [parent] = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    cells = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {r.data.tags["s4al.method"] for r in cells} == {"supervised", "cps", "unimatch"}
    assert len(cells) == 3


@pytest.mark.slow  # six processes with torch
def test_cells_do_not_outlive_a_killed_grid_and_the_next_one_goes_on(toy_data, tmp_path):
    out = tmp_path / "grid"
    arguments = command(toy_data.root, out, "--backend", "local", "--tracking", "none")
    with (tmp_path / "log").open("wb") as log:
        first = subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    assert until(lambda: list(out.glob("*/*/*/summary.json")), 200)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*/*/*/cycle-*/**/*")}
    first.kill()
    first.wait()
    assert until(lambda: not left(f"--out {out} "), 30)
    subprocess.run(arguments, cwd=ROOT, timeout=300, check=True)
    assert all(read_json(out / m / "1_4/seed-0/summary.json")["finished"] for m in ("supervised", "cps", "unimatch"))
    cells = {path.parents[1] for path in finished if path.name == "confusion.json"}
    assert cells
    for path, when in finished.items():
        if any(path.is_relative_to(cell) for cell in cells):
            assert path.stat().st_mtime_ns == when, path


@pytest.mark.slow  # a cluster of its own
@pytest.mark.timeout(900)
def test_side_by_side_on_one_cluster(toy_data, tmp_path):
    out = tmp_path / "grid"
    arguments = command(toy_data.root, out, "--backend", "ray", "--tracking", "none")
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(arguments, cwd=ROOT, env=environment, timeout=400, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 cells, 2 at a time" in done.stdout
    grid(toy_data.root, tmp_path / "row", methods="supervised,cps,unimatch")
    for method in ("supervised", "cps", "unimatch"):
        cell = f"{method}/1_4/seed-0"
        assert contents(out / cell) == contents(tmp_path / "row" / cell)
