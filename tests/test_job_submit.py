"""`ray job submit` against a head node on this machine, with token authentication, as the README says."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.small import SMALL

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_submitted_job_runs_the_benchmark_and_uploads_little(toy_data, tmp_path):
    session = tempfile.mkdtemp(prefix="ray-")  # short: a socket's path has at most 107 characters
    home = tmp_path / "home"
    home.mkdir()
    env = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token", "PATH": f"{BIN}:{os.environ['PATH']}"}
    env.pop("RAY_ADDRESS", None)

    def ray(*args):
        return subprocess.run(
            [BIN / "ray", *map(str, args)], cwd=ROOT, env=env, capture_output=True, text=True, timeout=300
        )

    ray("get-auth-token", "--generate")
    (home / ".ray" / "auth_token").chmod(0o600)
    start = [BIN / "ray", "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    start += ["--port=6399", "--dashboard-port=8299", "--num-cpus=2", f"--temp-dir={session}"]
    head = subprocess.Popen(
        start, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        entry = ["python", "-m", "benchmarks", "run", "toy_s4al_plus", *SMALL, "--data", toy_data.root]
        entry += ["--out", tmp_path / "run", "--tracking", "none"]
        address = ["--address", "http://127.0.0.1:8299"]
        wait_for_port(8299)
        done = ray("job", "submit", *address, "--working-dir", ".", "--", *entry)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "mIoU" in done.stdout
        assert (tmp_path / "run" / "report" / "report.html").exists()
        [uploaded] = {path.parent for path in Path(session).rglob("_ray_pkg_*/pyproject.toml")}
        assert sum(path.stat().st_size for path in uploaded.rglob("*") if path.is_file()) < 2_000_000

        env["RAY_AUTH_MODE"] = "disabled"
        refused = ray("job", "list", *address)
        assert refused.returncode != 0
    finally:  # `ray stop` would end every cluster of this machine
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)


def wait_for_port(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.5)
    pytest.fail(f"nothing listens on port {port}")
