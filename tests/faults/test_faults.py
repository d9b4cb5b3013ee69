"""A sample of what `make faults` does at every place, and that it would see a defect."""

import random
import signal

import pytest

from tests.faults.harness import SERVER, Trials, flip_figures

pytestmark = pytest.mark.ray  # drives whole runs


@pytest.fixture(scope="module")
def trials(toy_data, tmp_path_factory):
    SERVER.set_forkserver_preload(["tests.small"])
    return Trials(toy_data.root, tmp_path_factory.mktemp("faults"), plant="")


def test_every_stage_and_file_has_its_failpoints(trials):
    assert len(trials.names) > 100
    for place in ("cycle-001.parquet", "cycle-001.json", "step-00000004", "summary.json", "query.parquet"):
        assert {f"{place}:written", f"{place}:renamed"} <= set(trials.names)
    for stage in ("checkpoint", "evaluation", "scores", "query"):
        assert {f"cycle-000/{stage}:{when}" for when in ("made", "sealed", "published")} <= set(trials.names)


@pytest.mark.parametrize(("action", "status"), [("kill", -signal.SIGKILL), ("enospc", 5)])
def test_broken_at_a_place_and_continued_a_run_ends_as_an_undisturbed_one(trials, action, status):
    everything = trials.names
    try:
        trials.names = random.Random(action).sample(everything, 5)
        results = dict(trials.at_every_failpoint(action, status))
    finally:
        trials.names = everything
    assert results == dict.fromkeys(results, True)


def test_killed_at_random_times_a_run_ends_as_an_undisturbed_one(trials):
    results = list(trials.at_random_times(4, random.Random(0)))
    assert len(results) >= 4
    assert all(ok for _, ok in results)


def test_a_flipped_bit_of_any_kind_of_file_is_noticed(trials):
    for figure in flip_figures(trials, 40, random.Random(0)):
        assert (figure.trials, figure.failures) == (40, []), figure.what


@pytest.mark.parametrize(
    ("defect", "place"), [("momentum", "step-00000002:renamed@1"), ("in-place", "regions-00002.arrow:written@1")]
)
def test_a_planted_defect_is_seen(trials, toy_data, tmp_path, defect, place):
    """Momentum that is not restored; files that are written under their own names and never checked."""
    planted = Trials(toy_data.root, tmp_path, plant=defect)
    assert planted.expected == trials.expected  # undisturbed, the defect does not show
    assert planted.run(tmp_path / "run", f"{place}=kill") == -signal.SIGKILL
    assert not planted.ends_the_same(tmp_path / "run")
