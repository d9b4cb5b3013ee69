"""Programs in sessions of their own, and who belongs to them: a Ray cluster stays in the session of its starter."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

RAYLET = "raylet/raylet "
GCS = "gcs/gcs_server "
TRAIN_WORKER = "ray::RayTrainWorker"
CONTROLLER = "ray::TrainController"
SCORER = "ray::_Host"


class Program:
    """A program, its log (both streams), and everything that it has started."""

    def __init__(self, command: Sequence[object], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=cwd, env=dict(env), stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.started = time.monotonic()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def find(self, words: str = "") -> dict[int, str]:
        """Living processes of the session whose command line holds `words`, by process id."""
        if self.process.poll() is not None and Path(f"/proc/{self.process.pid}").exists():
            return {}  # the number is another's by now, which it can not be before the session is empty
        return {pid: line for pid, line in living(self.process.pid).items() if words in line}

    def end(self, limit: float) -> int | None:
        """Exit status; None when it has not ended in `limit` seconds, and then nothing of it is left."""
        try:
            return self.process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            self.clean_up()
            return None

    def clean_up(self) -> None:
        """Kill whatever is left of the session."""
        while left := self.find():
            for pid in left:
                kill(pid)
            time.sleep(0.05)
        self.process.wait()

    def remaining(self, patience: float) -> dict[int, str]:
        """What is still there after `patience` seconds at most."""
        until(lambda: not self.find(), patience)
        return self.find()

    def told(self) -> str:
        return self.log.read_text(errors="replace")


def options_of_trials(what: str | None) -> argparse.ArgumentParser:
    """The options that every table of faults on a cluster has."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=float, default=1.0, help="times the number of each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="faults whose name has this regular expression")
    parser.add_argument("--patience", type=float, default=1.0, help="times the limits, for a busy machine")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    return parser


def until(true: Callable[[], object], limit: float, every: float = 0.05) -> bool:
    """Wait for it for `limit` seconds at most, and say whether it came true."""
    deadline = time.monotonic() + limit
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def living(session: int) -> dict[int, str]:
    """Command lines of the processes of a session that are no zombies, by process id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, sid = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(sid) == session and state not in "ZX":
                line = (folder / "cmdline").read_bytes()
                found[int(folder.name)] = line.replace(b"\0", b" ").decode(errors="replace").strip() + " "
    return found


def ranks(raylet: str, workers: Mapping[int, str]) -> dict[int, int]:
    """Rank of each of the training `workers` (by process id) out of Ray Train's log, named by a `raylet`'s command."""
    session = re.search(r"--session_dir=(\S+)", raylet) or re.search(r"=(\S+/session_[^/\s]+)", raylet)
    assert session, raylet
    found = {}
    for log in Path(session[1]).glob("logs/train/*controller*.log"):
        for pid, rank in re.findall(r"pid=(\d+)\) world_rank=(\d+)", log.read_text(errors="replace")):
            if int(pid) in workers:
                found[int(pid)] = int(rank)
    return found
