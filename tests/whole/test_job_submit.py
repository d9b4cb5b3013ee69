"""`ray job submit` against a head node on this machine, with token authentication, as the README says."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from querying.base.files import read_json
from tests.annotated import hand_in, make_data, truth
from tests.small import SMALL, small_run
from tests.whole.test_end_to_end import assert_same

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head node as the README starts one; gives a function that runs `ray ...` against it, and its folder."""
    session = tempfile.mkdtemp(prefix="ray-")  # short: a socket's path has at most 107 characters
    home = tmp_path_factory.mktemp("home")
    env = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token", "PATH": f"{BIN}:{os.environ['PATH']}"}
    env.pop("RAY_ADDRESS", None)

    def ray(*args, **changes):
        return subprocess.run(
            [BIN / "ray", *map(str, args)],
            cwd=ROOT, env={**env, **changes}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    ray("get-auth-token", "--generate")
    (home / ".ray" / "auth_token").chmod(0o600)
    start = [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    # The agent's port is fixed by default: beside another cluster of this machine, no job could be submitted.
    gcs, dashboard, agent = free_ports(3)
    start += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    start += ["--num-cpus=2", f"--temp-dir={session}"]
    process = subprocess.Popen(
        start, env={**env, "RAY_JOB_STOP_WAIT_TIME_S": "20"}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for_port(dashboard)
        env["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
        deadline = time.monotonic() + 120
        while (first := ray("job", "submit", "--", "true")).returncode:  # its agent comes later
            assert time.monotonic() < deadline, first.stdout + first.stderr
        yield SimpleNamespace(ray=ray, session=Path(session))
    finally:  # `ray stop` would end every cluster of this machine
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)
        shutil.rmtree(session, ignore_errors=True)


def entry(toy_data, root, *overrides):
    command = ["python", "-m", "benchmarks", "run", "toy_s4al_plus", *SMALL, *overrides]
    return ["--working-dir", ".", "--", *command, "--data", toy_data.root, "--out", root, "--tracking", "none"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_submitted_job_runs_the_benchmark_and_uploads_little(head, toy_data, tmp_path):
    done = head.ray("job", "submit", *entry(toy_data, tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mIoU" in done.stdout
    assert (tmp_path / "run" / "report" / "report.html").exists()
    [uploaded] = {path.parent for path in head.session.rglob("_ray_pkg_*/pyproject.toml")}
    assert sum(path.stat().st_size for path in uploaded.rglob("*") if path.is_file()) < 2_000_000

    refused = head.ray("job", "list", RAY_AUTH_MODE="disabled")
    assert refused.returncode != 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stopped_job_saves_its_step_and_the_same_command_continues_it(head, toy_data, tmp_path):
    root = tmp_path / "run"
    long = ["train.epochs=2", "train.steps_per_epoch=300"]
    started = head.ray("job", "submit", "--no-wait", "--submission-id", "long", *entry(toy_data, root, *long))
    assert started.returncode == 0, started.stdout + started.stderr
    wait_until((root / "cycle-000/training/progress.json").exists)
    asked = time.monotonic()
    stopped = head.ray("job", "stop", "long")
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    print(f"stopped in {time.monotonic() - asked:.1f} s")
    assert time.monotonic() - asked < 60
    assert "was stopped" in head.ray("job", "status", "long").stdout
    told = head.ray("job", "logs", "long").stdout
    [state] = (root / "cycle-000/training/states").iterdir()
    step = read_json(state / "meta.json")["progress"]["step"]
    assert 0 < step < 300  # in the middle of the first epoch
    assert f"stopped after step {step}, state saved: the same command continues there" in told

    done = head.ray("job", "submit", *entry(toy_data, root, *long))
    assert done.returncode == 0, done.stdout + done.stderr
    small_run(toy_data.root, tmp_path / "calm", *long)
    assert_same(root, tmp_path / "calm")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_that_waits_for_people_is_failed_with_3_and_succeeded_in_the_documented_shell(head, tmp_path):
    """What docs/reference/exit_status.md says of it."""
    keys = ["cycles=1", "query.region_size=16", "query.per_image=1", "train.epochs=1", "train.steps_per_epoch=1",
            "query.scales=[1]", "augment.cutout_size=8", "annotator=human", "initial.images=4"]  # fmt: skip
    data, root = SimpleNamespace(root=make_data(tmp_path / "data", 12, 4)), tmp_path / "run"
    words = [*entry(data, root, *keys), "--backend", "local"]  # who ends with 3 is the same
    waits = head.ray("job", "submit", "--submission-id", "waits", *words)
    said = waits.stdout + waits.stderr
    print(waits.returncode, said[-1500:])
    assert waits.returncode == 1
    assert "s4al: waiting for labels of cycle 1: 8 regions of 8 images" in said
    assert "Job 'waits' failed" in said
    assert "exit code 3" in said
    assert "Job 'waits' failed" in head.ray("job", "status", "waits").stdout

    [dash] = [place for place, word in enumerate(words) if word == "--"]
    shell = shlex.join(map(str, words[dash + 1 :]))
    wrapped = ["sh", "-c", f"{shell}; s=$?; [ $s -eq 3 ] || exit $s"]
    done = head.ray("job", "submit", "--submission-id", "wrapped", *words[: dash + 1], *wrapped)
    said = done.stdout + done.stderr
    print(done.returncode, said[-600:])
    assert done.returncode == 0
    assert "Job 'wrapped' succeeded" in said
    hand_in(root, truth(12))
    again = head.ray("job", "submit", *words[: dash + 1], *wrapped)
    assert again.returncode == 0, again.stdout + again.stderr
    assert (root / "report" / "report.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_submitted_sweep_is_stopped_with_its_trials_and_goes_on(head, toy_data, tmp_path):
    out, space = tmp_path / "sweep", tmp_path / "space.yaml"
    space.write_text("train.lr: {choice: [0.01, 0.1]}\n")
    command = ["python", "-m", "benchmarks", "sweep", "toy_s4al_plus", *SMALL, "cycles=0", "train.steps_per_epoch=100"]
    command += ["--space", space, "--samples", 2, "--scheduler", "fifo", "--data", toy_data.root, "--out", out]
    job = ["--working-dir", ".", "--", *command, "--tracking", "none"]
    started = head.ray("job", "submit", "--no-wait", "--submission-id", "sweep", *job)
    assert started.returncode == 0, started.stdout + started.stderr
    wait_until(lambda: len(list(out.glob("trials/*/cycle-000/training/progress.json"))) == 2, 240)
    head.ray("job", "stop", "sweep")
    assert "was stopped" in head.ray("job", "status", "sweep").stdout
    told = head.ray("job", "logs", "sweep").stdout
    assert "stopped, trials saved: the same command continues" in told
    wait_until(lambda: not trials_of(out), 30)
    for number in range(2):
        assert read_json(out / f"trials/{number:04d}.json")["state"] == "drawn"
        assert list(out.glob(f"trials/{number:04d}/cycle-000/training/states/step-*"))

    done = head.ray("job", "submit", *job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 trials: 2 finished" in done.stdout


def trials_of(out):
    """Processes that work on a trial of this sweep."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"trial" in words and str(out).encode() in words:
                found.append(process.name)
    return found


def wait_until(true, limit=120):
    deadline = time.monotonic() + limit
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def free_ports(number):
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_for_port(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.5)
    pytest.fail(f"nothing listens on port {port}")
