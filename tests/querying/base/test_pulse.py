"""Who counts as lost: one that is frozen or stuck, and never one that is slow."""

import os
import signal
import threading
import time
from functools import partial

import pytest

from querying.base import pulse
from querying.base.errors import InfrastructureError
from querying.base.pulse import START_S, Vigil, keep_beating, read_beat, write_beat

TIMEOUT = 10


@pytest.fixture
def vigil(tmp_path):
    return Vigil(tmp_path / "beat.json", TIMEOUT)


def listened(vigil, seconds, beat=lambda second: None):
    """The first problem, or None, of so many seconds with what is said in each."""
    for second in range(seconds):
        said = beat(second)
        if said is not None:
            write_beat(vigil.path, 1 + second, *said)  # 1 makes the file
        problem = vigil.listen(1.0)
        if problem:
            return problem, second + 1
    return None


def test_a_process_that_falls_silent_is_lost_after_the_timeout(vigil):
    assert listened(vigil, 3, lambda second: (second, second)) is None
    assert listened(vigil, 60) == ("frozen: nothing was heard of it for 10 s", TIMEOUT + 1)


def test_one_that_lives_and_does_nothing_is_lost(vigil):
    """A thread of a process that is stuck beats on: that it runs is no sign of work."""
    problem = "stuck: it has finished nothing and used no processor for 10 s"
    assert listened(vigil, 60, lambda second: (3, 7.0)) == (problem, TIMEOUT + 2)


def test_a_slow_one_is_not_lost_however_long_its_shard_takes(vigil):
    assert listened(vigil, 500, lambda second: (second // 99, 0.1 * second)) is None  # an image in 99 s, mostly waiting
    assert listened(vigil, 500, lambda second: (second // 9, 0.0)) is None  # a GPU works, its thread sleeps


def test_one_that_computes_for_ever_is_lost_in_the_end(vigil):
    assert listened(vigil, 3600, lambda second: (5, second)) == ("stuck: it has finished nothing for 100 s", 102)


def test_a_process_has_longer_to_begin_and_what_follows_is_new_work(vigil):
    assert listened(vigil, 600) == (f"not begun in {START_S:g} s", START_S + 1)
    vigil.rest()
    assert listened(vigil, 9, lambda second: (5, 1.0)) is None
    vigil.rest()  # the next shard: the image before it was long ago
    assert vigil.listen(9.0) is None


def test_what_is_waited_for_is_said_once_in_a_silence(vigil):
    listened(vigil, 2, lambda second: (second, 0.0))
    listened(vigil, 5)
    said = vigil.warning()
    assert said.startswith(f"waiting for process {os.getpid()} on ")
    assert said.endswith(": nothing for 5 s, counts as lost after 10 s")
    listened(vigil, 1)
    assert vigil.warning() is None


def test_a_beat_says_what_the_thread_that_works_has_done(tmp_path, monkeypatch):
    monkeypatch.setattr(pulse, "BEAT_S", 0.02)
    ends, path, found = threading.Event(), tmp_path / "beat.json", []

    def work():
        keep_beating(path)
        pulse.done(4)
        end = time.thread_time() + 0.1
        while time.thread_time() < end:
            pass
        time.sleep(0.1)
        found.append(read_beat(path))
        ends.wait(10)

    before = pulse._done
    worker = threading.Thread(target=work)
    worker.start()
    while not found:
        time.sleep(0.01)
    end = time.thread_time() + 0.2  # another thread's time is not its own
    while time.thread_time() < end:
        pass
    after = read_beat(path)
    ends.set()
    worker.join()
    assert (after.pid, after.done - before) == (os.getpid(), 4)
    assert 0.1 <= found[0].cpu <= after.cpu < 0.2
    path.unlink()
    time.sleep(0.1)
    assert not path.exists()  # who writes on after the end leaves nothing behind


class Frozen:
    """Stops at its first item, once; the item is then done by another process."""

    def __init__(self, flag):
        self.flag = flag

    def double(self, x):
        if x == 3 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.3)
        pulse.done()
        return 2 * x


class Stuck(Frozen):
    def double(self, x):
        if x == 3:
            threading.Event().wait()
        return super().double(x)


class Slow:
    """Takes twice the timeout for an item, and an image every second."""

    def double(self, x):
        for _ in range(10):
            time.sleep(1)
            pulse.done()
        return 2 * x, os.getpid()


@pytest.mark.ray
@pytest.mark.slow  # it waits for time-outs, with real processes
@pytest.mark.filterwarnings("ignore")
def test_a_frozen_actor_is_replaced_a_slow_one_is_not(local_ray, tmp_path):
    from querying.scoring.ray_map import map_unordered

    said = []
    listening = partial(map_unordered, timeout=5, beats=tmp_path, say=said.append)
    for actors in (1, 2):
        make = partial(Frozen, tmp_path / f"froze {actors}")
        assert sorted(listening(make, "double", range(7), actors=actors)) == [0, 2, 4, 6, 8, 10, 12]
        assert [line for line in said if "is lost, frozen: nothing was heard of it for 5 s: its shard goes" in line]
        said.clear()
    found = list(listening(Slow, "double", range(2), actors=2))
    assert sorted(doubled for doubled, _ in found) == [0, 2]
    assert [line for line in said if "is lost" in line] == []
    with pytest.raises(InfrastructureError, match="4 scorers were lost, the last: stuck"):
        list(listening(partial(Stuck, tmp_path / "never"), "double", range(7), actors=2))
    assert [path.name for path in tmp_path.glob(".tmp*")] == []
