"""A training on a node that does not see the run folder: the same bytes, also when it is stopped, lost, or cut off."""

import dataclasses
import errno
import threading
import time
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from querying.base.errors import InfrastructureError, Interrupted
from querying.base.relay.mirror import Mirror
from querying.base.relay.places import Mark, Places
from querying.base.relay.served import Served
from tests.apart import ApartBackend
from tests.small import small_run
from tests.whole.test_end_to_end import assert_same
from training.fit import mirrored as mirrored_module
from training.fit.job import TrainJob, stop_file
from training.fit.mirrored import Follower, places_of
from training.fit.worker import Worker


@pytest.fixture(scope="module")
def in_one_process(toy_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "one"
    small_run(toy_data.root, root)
    return root


@pytest.mark.ray
def test_a_run_on_copies_is_that_of_one_process(in_one_process, toy_data, tmp_path):
    small_run(toy_data.root, tmp_path, backend=ApartBackend())
    assert_same(tmp_path, in_one_process)
    assert not [path for path in tmp_path.rglob("*") if ".tmp" in path.name or path.name.startswith("machine-")]


def test_every_path_of_a_job_is_mirrored_but_for_the_data_and_the_users_code(tmp_path):
    """One that is forgotten would be looked for on the wrong node."""
    hints = get_type_hints(TrainJob)
    with_paths = {name for name, hint in hints.items() if hint == Path or Path in get_args(hint)}
    assert with_paths >= {"data", "ledger", "pseudo", "backbone", "previous", "work", "out", "modules"}
    job = object.__new__(TrainJob)
    for name in with_paths:
        path = tmp_path / "run" / name
        object.__setattr__(job, name, (path,) if name == "pseudo" else path)
    places = places_of(job)
    assert {path.name for path in places.all} == with_paths - {"data", "modules"}
    assert len(dataclasses.fields(TrainJob)) == len(hints)


@pytest.mark.ray
def test_a_training_that_is_stopped_there_goes_on_elsewhere(in_one_process, toy_data, tmp_path, monkeypatch):
    """The driver's wish arrives, the state comes back, and the next node begins from that."""
    monkeypatch.setattr(mirrored_module, "ROUND_S", 0.01)
    work = tmp_path / "cycle-000" / "training"
    steps = []

    def stop(metrics):
        steps.append(metrics)
        stop_file(work).touch()
        asked = len(backend.far.calls)
        wait(lambda: [call[0] for call in backend.far.calls[asked:]].count("exists") > 2)  # and so it was taken over

    backend = ApartBackend(Worker(report=stop))
    with pytest.raises(Interrupted, match="stopped after step"):
        small_run(toy_data.root, tmp_path, backend=backend)
    assert len(steps) == 1, "the training went on"
    *_, state = sorted((work / "states").glob("step-*"))
    assert state.name == "step-00000003"
    assert {path.name for path in state.iterdir()} == {"model.safetensors", "meta.json"}
    resumed = []
    backend = ApartBackend(Worker(report=resumed.append))
    small_run(toy_data.root, tmp_path, backend=backend)
    assert len([metrics for metrics in resumed if "train/loss" in metrics]) == 2 * 3 - 1, "began anew"
    assert_same(tmp_path, in_one_process)


@pytest.fixture
def pair(tmp_path):
    """A training's folder, its mirror, and a follower that is told when to look."""
    work = tmp_path / "run" / "training"
    (work / "states").mkdir(parents=True)
    places = Places(tmp_path / "run", (), (work, tmp_path / "run" / "out"))
    mark = Mark(tmp_path / "run" / "mark", "a text")
    mirror = Mirror(Served(places, mark), places, tmp_path / "mirror")
    (mirror.here(work) / "states").mkdir(parents=True)
    return work, mirror


def put_state(root, number, text="weights"):
    folder = root / "states" / f"step-{number:08d}"
    folder.mkdir()
    (folder / "model.safetensors").write_text(f"{text} {number}")
    (folder / "meta.json").write_text("{}")
    return folder


def states(root):
    return {path.name[-1]: (path / "model.safetensors").read_text() for path in (root / "states").glob("step-*")}


def quiet(monkeypatch):
    monkeypatch.setattr(mirrored_module, "ROUND_S", 1e6)


def test_states_follow_and_old_ones_go(pair, monkeypatch):
    quiet(monkeypatch)
    work, mirror = pair
    put_state(work, 1)
    put_state(work, 2)
    mirror.pull(work / "states")
    here = mirror.here(work)
    assert states(here) == {"1": "weights 1", "2": "weights 2"}
    follower = Follower(work, mirror)
    assert states(work) == states(here)
    put_state(here, 3)
    for file in (here / "states" / "step-00000001").iterdir():
        file.unlink()
    (here / "states" / "step-00000001").rmdir()
    (here / "states" / ".tmp-7-step-00000004").mkdir()
    follower.round()
    assert states(work) == {"2": "weights 2", "3": "weights 3"}
    three = here / "states" / "step-00000003"
    three.rename(here / "states" / ".tmp-away")
    put_state(here, 3, "made anew").touch()
    follower.end()
    assert states(work) == {"2": "weights 2", "3": "made anew 3"}
    assert sorted(path.name for path in (work / "states").iterdir()) == ["step-00000002", "step-00000003"]


def test_nothing_goes_before_what_is_newer_has_arrived(pair, monkeypatch):
    quiet(monkeypatch)
    work, mirror = pair
    put_state(work, 1)
    mirror.pull(work / "states")
    follower = Follower(work, mirror)
    here = mirror.here(work)
    put_state(here, 2)
    for file in (here / "states" / "step-00000001").iterdir():
        file.unlink()
    (here / "states" / "step-00000001").rmdir()

    class Broken:
        def __getattr__(self, name):
            if name == "publish":
                raise InfrastructureError("the network is gone")
            return getattr(follower_far, name)

    follower_far, mirror.far = mirror.far, Broken()
    with pytest.raises(InfrastructureError, match="the network is gone"):
        follower.round()
    assert states(work) == {"1": "weights 1"}
    mirror.far = follower_far
    follower.end()
    assert states(work) == {"2": "weights 2"}


def test_small_files_follow_by_themselves_and_the_stop_comes(pair, monkeypatch):
    monkeypatch.setattr(mirrored_module, "ROUND_S", 0.01)
    work, mirror = pair
    follower, here = Follower(work, mirror), mirror.here(work)
    for name in ("progress.json", "validation.json", "epochs.json"):
        (here / name).write_text(f"{name} 1")
        wait(lambda name=name: (work / name).exists() and (work / name).read_text() == f"{name} 1")
    (here / "progress.json").write_text("progress.json 2")
    wait(lambda: (work / "progress.json").read_text() == "progress.json 2")
    (here / "scratch").write_text("of nobody's concern")
    assert not stop_file(here).exists()
    stop_file(work).touch()
    wait(stop_file(here).exists)
    follower.end()
    assert sorted(path.name for path in work.iterdir()) == [
        "epochs.json", "progress.json", "states", "stop", "validation.json",
    ]  # fmt: skip


def test_one_that_can_not_send_stops_the_training_and_says_why(pair, monkeypatch):
    monkeypatch.setattr(mirrored_module, "ROUND_S", 0.01)
    work, mirror = pair
    follower, here, far = Follower(work, mirror), mirror.here(work), mirror.far

    class Full:
        def __getattr__(self, name):
            if name == "write":
                raise OSError(errno.ENOSPC, "No space left on device", str(work / "states"))
            return getattr(far, name)

    mirror.far = Full()
    (here / "progress.json").write_text("{}")
    wait(stop_file(here).exists)
    with pytest.raises(OSError, match="No space left on device") as caught:
        follower.end()
    assert caught.value.filename == str(work / "states")
    assert follower.thread not in threading.enumerate()


@pytest.mark.ray
def test_a_full_disk_at_the_driver_ends_the_training_with_that_error(toy_data, tmp_path, monkeypatch):
    monkeypatch.setattr(mirrored_module, "ROUND_S", 0.01)
    monkeypatch.setenv("S4AL_FAILPOINT", "relay:written@2=enospc")
    with pytest.raises(OSError, match="No space left on device"):
        small_run(toy_data.root, tmp_path, backend=ApartBackend(Worker(report=lambda metrics: time.sleep(0.3))))
    assert not (tmp_path / "cycle-000" / "checkpoint").exists()


def wait(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
