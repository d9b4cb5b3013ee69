"""A run in a bucket is, byte for byte, that of a folder, whoever is killed or frozen, and goes on elsewhere."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.folder.layout import RunLayout
from orchestrator.remote import checkout, lease
from orchestrator.remote.checkout import Publisher, checked_out, view
from orchestrator.remote.lease import Lost
from orchestrator.remote.log import LEASE, Entry, RunLog
from orchestrator.remote.working_copy import STATES, WORK
from querying.base.errors import DamagedError, InfrastructureError, UserError
from querying.base.files import sha256
from querying.base.storage import bucket
from querying.base.storage.place import place
from tests.small import SMALL, small_run
from tests.store import process_environment
from tests.whole.test_data_in_a_bucket import in_a_folder  # noqa: F401
from tests.whole.test_end_to_end import ROOT, assert_same
from training.fit import states as training_states


def now_and_then(method, path, number):
    """Every seventh request fails in some way; of entries, which are refused where a bit changes, none of these."""
    what = (503, "drop", "cut", "lose", 500, "flip")[number // 7 % 6] if number % 7 == 0 else None
    return None if what == "flip" and "/objects/" not in path else what


def run_words(data, url):
    return ["run", "toy_s4al_plus", *SMALL, "--data", str(data), "--out", url, "--backend", "local",
            "--tracking", "none"]  # fmt: skip


def start(url, store, cache, data, **more):
    command = [sys.executable, "-m", "benchmarks", *run_words(data, url)]
    return subprocess.Popen(command, cwd=ROOT, env=process_environment(store.url, cache, **more),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip


def s4al(*words):
    from benchmarks.cli import app

    return app.app(args=[str(word) for word in words], standalone_mode=False)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(checkout, "PUBLISH_S", 0.2)
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "SILENT_S", 2.0)
    monkeypatch.setattr(checkout, "BEAT_S", 0.2)


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_on_another_machine_though_the_store_fails_now_and_then(
    url, store, in_a_folder, toy_data, tmp_path, capsys, often  # noqa: F811
):  # fmt: skip
    store.reset(now_and_then)
    first = start(url, store, tmp_path / "first", toy_data.root, S4AL_FAILPOINT="bucket:entry@1=kill")
    _, said = first.communicate(timeout=300)
    assert first.returncode == -signal.SIGKILL, said
    log = RunLog(place(url))
    before = log.state()
    assert before.files, "nothing was published before"
    s4al(*run_words(toy_data.root, url))
    store.reset()
    assert_same(view(place(url)), in_a_folder)
    left = {path for path in log.state().files if ".tmp" in path or "/training/" in path or path.endswith(".lock")}
    assert not left
    objects = bucket.sizes(log.root / "objects")
    named = {str(log.place_of(one)).partition("/objects/")[2] for one in log.state().files.values()}
    assert named <= set(objects)
    assert len(objects) - len(named) <= 6, "what no file is any more is removed, but for what a killed process left"

    capsys.readouterr()
    s4al("status", url)
    assert f"{url}: finished" in capsys.readouterr().out
    s4al("verify", url)
    assert f"{url}: intact" in capsys.readouterr().out
    s4al("report", url, "--out", tmp_path / "report")
    assert (tmp_path / "report/report.html").exists()
    with pytest.raises(UserError, match=r"holds other objects|is neither|index.json|no data set"):
        s4al("doctor", url)


def test_a_driver_that_stood_still_publishes_nothing_over_its_successor(url, store, toy_data, tmp_path, often):
    """The old one is a living process of this machine, but silent."""
    old = start(url, store, tmp_path / "old", toy_data.root)
    log = RunLog(place(url))
    end = time.monotonic() + 120
    while not (log.is_there() and log.state().files):
        assert old.poll() is None, old.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)
    os.kill(old.pid, signal.SIGSTOP)
    frozen_at = log.state().last
    said = []
    with checked_out(place(url), said.append) as folder:
        (folder / "of-the-successor").write_text("kept")
        os.kill(old.pid, signal.SIGCONT)
        _, error = old.communicate(timeout=120)
        assert old.returncode != 0
        assert "has taken over" in error
    state = log.state()
    assert "of-the-successor" in state.files
    tokens = [log.entry(number).token for number in range(frozen_at.number + 1, state.next)]
    assert set(tokens) == {state.last.token}, "nothing of the old one after it was taken over"


@pytest.mark.parametrize("how", ["altered", "missing"])
def test_verify_names_an_object_that_is_not_what_was_published(
    url, store, often, how, monkeypatch, tmp_path
):  # fmt: skip
    with checked_out(place(url)) as folder:
        (folder / "recipe.yaml").write_text("x")
        (folder / "file").write_text("content")
    log = RunLog(place(url))
    where = log.place_of(log.state().files["file"])
    bucket.remove(where)
    if how == "altered":
        bucket.create(where, b"Content")
    with pytest.raises(DamagedError, match=f"{where}: (differs from what|does not exist)"):
        s4al("verify", url)
    with pytest.raises((DamagedError, InfrastructureError)):
        view(place(url))

    said = []
    monkeypatch.setenv("S4AL_CACHE", str(tmp_path / "another machine"))
    with checked_out(place(url), said.append) as folder:
        assert not (folder / "file").exists()
        assert (folder / "recipe.yaml").exists()
        if how == "altered":
            (folder / "file").write_text("content")
    assert any("file: left out, and made again" in line for line in said)
    assert set(log.state().files) == {"recipe.yaml"} | ({"file"} if how == "altered" else set())
    if how == "missing":
        with checked_out(place(url)) as folder:
            (folder / "file").write_text("content")
    assert (view(place(url)) / "file").read_text() == "content", "the same bytes again are another object"


def test_a_copy_is_made_equal_and_what_is_here_alone_goes_unless_it_goes_on_from_there(
    url, store, often, monkeypatch, tmp_path
):
    with checked_out(place(url)) as here:
        (here / "cycle-000").mkdir()
        (here / "cycle-000/a").write_text("a")
        (here / "summary.json").write_text("1")
        (here / "scores-12.tmp").mkdir()
        (here / "scores-12.tmp/half").write_text("scratch")
        (here / "cycle-000/training/states/step-0001").mkdir(parents=True)
        (here / "cycle-000/training/states/step-0001/state").write_text("state")
        (here / "cycle-000/training/progress.json").write_text("{}")
    with checked_out(place(url)) as here:
        assert (here / "scores-12.tmp/half").exists(), "the same copy goes on from where it was"
    monkeypatch.setenv("S4AL_CACHE", str(tmp_path / "another machine"))
    with checked_out(place(url)) as there:
        files = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file() and path.name[0] != "."}
        assert files == {"cycle-000/a", "summary.json", "cycle-000/training/states/step-0001/state"}
        (there / "summary.json").write_text("2")
        (there / "cycle-000/a").unlink()


def test_a_training_goes_on_on_another_machine_where_its_last_state_was(
    url, store, in_a_folder, toy_data, tmp_path, often, monkeypatch  # noqa: F811
):  # fmt: skip
    monkeypatch.setenv("S4AL_FAILPOINT", "step-00000004:renamed=eio")
    with pytest.raises(OSError, match="step-00000004"), checked_out(place(url)) as folder:
        small_run(toy_data.root, folder)
    state = f"cycle-000/{WORK}/{STATES}/step-00000004/model.safetensors"
    assert state in RunLog(place(url)).state().files
    monkeypatch.delenv("S4AL_FAILPOINT")
    monkeypatch.setenv("S4AL_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setenv("S4AL_FAILPOINT_TRACE", str(tmp_path / "trace"))
    with checked_out(place(url)) as folder:
        small_run(toy_data.root, folder)
    assert (tmp_path / "trace").read_text().count("step-00000002:renamed") == 1, "that of cycle 1 alone"
    assert_same(view(place(url)), in_a_folder)
    assert state not in RunLog(place(url)).state().files


def test_after_another_has_worked_on_it_nothing_of_before_is_left(url, store, often, monkeypatch, tmp_path):
    with checked_out(place(url)) as here:
        (here / "a").write_text("a")
        (here / "half.tmp").mkdir()
        (here / "half.tmp/b").write_text("b")
    monkeypatch.setenv("S4AL_CACHE", str(tmp_path / "another machine"))
    with checked_out(place(url)) as there:
        (there / "a").write_text("other")
    monkeypatch.setenv("S4AL_CACHE", str(here.parents[2]))
    with checked_out(place(url)) as again:
        assert again == here
        assert (again / "a").read_text() == "other"
        assert not (again / "half.tmp").exists()


def test_when_the_store_is_away_the_work_goes_on_and_the_end_says_so(url, store, often, monkeypatch):
    monkeypatch.setenv("S4AL_STORE_PATIENCE", "1")
    with pytest.raises(InfrastructureError, match="the store has failed"), checked_out(place(url)) as here:  # noqa: PT012
        store.reset(lambda method, path, number: 503)
        (here / "file").write_text("content")
        time.sleep(1)
    store.reset()
    with checked_out(place(url)):
        assert (here / "file").exists(), "the copy has it"
    assert sha256(here / "file") == RunLog(place(url)).state().files["file"].sha256


def test_an_error_of_the_work_is_what_is_said_and_what_is_there_is_published(url, store, often):
    with pytest.raises(DamagedError, match="the work"), checked_out(place(url)) as here:  # noqa: PT012
        (here / "file").write_text("content")
        raise DamagedError("the work")
    state = RunLog(place(url)).state()
    assert set(state.files) == {"file"}
    assert state.holder is None


def test_a_mistake_leaves_nothing_but_that_somebody_was_there(url, store, toy_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = run_words(toy_data.root, url)[:-2]
    with pytest.raises(UserError, match="toy_s4al_pluss"):
        s4al("run", "toy_s4al_pluss", *words[2:])
    assert not [path for path in tmp_path.iterdir() if path.name != "cache"]
    with pytest.raises(UserError, match="there is no run, no grid and no sweep, or nothing of it yet"):
        s4al("status", url)
    with pytest.raises(UserError, match=r"no-such-key|no_such"):
        s4al("run", "toy_s4al_plus", "no_such=1", *words[2:])


BEFORE_IT_WORKS = """
import sys, time
from contextlib import nullcontext
from benchmarks.cli.options import worked_in
from orchestrator.process import interrupt
from orchestrator.remote import checkout
checkout.PUBLISH_S, interrupt.GRACE_S = 0.2, 0.2 if len(sys.argv) > 2 else 15
try:
    with worked_in(sys.argv[1], None), interrupt.deferred() if len(sys.argv) > 2 else nullcontext():
        print("begun", flush=True)
        time.sleep(60)
except checkout.Lost as lost:
    print(lost, file=sys.stderr)
    sys.exit(lost.exit_status)
"""


@pytest.mark.parametrize("what", ["taken over", "taken over, and does not stop", "told to stop"])
def test_a_driver_that_is_stopped_before_its_work_begins_says_why(url, store, tmp_path, what):
    """While it looks at its data, say, or waits for a cluster that is not there any more."""
    words = [sys.executable, "-c", BEFORE_IT_WORKS, url, *(["stuck"] if "not stop" in what else [])]
    driver = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env=process_environment(store.url, tmp_path / "cache"))  # fmt: skip
    while driver.stdout.readline() != "begun\n":
        assert driver.poll() is None
    log = RunLog(place(url))
    if what == "told to stop":
        driver.send_signal(signal.SIGTERM)
        driver.communicate(timeout=60)
        assert driver.returncode == -signal.SIGINT, "KeyboardInterrupt, which the command line makes 130"
        assert log.state().holder is None, "the next need not wait"
        return
    state = log.state()
    log.append(Entry(state.next, LEASE, state.next, "pid 7 on another-machine", {}, full=True))
    _, said = driver.communicate(timeout=60)
    assert "pid 7 on another-machine has taken over" in said
    assert ("not stopped within" in said) == ("not stop" in what)
    assert driver.returncode == InfrastructureError.exit_status


def test_who_has_lost_says_so_though_its_work_had_just_ended(url, store, monkeypatch):
    """The signal comes when there is nothing left to be stopped."""
    stop = Publisher.stop

    def signalled(publisher):
        monkeypatch.setattr(Publisher, "stop", stop)
        publisher.lost = Lost("taken over")
        raise KeyboardInterrupt

    with pytest.raises(Lost, match="taken over"), checked_out(place(url)):
        monkeypatch.setattr(Publisher, "stop", signalled)


def test_two_on_one_machine_are_kept_apart(url, store, often):
    with (
        checked_out(place(url)),
        pytest.raises(UserError, match="another process of this machine"),
        checked_out(place(url)),
    ):
        pass


def test_the_folder_of_a_trainings_states_is_known_by_its_name():
    assert STATES == training_states.STATES
    assert RunLayout(Path("run")).work(0).name == WORK
