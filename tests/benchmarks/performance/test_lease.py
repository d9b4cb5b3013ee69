"""The bookkeeping of `make gpu`: real processes, stand-ins for its jobs, killed at several places."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.performance.lease import DONE, FAILED, STATE, Lease, Step, marked
from querying.base.files import read_json
from tests.benchmarks.performance.standins import UNITS, continued, count, driver, job, journal


def alive(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.fixture
def folder(tmp_path):
    yield tmp_path
    lease = tmp_path / "lease" / STATE
    for pid in marked(read_json(lease)["id"]) if lease.exists() else ():
        os.kill(pid, signal.SIGKILL)


def check_all_done(folder, kills, units=UNITS):
    """Everything done and kept; nobody's work done twice but what a kill has cost; no process left."""
    rows = journal(folder)
    state = read_json(folder / "lease" / STATE)
    assert {name: row["state"] for name, row in state["jobs"].items()} == dict.fromkeys(
        ("tests", "row0", "row1", "row2", "row3", "bench"), DONE
    )
    for name in state["jobs"]:
        assert count(rows, name, "end") >= 1
        assert count(rows, name, "kept") >= 1
    for number in range(4):
        assert units <= count(rows, f"row{number}", "unit") <= units + kills
    assert list(marked(state["id"])) == []
    last = {
        pid: place for place, (_, _, pid) in enumerate(rows)
    }  # a job of a killed lease is gone before the next one's
    for name in ("row0", "row1", "row2", "row3"):
        begins = [place for place, row in enumerate(rows) if row[:2] == [name, "begin"]]
        pids = [rows[place][2] for place in begins]
        assert all(last[before] < begins[number + 1] for number, before in enumerate(pids[:-1]))


PLACES = {  # (job, what, how often): the kill comes when the journal says so
    "in the tests": ("tests", "unit", 2),
    "as the first rows begin": ("row0", "begin", 1),
    "in the middle of two rows": ("row1", "unit", 5),
    "as a row has just ended": ("row0", "end", 1),
    "as a row has just been kept": ("row1", "kept", 1),
    "in the last rows": ("row3", "unit", UNITS - 1),
    "in the bench": ("bench", "unit", 1),
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.replace(" ", "-"))
def test_a_killed_lease_is_continued(folder, place):
    name, what, times = PLACES[place]
    process = driver(folder)
    until = time.monotonic() + 60
    while count(journal(folder), name, what) < times:
        assert time.monotonic() < until, "the place was never reached"
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    done = {row["state"] == DONE and name for name, row in read_json(folder / "lease" / STATE)["jobs"].items()}
    begun = {name: count(journal(folder), name, "begin") for name in done}
    assert continued(folder)
    check_all_done(folder, kills=1)
    for name in done - {False}:
        assert count(journal(folder), name, "begin") == begun[name], "what was done is not begun again"


@pytest.mark.parametrize("place", ["opened", "written", "renamed"])
@pytest.mark.parametrize("number", [2, 6])
def test_a_kill_in_any_write_of_the_state_is_continued(folder, place, number):
    process = driver(folder, S4AL_FAILPOINT=f"{STATE}:{place}@{number}=kill")
    assert process.wait(90) == -signal.SIGKILL
    assert continued(folder)
    check_all_done(folder, kills=1)


def test_time_that_is_over_ends_jobs_and_the_next_lease_goes_on(folder):
    """Less than the rows need, at first; the bench has its seconds all the same."""
    leases = 0
    while not continued(folder, 12.0, units=80, kept_s=4.0):
        leases += 1
        rows = journal(folder)
        assert count(rows, "bench", "end") == 1, "rows leave the bench its time"
        assert list(marked(read_json(folder / "lease" / STATE)["id"])) == []
        assert leases < 10
    assert leases
    check_all_done(folder, kills=leases, units=80)
    assert count(journal(folder), "bench", "begin") == 1


def test_sigterm_ends_the_jobs_and_leaves_a_state(folder):
    process = driver(folder)
    until = time.monotonic() + 60
    while count(journal(folder), "row1", "unit") < 3:
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)  # without a handler: KeyboardInterrupt
    assert process.wait(60) != 0
    pids = {pid for _, what, pid in journal(folder) if what == "begin"}
    assert not any(map(alive, pids))
    assert [what for name, what, _ in journal(folder) if name == "row0"][-1] == "saved"
    assert continued(folder)
    check_all_done(folder, kills=1)


def test_what_fails_twice_is_left_alone_and_the_rest_is_done(tmp_path):
    broken = job(tmp_path, "broken", units=1, status=3)
    hangs = job(tmp_path, "hangs", units=10_000)
    fine = job(tmp_path, "fine", units=1, status=1, good=(0, 1))
    lease = Lease(tmp_path / "lease")
    lease.steps = [Step("first", [broken, hangs], 4.0, at_once=2), Step("second", [fine], 30.0)]
    for _ in range(3):
        assert not lease.work(60.0)
    states = read_json(tmp_path / "lease" / STATE)["jobs"]
    assert {name: row["state"] for name, row in states.items()} == {"broken": FAILED, "hangs": FAILED, "fine": DONE}
    assert "ended with status 3" in states["broken"]["why"]
    assert states["hangs"]["why"] == "did not come to its end in its time"
    rows = journal(tmp_path)
    assert (count(rows, "broken", "begin"), count(rows, "hangs", "begin"), count(rows, "fine", "begin")) == (2, 2, 1)
    lease.again()
    lease.steps = [Step("first", [job(tmp_path, "broken", units=1)], 30.0)]
    assert lease.work(60.0)


def test_a_job_is_ended_as_soon_as_its_result_is_there(tmp_path):
    units = tmp_path / "row.units"
    row = job(
        tmp_path, "row", units=10_000, goes_on=True, enough=lambda: units.exists() and int(units.read_text()) >= 3
    )
    lease = Lease(tmp_path / "lease")
    lease.steps = [Step("rows", [row], None)]
    assert lease.work(60.0)
    rows = journal(tmp_path)
    assert [what for _, what, _ in rows][-2:] == ["saved", "kept"]
    assert 3 <= count(rows, "row", "unit") < 1000


def test_nothing_is_begun_without_what_it_needs(tmp_path):
    lease = Lease(tmp_path / "lease")
    data, row = job(tmp_path, "data", units=1, status=2), job(tmp_path, "row", units=1)
    lease.steps = [Step("data", [data], 10.0, needed=True), Step("rows", [row], None)]
    assert not lease.work(30.0)
    assert count(journal(tmp_path), "row", "begin") == 0


def test_results_that_have_not_travelled_are_made_again(tmp_path):
    """The state alone came to another machine, and one of two records."""
    assert continued(tmp_path)
    (tmp_path / "row2.kept").unlink()
    (tmp_path / "row2.units").unlink()
    before = journal(tmp_path)
    assert continued(tmp_path)
    now = journal(tmp_path)[len(before) :]
    assert {name for name, _, _ in now} == {"row2"}


def test_a_state_that_is_not_one_begins_anew(tmp_path):
    assert continued(tmp_path)
    state = tmp_path / "lease" / STATE
    state.write_text(state.read_text().replace("done", "dont"))
    before = len(journal(tmp_path))
    assert continued(tmp_path)
    assert {name for name, what, _ in journal(tmp_path)[before:] if what == "kept"} >= {"row0", "tests"}
