"""What Ray Train itself waits for without limit: its frozen controller, and a worker frozen while its group starts."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from orchestrator.process.service_watch import FROZEN_S
from tests.faults.processes import CONTROLLER, TRAIN_WORKER, Program, kill, until
from tests.small import SMALL

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 5
LEAVING_S = 60


@pytest.fixture
def start(toy_data, tmp_path):
    session = Path(tempfile.mkdtemp(prefix="s4al-", dir="/tmp"))
    env = {**os.environ, "RAY_TMPDIR": str(session), "MLFLOW_TRACKING_URI": "none"}
    words = ["run", "toy_s4al_plus", *SMALL, "cycles=0", f"train.timeout={TIMEOUT_S}", "--data", toy_data.root]
    programs = []

    def begin(*more):
        command = [sys.executable, "-m", "benchmarks", *words, *more, "--out", tmp_path / "run"]
        programs.append(Program(command, tmp_path / f"log-{len(programs)}", env, ROOT))
        return programs[-1]

    yield begin
    for program in programs:
        program.clean_up()
    shutil.rmtree(session, ignore_errors=True)


def trains(tmp_path):
    return list((tmp_path / "run").rglob("training/progress.json"))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_frozen_controller_ends_the_run_and_the_same_command_continues(start, tmp_path):
    run = start("teacher.epochs=4000")
    assert until(lambda: run.find(CONTROLLER) and trains(tmp_path), 400), run.told()
    [pid] = run.find(CONTROLLER)
    kill(pid, signal.SIGSTOP)
    began = run.seconds
    status = run.end(FROZEN_S + LEAVING_S + 120)
    print(f"status {status} after {run.seconds - began:.0f} s")
    assert status == 5, run.told()
    assert f"(process {pid}) has been stopped for 60 s: killed" in run.told()
    assert "the same command continues" in run.told().splitlines()[-1]
    assert "Traceback" not in run.told()
    assert not run.remaining(10)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_worker_that_is_frozen_while_its_group_starts_is_replaced(start, tmp_path):
    run = start("teacher.epochs=4000")
    assert until(lambda: run.find(TRAIN_WORKER), 400), run.told()
    [pid] = run.find(TRAIN_WORKER)
    kill(pid, signal.SIGSTOP)
    began = run.seconds
    assert not trains(tmp_path)
    assert until(lambda: trains(tmp_path) and set(run.find(TRAIN_WORKER)) - {pid}, FROZEN_S + 300), run.told()
    print(f"trains after {run.seconds - began:.0f} s")
    print(run.told())
    assert pid not in run.find(TRAIN_WORKER)
