"""A sample of what `make faults` does at every place, and that it would see a defect."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver

import pytest

from tests.faults.alterations import shards_altered_at_random_times
from tests.faults.common import Process, ended
from tests.faults.flips import flip_figures
from tests.faults.power import power_cuts
from tests.faults.ranks import Trainings
from tests.faults.runs import FULL, Trials
from tests.faults.writers import WRITERS, killed_writers

pytestmark = pytest.mark.ray  # drives whole runs


@pytest.fixture(scope="module")
def trials(toy_data, tmp_path_factory):
    return Trials(toy_data.root, tmp_path_factory.mktemp("faults"))


def assert_all_well(results, at_least=1):
    results = list(results)
    assert len(results) >= at_least
    assert [trial for trial, ok in results if not ok] == []


def test_every_stage_and_file_has_its_failpoints(trials):
    names = {place.partition("@")[0] for place in trials.places}
    assert len(trials.places) > 100
    assert len(trials.opened) > 40
    for file in ("cycle-001.parquet", "cycle-001.json", "step-00000004", "summary.json", "query.parquet"):
        assert {f"{file}:written", f"{file}:renamed"} <= names
    for stage in ("checkpoint", "evaluation", "scores", "query"):
        assert {f"cycle-000/{stage}:{when}" for when in ("made", "flushed", "sealed", "published")} <= names


@pytest.mark.parametrize(("action", "status"), [("kill", -signal.SIGKILL), ("enospc", FULL)])
def test_broken_at_a_place_and_continued_a_run_ends_as_an_undisturbed_one(trials, action, status):
    places = random.Random(action).sample(trials.places, 3)
    assert_all_well(trials.broken([f"{place}={action}" for place in places], status), 3)


@pytest.mark.parametrize(("action", "status"), [("cut", -signal.SIGXFSZ), ("short", FULL)])
def test_broken_inside_a_write_and_continued_a_run_ends_as_an_undisturbed_one(trials, action, status):
    """By the kernel, at a byte of a checkpoint and of a shard of scores."""
    places = ["model.safetensors:opened@4", "regions-00002.arrow:opened@1"]
    assert_all_well(trials.broken([f"{place}={action}:700" for place in places], status), 2)


def test_killed_at_random_times_a_run_ends_as_an_undisturbed_one(trials):
    assert_all_well(trials.at_random_times(4, seed=0), 4)


def test_after_a_power_cut_a_run_ends_as_an_undisturbed_one(trials):
    assert_all_well(power_cuts(trials, every=60), 100)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_reader_finds_what_a_killed_writer_had_acknowledged(kind, tmp_path):
    assert_all_well(killed_writers(kind, 20, tmp_path, random.Random(0)), 20)


def test_a_flipped_bit_of_any_kind_of_file_is_noticed(trials):
    for figure in flip_figures(trials, 40, random.Random(0)):
        assert (figure.trials, figure.failures) == (40, []), figure.what


@pytest.mark.slow
def test_a_shard_altered_under_a_run_is_found_or_was_not_read(trials):
    assert_all_well(shards_altered_at_random_times(trials, 20, seed=0), 20)


@pytest.mark.slow  # 36 trainings stopped and resumed, and some killed
@pytest.mark.timeout(1800)
def test_trainings_without_ray_resume_bit_for_bit(toy_data, tmp_path):
    trainings = Trainings(toy_data.root, tmp_path)
    assert_all_well(trainings.stopped_and_resumed(), 36)
    for world in (1, 2):
        assert_all_well(trainings.killed(world, 10, seed=0), 10)


@pytest.mark.parametrize(
    ("defect", "place"), [("momentum", "step-00000002:renamed@1"), ("in-place", "regions-00002.arrow:written@1")]
)
def test_a_planted_defect_is_seen(trials, toy_data, tmp_path, defect, place):
    """Momentum that is not restored; files that are written under their own names and never checked."""
    planted = Trials(toy_data.root, tmp_path, plant=defect)
    assert planted.expected == trials.expected  # undisturbed, the defect does not show
    assert planted.run(tmp_path / "run", f"{place}=kill") == -signal.SIGKILL
    assert planted.ends_the_same(tmp_path / "run") != []


def test_a_missing_fsync_is_seen(trials):
    """The run would heal all the same, since nothing damaged is believed; but what was published is gone."""
    assert not all(ok for _, ok in power_cuts(trials, plant="no-fsync", every=1000))


def seven():
    os._exit(7)


def test_who_starts_a_process_does_not_take_the_status_of_another_from_who_waits_for_it(monkeypatch):
    read, asked = forkserver.read_signed, threading.Event()

    def slowly_at_first(pipe):
        if not asked.is_set():
            asked.set()
            time.sleep(0.5)
        return read(pipe)

    first, second = Process(target=seven), Process(target=seven)
    first.start()
    monkeypatch.setattr(forkserver, "read_signed", slowly_at_first)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(ended, first)
        assert asked.wait(60)
        second.start()
        assert waits.result() == 7
    assert ended(second) == 7
