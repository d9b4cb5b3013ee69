"""Ctrl-C, SIGTERM and `ray job stop`: the state is saved, the exit status is 130, and the same command goes on."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from querying.base.errors import Interrupted
from querying.base.files import read_json
from tests.small import SMALL, small_run
from tests.whole.test_end_to_end import assert_same
from training.fit.progress import TIMINGS

pytestmark = pytest.mark.ray  # drives whole runs
ROOT = Path(__file__).parents[2]
SLOW_TRAINING = ["train.epochs=2", "train.steps_per_epoch=400", "teacher.batch_size=8"]


class Run:
    """The command line in a process group of its own, as a terminal starts it."""

    def __init__(self, toy_data, root, backend, *overrides, failpoint=""):
        command = [sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *SMALL, *overrides]
        command += ["--data", str(toy_data.root), "--out", str(root), "--tracking", "none", "--backend", backend]
        environment = {**os.environ, "S4AL_FAILPOINT": failpoint}
        self.log = root.with_suffix(".err")
        with self.log.open("w") as err:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stderr=err, stdout=subprocess.DEVNULL, start_new_session=True
            )

    def wait_for(self, path):
        deadline = time.monotonic() + 120
        while not path.exists():
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def end(self, timeout):
        """Exit status, seconds from now, and what was said."""
        asked = time.monotonic()
        status = self.process.wait(timeout=timeout)
        return status, time.monotonic() - asked, self.log.read_text()


@pytest.mark.parametrize(
    ("backend", "number"),
    [
        ("local", signal.SIGINT),
        ("local", signal.SIGTERM),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.slow),
        pytest.param("ray", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
def test_a_signal_in_training_saves_the_step_and_exits_130(toy_data, tmp_path, backend, number):
    root = tmp_path / "run"
    two_ranks = ["train.workers=2"] if backend == "ray" else []
    run = Run(toy_data, root, backend, *SLOW_TRAINING, *two_ranks)
    run.wait_for(root / "cycle-000/training/progress.json")
    if number == signal.SIGINT:
        os.killpg(run.process.pid, number)  # as a terminal does: everything that the command started gets it
    else:
        run.process.send_signal(number)  # as a scheduler or `ray job stop` does
    status, seconds, told = run.end(60)
    assert (status, seconds < 20) == (130, True), told
    assert "Traceback" not in told
    [state] = (root / "cycle-000/training/states").iterdir()
    step = read_json(state / "meta.json")["progress"]["step"]
    assert 0 < step < 400  # in the middle of the first epoch
    assert f"stopped after step {step}, state saved: the same command continues there" in told


@pytest.mark.slow
def test_a_signal_that_ends_the_local_cluster_too_still_ends_in_time(toy_data, tmp_path):
    root = tmp_path / "run"
    run = Run(toy_data, root, "ray", *SLOW_TRAINING)
    run.wait_for(root / "cycle-000/training/progress.json")
    os.killpg(run.process.pid, signal.SIGTERM)
    status, seconds, told = run.end(60)
    # Ray's library ends a driver whose raylet is gone with status 1, where it comes before us.
    assert (status in (130, 1), seconds < 20) == (True, True), (status, told)
    assert "Traceback" not in told


def test_a_second_signal_ends_at_once(toy_data, tmp_path):
    root = tmp_path / "run"
    run = Run(toy_data, root, "local", *SLOW_TRAINING)
    run.wait_for(root / "cycle-000/training/progress.json")
    run.process.send_signal(signal.SIGINT)
    run.process.send_signal(signal.SIGSTOP)  # so that the second one is pending before the step is over
    run.process.send_signal(signal.SIGTERM)
    run.process.send_signal(signal.SIGCONT)
    status, seconds, _ = run.end(20)
    assert (status, seconds < 10) == (130, True)
    assert not (root / "cycle-000/training/states").exists()


def test_a_signal_between_trainings_exits_130(toy_data, tmp_path):
    root = tmp_path / "run"
    status, _, told = Run(toy_data, root, "local", failpoint="shard-00001.json:renamed=term").end(120)
    assert status == 130
    assert "the same command continues" in told
    assert not (root / "cycle-000/scores").exists()


@pytest.mark.parametrize("step", [1, 3, 4, 6, 8])
def test_a_training_that_was_stopped_in_an_epoch_ends_as_an_undisturbed_one(toy_data, tmp_path, monkeypatch, step):
    """Weights, momentum, metrics: bit for bit.  The epoch has four steps."""
    overrides = ("train.steps_per_epoch=4", "train.epochs=2")
    small_run(toy_data.root, tmp_path / "calm", *overrides)

    def stop_in_cycle_1(work):
        asked = itertools.count(1)
        return SimpleNamespace(exists=lambda: work.parent.name == "cycle-001" and next(asked) == step)

    monkeypatch.setattr("training.fit.loop.stop_file", stop_in_cycle_1)
    with pytest.raises(Interrupted, match=f"stopped after step {step},"):
        small_run(toy_data.root, tmp_path / "run", *overrides)
    monkeypatch.undo()
    small_run(toy_data.root, tmp_path / "run", *overrides)
    assert_same(tmp_path / "run", tmp_path / "calm")
    assert losses(tmp_path / "run") == losses(tmp_path / "calm")


def losses(root):
    history = read_json(root / "cycle-001/checkpoint/meta.json")["history"]
    return [{name: value for name, value in epoch.items() if name not in TIMINGS} for epoch in history]
