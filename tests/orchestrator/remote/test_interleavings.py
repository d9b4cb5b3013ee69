"""Drivers that are paused and resumed at any request, on a store that does nothing but what object stores promise."""

import random
import threading
from collections import Counter
from contextlib import suppress

import pytest

from orchestrator.remote import lease as lease_module
from orchestrator.remote.lease import Lost, acquire
from orchestrator.remote.log import END, FILES, LEASE, RunLog, Stored
from querying.base.errors import UserError
from querying.base.storage.place import place

ROOT = place("s3://bucket/run")
STAGES = 6
TRIALS = 400


class Machine:
    """One request of one driver at a time, in an order that a seed decides; a driver may be left paused for long.

    Time passes with the requests; a driver that is paused for long looks dead to the others.
    """

    def __init__(self, seed):
        self.random, self.turn = random.Random(seed), threading.Condition()
        self.objects, self.now = {}, 0.0
        self.waiting, self.paused, self.running = {}, {}, 0
        self.steps = Counter()
        self.dies = {"a": self.random.randrange(10, 60)} if seed % 3 == 0 else {}

    # What a driver calls, from its thread.

    def step(self, who):
        with self.turn:
            self.running -= 1
            self.waiting[who] = False
            self.turn.notify_all()
            self.turn.wait_for(lambda: self.waiting[who])
            del self.waiting[who]
            self.steps[who] += 1
            if self.steps[who] == self.dies.get(who):
                raise Died

    def begin(self, drivers):
        self.running = len(drivers)
        threads = [threading.Thread(target=self.carry, args=(one,), daemon=True) for one in drivers]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert self.steps.total() < 20_000, "they never come to an end"
            self.schedule()
        return threads

    def carry(self, driver):
        try:
            with suppress(Died):
                driver.work()
        finally:
            with self.turn:
                self.running -= 1
                self.turn.notify_all()

    def schedule(self):
        """Let one driver make its next request, when all of them wait for theirs."""
        with self.turn:
            self.turn.wait_for(lambda: self.running == 0)
            if not self.waiting:
                return
            self.now += self.random.choice([0.1, 1.0, 10.0])
            for who in list(self.waiting):
                if who not in self.paused and self.random.random() < 0.05:
                    self.paused[who] = self.now + self.random.choice([5.0, 100.0, 1000.0])
            able = [who for who in self.waiting if self.paused.get(who, 0.0) <= self.now]
            if not able:
                self.now = min(self.paused[who] for who in self.waiting)
                able = [who for who in self.waiting if self.paused.get(who, 0.0) <= self.now]
            who = self.random.choice(able)
            self.paused.pop(who, None)
            self.running += 1
            self.waiting[who] = True
            self.turn.notify_all()


class Store:
    """The requests of one driver; each answer may be lost, and the request made again, as the real client does."""

    def __init__(self, machine, who):
        self.machine, self.who = machine, who

    def create(self, where, data):
        self.machine.step(self.who)
        made = str(where) not in self.machine.objects
        self.machine.objects.setdefault(str(where), bytes(data))
        if self.machine.random.random() < 0.1:  # the answer is lost, and the request made again
            self.machine.step(self.who)
            return False
        return made

    def read(self, where):
        self.machine.step(self.who)
        try:
            return self.machine.objects[str(where)]
        except KeyError:
            raise FileNotFoundError(str(where)) from None

    def replace(self, where, data, patience=None):
        self.machine.step(self.who)
        self.machine.objects[str(where)] = data

    def remove(self, where):
        self.machine.step(self.who)
        self.machine.objects.pop(str(where), None)

    def sizes(self, folder):
        self.machine.step(self.who)
        below = f"{folder}/"
        return {
            name.removeprefix(below): len(data) for name, data in self.machine.objects.items() if name.startswith(below)
        }

    # The clock that waits are measured with.

    def monotonic(self):
        return self.machine.now

    def sleep(self, seconds):
        self.machine.step(self.who)


def stages(files):
    return {path: one for path, one in files.items() if path.startswith("stage")}


class Died(BaseException):
    pass


class Driver:
    """Goes on from what is published: stage after stage, each from all before, like a run."""

    def __init__(self, machine, who):
        self.store, self.who = Store(machine, who), who
        self.published, self.said, self.missing = [], [], []

    def work(self):
        log = RunLog(ROOT, self.store)
        while True:
            try:
                lease, state = acquire(log, f"pid 1 on {self.who}", clock=self.store)
            except UserError:  # another is at work
                continue
            files = dict(state.files)
            try:
                while len(stages(files)) < STAGES:
                    self.stage(lease, files)
                lease.end()
                return
            except Lost as lost:
                self.said.append(str(lost))

    def stage(self, lease, files):
        number, before = len(stages(files)), stages(files)
        there = self.store.machine.objects
        if f"{ROOT}/log/{lease.last.number + 1:08d}" not in there:  # nobody has taken over
            self.missing += [one for one in files.values() if str(lease.log.place_of(one)) not in there]
        content = f"stage {number} of {self.who} after {sorted(files.items())}".encode()
        made = Stored(lease.token, len(content), f"{self.who}-{lease.token}-{number}")
        state = Stored(lease.token, 1, f"state-{number % 2}")  # bytes that have been there before, whoever makes them
        for one, data in ((made, content), (state, b"x")):
            self.store.create(lease.log.place_of(one), data)
        files[f"stage-{number}"], files["state"] = made, state
        lease.publish(files)
        lease.beat(number, "now")
        self.published.append((number, made, before))


@pytest.mark.parametrize("block", range(8))
def test_of_drivers_that_are_paused_anywhere_exactly_one_publishes_each_stage(block):
    lost = takeovers = 0
    for seed in range(block * TRIALS // 8, (block + 1) * TRIALS // 8):
        machine = Machine(seed)
        drivers = [Driver(machine, name) for name in ("a", "b", "c")[: 2 + seed % 2]]
        machine.begin(drivers)
        reader = Store(machine, "reader")
        machine.step = lambda who: None
        log = RunLog(ROOT, reader)
        state = log.state()
        entries = [log.entry(number) for number in range(state.next)]

        done = [row for one in drivers for row in one.published]
        # Who dies right after its request does not know that it has published.
        assert max(Counter(number for number, *_ in done).values()) == 1, f"seed {seed}: {done}"
        assert not [one.missing for one in drivers if one.missing], f"seed {seed}: removed"
        assert len(stages(state.files)) == STAGES
        for number, made, before in done:
            assert state.files[f"stage-{number}"] == made, f"seed {seed}: stage {number} was written over"
            assert before == {path: state.files[path] for path in before}, f"seed {seed}: made from something else"
            assert len(before) == number
        for one in state.files.values():
            assert str(log.place_of(one)) in machine.objects, f"seed {seed}: {one} was removed"
        token = None
        for entry in entries:  # nobody publishes under a token that is not the last one
            token = entry.number if entry.kind == LEASE else token
            assert entry.token == token, f"seed {seed}: entry {entry.number}"
            assert entry.kind in (LEASE, FILES, END)
        lost += sum(len(one.said) for one in drivers)
        takeovers += sum(entry.kind == LEASE for entry in entries) - 1
    assert lost > 5, "hardly any driver was taken for dead: the trials show nothing"
    assert takeovers > 5


def test_silence_is_longer_than_several_signs_of_life():
    assert lease_module.SILENT_S >= 4 * lease_module.BEAT_S
