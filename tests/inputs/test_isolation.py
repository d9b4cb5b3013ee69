"""A whole run listens on the loopback interface alone, needs no network, and writes no secret anywhere."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from orchestrator.backends.local_cluster import make_private_token
from tests.small import SMALL

ROOT = Path(__file__).parents[2]
CANARY = "canary7d1f"
METADATA = ("169.254.169.254", "metadata.google.internal")
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
WATCH = """
import os, sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        with open(os.environ["S4AL_TEST_CALLS"], "a") as file:
            file.write(f"{event}\\t{args[1] if event == 'socket.connect' else args[0]}\\n")
sys.addaudithook(watch)
"""


def test_the_token_of_a_local_cluster_is_its_owners_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    path = tmp_path / ".ray" / "auth_token"
    make_private_token()
    token = path.read_text()
    assert len(token) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)  # as Ray makes it
    make_private_token()
    assert (path.read_text(), path.stat().st_mode & 0o777) == (token, 0o600)
    assert [file.name for file in path.parent.iterdir()] == ["auth_token"]


def family(root):
    """The process and all that descend from it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found, new = set(), {root}
    while new:
        found |= new
        new = {child for child, parent in parents.items() if parent in found} - found
    return found


def listening(process):
    """(address, port, program) of the sockets on which a process accepts connections."""
    found = set()
    try:
        links = [os.readlink(descriptor) for descriptor in Path(f"/proc/{process}/fd").iterdir()]
        inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
        program = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:60]
        lines = [Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    except OSError:  # it has ended
        return found
    for part in lines:
        for fields in map(str.split, part):
            if fields[3] == "0A" and fields[9] in inodes:
                raw = bytes.fromhex(fields[1].partition(":")[0])
                words = struct.pack(f"={len(raw) // 4}I", *struct.unpack(f">{len(raw) // 4}I", raw))
                address = socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, words)
                found.add((address, int(fields[1].partition(":")[2], 16), program))
    return found


def whole_run(tmp_path, toy_data, before, *options, **environment):
    """A run of its own process: (status, output, addresses listened on, calls to other hosts)."""
    hook, home, session = tmp_path / "hook", tmp_path / "home", tempfile.mkdtemp(prefix="ray-")
    hook.mkdir()
    home.mkdir()
    (hook / "sitecustomize.py").write_text(WATCH)
    calls = tmp_path / "calls"
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    env |= {"PYTHONPATH": f"{hook}:{ROOT}", "HOME": str(home), "RAY_TMPDIR": session, "S4AL_TEST_CALLS": str(calls)}
    command = [*before, sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *SMALL, *options]
    command += ["--data", toy_data.root, "--out", tmp_path / "run"]
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=env | environment, stdout=output, stderr=output
        )
        try:
            addresses = set()
            while process.poll() is None:
                addresses |= {found for member in family(process.pid) for found in listening(member)}
                time.sleep(0.5)
        finally:
            process.kill()
    shutil.rmtree(session, ignore_errors=True)
    others = [line for line in calls.read_text().splitlines() if not is_local(line)] if calls.exists() else []
    return process.returncode, (tmp_path / "output").read_text(), addresses, others


def is_local(line):
    target = line.partition("\t")[2]
    return (not target.startswith("(") and "." not in target) or "127.0.0.1" in target or "::1" in target


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_on_ray_listens_on_the_loopback_interface_alone(toy_data, tmp_path):
    """With one known exception, the rendezvous of PyTorch's workers."""
    sizes = ("train.workers=2", "query.actors=2", "train.batch_size=4", "teacher.batch_size=4")
    status, output, addresses, _ = whole_run(tmp_path, toy_data, [], *sizes, "--tracking", "none")
    assert status == 0, output
    assert addresses
    exposed = {(found[0], found[2].split()[0]) for found in addresses if found[0] not in LOOPBACK}
    # PyTorch's rendezvous (TCPStore), which takes no address to listen on; the name is that of the worker's task.
    assert exposed <= {("::", "ray::RayTrainWorker"), ("::", "ray::execute._setup_torch_process_group")}
    assert {"ray::DashboardAgent", "ray::RuntimeEnvAgent"} <= {found[2].split()[0] for found in addresses if found[2]}
    assert (tmp_path / "home/.ray/auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["local", "ray"])
def test_a_run_without_a_network_is_whole_and_writes_no_secret(toy_data, tmp_path, backend):
    inside = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    if subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no right to make a network namespace (unshare -n), or no `ip`")
    secrets = {"MLFLOW_TRACKING_TOKEN": CANARY, "HF_TOKEN": CANARY, "AWS_SECRET_ACCESS_KEY": CANARY}
    if backend == "local":
        secrets["MLFLOW_TRACKING_URI"] = f"http://user-{CANARY}:{CANARY}@127.0.0.1:9/"
    status, output, _, others = whole_run(tmp_path, toy_data, inside, "--backend", backend, **secrets)
    assert status == 0, output
    # Ray's dashboard asks the cloud's metadata server where it runs, whatever is set; nothing is sent.
    assert [call for call in others if not any(host in call for host in METADATA)] == []
    assert others == [] or backend == "ray"
    assert (tmp_path / "run/report/report.html").exists()
    assert (tmp_path / "mlflow.db").exists() == (backend == "ray")
    assert "MLflow at http://***@127.0.0.1:9/ failed" in output or backend == "ray"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []
