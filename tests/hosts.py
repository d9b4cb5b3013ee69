"""Hosts that share a network and nothing else: network and mount namespaces of their own on this machine, for root.

The program's source is the same for all of them, as an installed package would be; in place of `hidden` and of
/dev/shm each has a folder of its own, empty at first.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.faults.processes import RAYLET, Program, kill, until

NET = f"10.{200 + os.getpid() // 256 % 50}.{os.getpid() % 256}"
"""One of this process's own, since several may run at a time."""
ROOT = Path(__file__).parents[1]


def run(*words):
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


class Hosts:
    """A bridge, on which this process is host 254."""

    def __init__(self, hidden, logs, env):
        self.hidden, self.logs, self.env = hidden, logs, {"RAY_raylet_start_wait_time_s": "240", **env}
        self.bridge, self.number = f"s4b{os.getpid() % 100000}", 0
        self.temporary = tempfile.mkdtemp(prefix="ray-")  # short: a socket's path has at most 107 characters
        self.programs = []
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "addr", "add", f"{NET}.254/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")

    def host(self):
        self.number += 1
        return Host(self, self.number)

    def close(self):
        for program in reversed(self.programs):
            program.clean_up()
        for number in range(1, self.number + 1):
            with contextlib.suppress(subprocess.CalledProcessError):
                run("ip", "netns", "del", f"{self.bridge}-{number}")
        run("ip", "link", "del", self.bridge)
        shutil.rmtree(self.temporary, ignore_errors=True)


class Host:
    """With `seen`, it sees the hidden folder as this process does; the others have an empty one."""

    def __init__(self, hosts, number):
        self.hosts, self.number = hosts, number
        self.name, self.address = f"{hosts.bridge}-{number}", f"{NET}.{number}"
        run("ip", "netns", "add", self.name)
        link = f"{hosts.bridge}v{number}"
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        run("ip", "link", "set", link, "master", hosts.bridge, "up")
        inside = ("ip", "-n", self.name)
        run(*inside, "addr", "add", f"{self.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "route", "add", "default", "via", f"{NET}.254")  # Ray asks it for the host's address

    def start(self, command, *, first=False, alone=False, beside=None, env=None):
        """A program on this host.  The first host's folders are those of this process; each program of another begins
        with empty ones, HOME and TMPDIR in them, or has those of the Ray node that it runs `beside`.  One that is
        started `alone`, or beside such a node, sees no process of other hosts: a driver would join one of their nodes.
        """
        hidden, own = self.hosts.hidden, self.hosts.hidden / f"host-{self.number}"
        names = self.hosts.logs / f"hosts-{self.number}"
        names.write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        lines = ["set -e", "mount --make-rprivate /", f"mount --bind {names} /etc/hosts", f"hostname {self.name}"]
        if not first:
            for place in ("/dev/shm", hidden, self.hosts.temporary):
                lines += [f"mkdir -p {place}", f"mount -t tmpfs none {place}"]
        lines += [f"mkdir -p {own}/tmp {own}/home {own}/cache", 'exec "$@"']
        apart = ["-mu", *(["-pf", "--mount-proc"] if alone else [])]
        enter = ["ip", "netns", "exec", self.name, "unshare", *apart, "bash", "-c", "\n".join(lines), "host"]
        if beside:
            raylet = next(iter(beside.find(RAYLET)))
            enter = ["nsenter", "-t", raylet, "-m", "-n", "-u", *(["-p"] if alone else []), f"--wd={ROOT}"]
        program = Program(
            [*enter, *command],
            self.hosts.logs / f"{len(self.hosts.programs)}-host-{self.number}.log",
            {**self.hosts.env, "HOME": str(own / "home"), "TMPDIR": str(own / "tmp"), "S4AL_CACHE": str(own / "cache"),
             "XDG_CACHE_HOME": str(own / "home"), **(env or {})},
            ROOT,
        )  # fmt: skip
        self.hosts.programs.append(program)
        return program

    def ray(self, *options, cpus, **how):
        """A node of Ray that is up."""
        command = [
            Path(sys.executable).parent / "ray", "start", "--block", f"--node-ip-address={self.address}",
            f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=100000000", *options,
        ]  # fmt: skip
        for _ in range(3):  # Ray itself gives up after 30 s, on a busy machine too early
            node = self.start(command, **how)
            until(lambda node=node: "Ray runtime started" in node.told() or not node.running, 300)
            if node.running:
                break
        assert "Ray runtime started" in node.told(), node.told()
        return node


def lose(node):
    """As when a machine goes: its raylet and all that it has started."""
    for pid in node.find(RAYLET):
        kill(pid)
    node.clean_up()


def seen_by(node, path):
    """What the host of a program has at a path."""
    [pid] = list(node.find(RAYLET))[:1]
    return Path(f"/proc/{pid}/root") / str(path).lstrip("/")


def inner(program):
    """The process that a program is, where that is the child of one that has entered its host's processes."""
    pid = program.process.pid
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]) if words[0] == b"nsenter" else pid


def needs_namespaces():
    """Skip where this user may not make them."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("unshare"):
        pytest.skip("namespaces of the network and of mounts need root, ip (Debian: iproute2) and unshare")
    if subprocess.run(["unshare", "-mn", "mount", "--make-rprivate", "/"], capture_output=True).returncode:
        pytest.skip("this machine allows no namespaces")
