"""Whole runs on Ray: the same bytes as in one process, with a lost worker and a killed driver, too.

A file of its own, so that `make test` can run it beside the others.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from tests.small import SMALL, small_run
from tests.whole.test_end_to_end import ROOT, assert_same, finals, weights

LONGER = "train.epochs=6"
"""Long enough for a process to be killed in the middle."""


@pytest.fixture(scope="module")
def undisturbed(toy_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "undisturbed"
    small_run(toy_data.root, root, LONGER)
    return root


@contextmanager
def losing_a_worker(folder):
    """One worker of the training in `folder` is killed with SIGKILL after its first state; the group restarts."""
    killer = subprocess.Popen([sys.executable, "-c", KILLER, str(folder), str(os.getpid())])
    try:
        yield
        assert killer.wait(timeout=5) == 0, "no worker was killed"
    finally:
        killer.kill()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_the_bytes_of_one_process_though_a_worker_is_lost(local_ray, undisturbed, toy_data, tmp_path):
    """Ledger, scores and weights."""
    from orchestrator.backends.ray_backend import RayBackend

    with losing_a_worker(tmp_path / "cycle-001" / "training"):
        small_run(toy_data.root, tmp_path, LONGER, "query.actors=2", backend=RayBackend())
    assert_same(tmp_path, undisturbed)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_lost_worker_of_two_is_replaced_and_the_result_is_the_same(local_ray, toy_data, tmp_path):
    """Two DDP workers; one of them is killed in mid-training, the group restarts from the last epoch."""
    from orchestrator.backends.ray_backend import RayBackend

    overrides = ("cycles=0", "train.workers=2", "teacher.batch_size=4", LONGER)
    small_run(toy_data.root, tmp_path / "calm", *overrides, backend=RayBackend())
    with losing_a_worker(tmp_path / "stormy" / "cycle-000" / "training"):
        small_run(toy_data.root, tmp_path / "stormy", *overrides, backend=RayBackend())
    assert weights(tmp_path / "stormy", 0) == weights(tmp_path / "calm", 0)
    assert finals(tmp_path / "stormy") == finals(tmp_path / "calm")


KILLER = """
import glob, os, pathlib, signal, sys, time

def parent(pid):
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]

while not glob.glob(sys.argv[1] + "/states/step-*"):
    time.sleep(0.02)
for folder in pathlib.Path("/proc").glob("[0-9]*"):
    try:  # only a worker of this test's own cluster: test -> raylet -> worker
        name = (folder / "cmdline").read_bytes()
        if name.startswith(b"ray::RayTrainWorker") and parent(parent(folder.name)) == sys.argv[2]:
            os.kill(int(folder.name), signal.SIGKILL)
            sys.exit(0)
    except OSError:
        continue
sys.exit(1)
"""


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1200)  # two clusters of its own, each a minute and more on a slow machine
def test_a_driver_killed_on_ray_continues_to_the_same_end(undisturbed, toy_data, tmp_path):
    """The whole command line, killed with its local cluster in the middle of training."""
    root = tmp_path / "run"
    command = [sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *SMALL, LONGER, "--data", str(toy_data.root)]
    command += ["--out", str(root), "--tracking", "none"]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 300
    while not list(root.glob("cycle-000/training/states/step-*")):
        assert time.monotonic() < deadline
        assert driver.poll() is None
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert_same(root, undisturbed)
    assert "mIoU" in finished.stdout
    assert (root / "report" / "report.html").exists()
