"""Jobs in a fixed order within a given time, to be continued in another lease of the machine.

A job is a command in a process of its own.  What is done stands in a state file that is written before and after every
job, so that a kill at any place costs the job that ran, and nothing of one that can go on by itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from orchestrator.process.child import CODE
from orchestrator.process.children import GRACE_OF_CHILD_S, end_all
from orchestrator.process.interrupt import PARENT
from querying.base.errors import DamagedError
from querying.base.files import make_folder, read_json, write_json

STATE = "lease.json"
MARK = "S4AL_LEASE"
"""In the environment of every job: which folder's lease it belongs to."""
POLL_S = 0.1
TRIES = 2
"""So often may a job fail, or one that does not go on by itself be cut off, before it is left alone."""
LEAST_S = 3.0
"""With less time than this nothing is begun."""
WAITING, BEGUN, DONE, FAILED = "waiting", "begun", "done", "failed"


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    """Of one file name's letters, and of no other job."""
    command: Sequence[str]
    keep: Callable[[], None] = lambda: None
    """After its end, before it counts as done: takes its result; once more where that was cut off."""
    there: Callable[[], bool] = lambda: True
    """Is its result there?  One that is done and has none, as on another machine, is done again."""
    enough: Callable[[], bool] = lambda: False
    """Is all there that `keep` takes?  Then the job is ended: what else it would do is worth no lease's time."""
    good: Sequence[int] = (0,)
    """Exit statuses that are results."""
    goes_on: bool = False
    """Does it continue where it was cut off?"""


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    jobs: Sequence[Job]
    seconds: float | None
    """At most this much of a lease, which steps before it leave to it; None: what the others leave."""
    at_once: int = 1
    needed: bool = False
    """Without it nothing after it is begun."""


class Lease:
    """How far the jobs of some `steps` are, in the folder `out`, whose lock the caller holds."""

    steps: Sequence[Step] = ()

    def __init__(self, out: Path, say: Callable[[str], None] = print) -> None:
        self.out, self.say = out, say
        make_folder(out)
        try:
            self.state: dict[str, Any] = read_json(out / STATE)
        except DamagedError:  # there is none yet, or what is there is nothing to go by: all jobs look for themselves
            self.state = {"id": uuid4().hex, "jobs": {}}
        self.state.pop("seal", None)

    def work(self, seconds: float) -> bool:
        """Do what can be done in this time, ending and saving included; is everything done?"""
        self._end_leftovers()
        end = time.monotonic() + seconds - min(GRACE_OF_CHILD_S, seconds / 5)
        for number, step in enumerate(self.steps):
            open_ones = [other for other in self.steps[number + 1 :] if any(map(self._open, other.jobs))]
            until = end - sum(other.seconds or 0.0 for other in open_ones)
            if step.seconds is not None:
                until = min(until, time.monotonic() + step.seconds)
            jobs = [job for job in step.jobs if self._open(job)]
            if jobs:
                self._do(step, jobs, until)
            if step.needed and not all(self.state_of(job) == DONE for job in step.jobs):
                break
        return all(self.state_of(job) == DONE for step in self.steps for job in step.jobs)

    def state_of(self, job: Job) -> str:
        row = self._of(job)
        return str(WAITING if row["state"] == DONE and not job.there() else row["state"])

    def lines(self) -> Iterator[str]:
        """How far each job is."""
        for step in self.steps:
            for job in step.jobs:
                row = self._of(job)
                why = f": {row['why']}" if row["why"] else ""
                yield f"{self.state_of(job):<8}{job.name} ({row['seconds']:.0f} s){why}"

    def remembered(self, key: str, value: str) -> str:
        """What the first lease has said of this, now `value` where none has."""
        self.state.setdefault(key, value)
        write_json(self.out / STATE, self.state)
        return str(self.state[key])

    def again(self) -> None:
        """Jobs that were left alone are tried once more."""
        for step in self.steps:
            for job in step.jobs:
                if self._of(job)["state"] == FAILED:
                    self._note(job, state=WAITING, tries=0)

    def _of(self, job: Job) -> dict[str, Any]:
        fresh = {"state": WAITING, "tries": 0, "seconds": 0.0, "why": ""}
        row: dict[str, Any] = self.state["jobs"].setdefault(job.name, fresh)
        return row

    def _open(self, job: Job) -> bool:
        return self.state_of(job) not in (DONE, FAILED)

    def _note(self, job: Job, **changes: Any) -> None:
        self._of(job).update(changes)
        write_json(self.out / STATE, self.state)

    def _do(self, step: Step, jobs: Sequence[Job], until: float) -> None:
        waiting, running = deque(jobs), dict[str, tuple[Job, subprocess.Popen[bytes], float]]()
        try:
            while running or waiting:
                left = until - time.monotonic()
                while waiting and len(running) < step.at_once and left >= LEAST_S:
                    job = waiting.popleft()
                    running[job.name] = job, self._start(job), time.monotonic()
                if left <= 0 or not running:
                    break
                time.sleep(min(POLL_S, left))
                for job, process, began in list(running.values()):
                    if process.poll() is None and job.enough():
                        end_all([process])
                        _kill_group(process.pid)
                    if process.poll() is not None:
                        del running[job.name]
                        self._ended(job, process.returncode, time.monotonic() - began)
        finally:
            cut = list(running.values())
            end_all([process for _, process, _ in cut])
            for job, process, began in cut:
                _kill_group(process.pid)
                self._cut_off(job, process.returncode, time.monotonic() - began)
        for job in waiting:
            self._note(job, why=f"no time was left for it in step {step.name}")

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        self._note(job, state=BEGUN, why="")
        self.say(f"{job.name}: begins")
        log = self.out / "logs" / f"{job.name}.log"
        make_folder(log.parent)
        with log.open("ab") as out:
            return subprocess.Popen(
                job.command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                cwd=CODE, env={**os.environ, MARK: self.state["id"], PARENT: str(os.getpid())},
            )  # fmt: skip

    def _ended(self, job: Job, status: int, seconds: float) -> None:
        row = self._of(job)
        spent = row["seconds"] + seconds
        if status in job.good or job.enough():
            job.keep()
            self._note(job, state=DONE, status=status, seconds=spent, why="")
            self.say(f"{job.name}: done, {spent:.0f} s")
            return
        how = f"status {status}" if status >= 0 else signal.Signals(-status).name
        self._failed(job, spent, f"ended with {how} ({self.out / 'logs' / job.name}.log)")

    def _cut_off(self, job: Job, status: int, seconds: float) -> None:
        spent = self._of(job)["seconds"] + seconds
        if status in job.good or job.enough():  # it came to its end while it was asked to stop
            self._ended(job, status, seconds)
        elif job.goes_on:
            self._note(job, seconds=spent, why="time was over; it goes on where it was")
            self.say(f"{job.name}: time is over, it goes on in the next lease")
        else:
            self._failed(job, spent, "did not come to its end in its time")

    def _failed(self, job: Job, seconds: float, why: str) -> None:
        tries = self._of(job)["tries"] + 1
        self._note(job, state=FAILED if tries >= TRIES else BEGUN, tries=tries, seconds=seconds, why=why)
        self.say(f"{job.name}: {why}")

    def _end_leftovers(self) -> None:
        """What a killed lease has left running would work on the same folders."""
        found = list(marked(self.state["id"]))
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        until = time.monotonic() + GRACE_OF_CHILD_S
        while time.monotonic() < until and any(pid in found for pid in marked(self.state["id"])):
            time.sleep(POLL_S)
        for pid in marked(self.state["id"]):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def marked(lease: str) -> Iterator[int]:
    """Processes of jobs of this lease; none where there is no /proc."""
    mark = f"{MARK}={lease}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if mark in path.read_bytes().split(b"\0"):
                yield int(path.parent.name)


def _kill_group(leader: int) -> None:
    """What a job has started itself and left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
