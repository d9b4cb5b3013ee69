from datetime import UTC, datetime

import pytest

from orchestrator.remote.lease import Lost, acquire, at_work, sign_of_life
from orchestrator.remote.log import END, FULL_EVERY, Entry, RunLog, Stored
from querying.base.errors import DamagedError, UserError
from querying.base.storage.bucket import READINGS
from querying.base.storage.place import place

ROOT = place("s3://bucket/run")
SOMEBODY = "pid 7 on another-machine"


class Dictionary:
    """An object store; `lose` are requests, by their number, whose answer is lost."""

    def __init__(self, lose=()):
        self.there, self.lose, self.made, self.reads = {}, lose, 0, []

    def create(self, where, data):
        new, self.made = str(where) not in self.there, self.made + 1
        self.there.setdefault(str(where), bytes(data))
        return new and self.made not in self.lose

    def read(self, where):
        self.reads.append(str(where))
        if str(where) not in self.there:
            raise FileNotFoundError(str(where))
        return self.there[str(where)]

    def replace(self, where, data, patience=None):
        self.there[str(where)] = data

    def remove(self, where):
        self.there.pop(str(where), None)

    def sizes(self, folder):
        return {name.removeprefix(f"{folder}/"): 1 for name in self.there if name.startswith(f"{folder}/")}


class Clock:
    """Time that passes while somebody waits; at some time something happens."""

    def __init__(self, happens=lambda now: None):
        self.now, self.happens = 0.0, happens

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        self.happens(self.now)


def made(lease, name, content=b"x"):
    one = Stored(lease.token, len(content), name)
    lease.log.objects.create(lease.log.place_of(one), content)
    return one


def test_what_is_published_is_read_back_whatever_the_number_of_entries():
    store = Dictionary()
    lease, before = acquire(RunLog(ROOT, store), SOMEBODY)
    assert (before.last, before.files) == (None, {})
    files = {}
    for number in range(2 * FULL_EVERY + 5):
        if number % 11 == 0:
            files.pop("file-3", None)
        files = {**files, f"file-{number % 7}": made(lease, f"content-{number}")}
        assert lease.publish(files)
        assert RunLog(ROOT, store).state().files == files
    store.reads.clear()
    RunLog(ROOT, store).state()
    assert len(store.reads) <= FULL_EVERY
    assert not lease.publish(files), "nothing new"
    objects = {name for name in store.there if "/objects/" in name}
    assert objects == {str(lease.log.place_of(one)) for one in files.values()}, "what is no file any more is removed"


@pytest.mark.parametrize("which", [1, 3])
def test_an_entry_whose_answer_was_lost_is_known_again(which):
    store = Dictionary(lose=[which])
    lease, _ = acquire(RunLog(ROOT, store), SOMEBODY)
    lease.publish({"a": made(lease, "a")})
    lease.publish({"a": made(lease, "a"), "b": made(lease, "b")})
    assert set(RunLog(ROOT, store).state().files) == {"a", "b"}
    assert RunLog(ROOT, store).state().next == 3


def test_who_lives_is_not_taken_over_and_who_is_silent_is():
    store = Dictionary()
    log = RunLog(ROOT, store)
    first, _ = acquire(log, SOMEBODY)
    said = []
    with pytest.raises(UserError, match=f"another process works on it .{SOMEBODY}"):
        acquire(log, "pid 8 on a-third", clock=Clock(lambda now: first.beat(int(now), "now")), say=said.append)
    assert SOMEBODY in said[0]
    with pytest.raises(UserError, match="another process works on it"):
        acquire(log, "pid 8 on a-third", clock=Clock(lambda now: first.publish({"a": made(first, f"{now}")})))
    clock = Clock()
    second, before = acquire(log, "pid 8 on a-third", clock=clock)
    assert clock.now >= 60
    assert set(before.files) == {"a"}
    with pytest.raises(Lost, match=r"pid 8 on a-third has taken over"):
        first.publish({"b": made(first, "b")})
    with pytest.raises(Lost):
        first.check()
    assert set(log.state().files) == {"a"}
    second.check()
    second.end()
    third, _ = acquire(log, SOMEBODY, clock=Clock(lambda now: pytest.fail("it has ended: nothing to wait for")))
    assert third.token == second.token + 2


def test_a_dead_process_of_this_machine_is_not_waited_for():
    import socket

    store = Dictionary()
    acquire(RunLog(ROOT, store), f"pid {2**22 + 1} on {socket.gethostname()}")
    clock = Clock()
    lease, _ = acquire(RunLog(ROOT, store), SOMEBODY, clock=clock)
    assert (lease.token, clock.now) == (1, 0.0)


def test_a_sign_of_life_is_read_back():
    store = Dictionary()
    lease, _ = acquire(RunLog(ROOT, store), SOMEBODY)
    assert sign_of_life(lease.log, lease.token) == b""
    lease.beat(3, "2026-12-02T12:00:00+00:00")
    assert sign_of_life(lease.log, lease.token) == b"3 2026-12-02T12:00:00+00:00"


def test_who_is_at_work_is_known_by_its_last_sign_of_life():
    store = Dictionary()
    log = RunLog(ROOT, store)
    assert at_work(log) == ("", "")
    lease, _ = acquire(log, SOMEBODY)
    assert at_work(log) == ("", f"{SOMEBODY} has not ended its work on it, and was last heard of never")
    lease.beat(1, datetime.now(UTC).isoformat(timespec="seconds"))
    assert at_work(log) == (SOMEBODY, "")
    lease.beat(2, "2020-01-01T00:00:00+00:00")
    assert at_work(log)[1].endswith("last heard of 2020-01-01T00:00:00+00:00")
    for forged in (b"\xff 3", b"1 yesterday", b"1 2020-01-01T00:00:00"):
        store.replace(log.beat(lease.token), forged)
        assert at_work(log)[1].endswith("last heard of never")
    lease.end()
    assert at_work(log) == ("", "")


def test_an_altered_a_missing_and_a_foreign_entry_are_named():
    store = Dictionary()
    lease, _ = acquire(RunLog(ROOT, store), SOMEBODY)
    lease.publish({"a": made(lease, "a")})
    good = dict(store.there)
    name = "s3://bucket/run/log/00000001"
    store.there[name] = good[name].replace(b'"a"', b'"b"')
    with pytest.raises(DamagedError, match="log/00000001: not what was written"):
        lease.log.state()
    store.there[name] = good["s3://bucket/run/log/00000000"]
    with pytest.raises(DamagedError, match="log/00000001: is entry 0"):
        lease.log.state()
    store.there = {key: one for key, one in good.items() if not key.endswith("00000000")}
    with pytest.raises(DamagedError, match="log/00000000: is missing"):
        lease.log.state()


@pytest.mark.parametrize("often", [READINGS - 1, READINGS])
def test_an_entry_that_changes_on_its_way_is_read_so_often_in_all(often):
    class Noisy(Dictionary):
        bad = 0

        def read(self, where):
            self.bad += 1
            return super().read(where).replace(b"pid 7", b"pid 6") if self.bad <= often else super().read(where)

    store = Noisy()
    lease, _ = acquire(RunLog(ROOT, store), SOMEBODY)
    if often < READINGS:
        assert RunLog(ROOT, store).state().last == lease.begun
    else:
        with pytest.raises(DamagedError, match="00000000"):
            RunLog(ROOT, store).state()


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../b", "a//b", "."])
def test_an_entry_cannot_name_what_does_not_lie_in_the_folder(path):
    entry = Entry(0, END, 0, SOMEBODY, {path: Stored(0, 1, "x")}, True)
    with pytest.raises(DamagedError, match="does not lie in the folder"):
        Entry.of(entry.to_bytes(), "log/0")


def test_a_place_that_holds_something_else_is_refused():
    store = Dictionary()
    store.create(ROOT / "index.json", b"{}")
    with pytest.raises(UserError, match="holds other objects, and no run"):
        acquire(RunLog(ROOT, store), SOMEBODY)


def test_a_folder_of_the_same_objects_under_other_names_publishes_them_once():
    store = Dictionary()
    lease, _ = acquire(RunLog(ROOT, store), SOMEBODY)
    one = made(lease, "same")
    lease.publish({"a": one, "b": one})
    lease.publish({"b": one})
    assert str(lease.log.place_of(one)) in store.there, "another file has it still"
