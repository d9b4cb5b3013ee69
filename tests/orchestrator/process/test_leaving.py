"""Processes of our own cluster: the stopped ones are killed, and at the end whatever is left."""

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from orchestrator.process import leaving
from orchestrator.process.leaving import FrozenWatch, leave

NAMED = ["bash", "-c", "exec -a 'ray::Actor' sleep 60"]


@pytest.fixture
def begun(monkeypatch):
    """Begins processes; only these are looked at, since other tests of this process may have a cluster."""
    processes, every = [], leaving.ray_descendants

    def ours(pid, *marks):
        return {found: when for found, when in every(pid, *marks).items() if found in {one.pid for one in processes}}

    monkeypatch.setattr(leaving, "ray_descendants", ours)

    def begin(words):
        processes.append(subprocess.Popen(words))
        deadline = time.monotonic() + 20
        while b"sleep" in words[-1].encode() and time.monotonic() < deadline:
            if b"bash" not in Path(f"/proc/{processes[-1].pid}/cmdline").read_bytes():
                break
            time.sleep(0.01)
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def test_an_actor_that_is_stopped_is_killed_and_said_and_others_are_not(begun, monkeypatch):
    monkeypatch.setattr(leaving, "LOOK_S", 0.05)
    frozen, works, other = begun(NAMED), begun(NAMED), begun(["bash", "-c", "exec sleep 60"])
    assert set(leaving.ray_descendants(os.getpid())) == {frozen.pid, works.pid}
    for process in (frozen, other):
        process.send_signal(signal.SIGSTOP)
    said = []
    watch = FrozenWatch(said.append, frozen=0.3)
    assert frozen.wait(20) == -signal.SIGKILL
    watch.stop()
    assert (works.poll(), other.poll()) == (None, None)
    assert said == [f"ray::Actor (process {frozen.pid}) has been stopped for 0 s: killed"]


def test_one_that_goes_on_in_time_is_left_alone(begun, monkeypatch):
    monkeypatch.setattr(leaving, "LOOK_S", 0.05)
    paused, watch = begun(NAMED), FrozenWatch(lambda line: None, frozen=2.0)
    for _ in range(4):
        paused.send_signal(signal.SIGSTOP)
        time.sleep(0.4)
        paused.send_signal(signal.SIGCONT)
        time.sleep(0.3)
    watch.stop()
    assert paused.poll() is None


@pytest.mark.parametrize("hangs", [True, False])
def test_the_end_of_a_cluster_is_bounded_and_leaves_nothing(begun, monkeypatch, hangs):
    monkeypatch.setattr(leaving, "GONE_S", 0.2)
    frozen, other = begun(NAMED), begun(["bash", "-c", "exec sleep 60"])
    frozen.send_signal(signal.SIGSTOP)
    hanging, began = threading.Event(), time.monotonic()
    leave(lambda: hanging.wait(60) and None if hangs else None, patience=0.5)
    assert time.monotonic() - began < 20
    hanging.set()
    assert frozen.wait(20) == -signal.SIGKILL
    assert other.poll() is None
