"""What a run ran with: what may change in mid-run, what is noted, and who is told."""

import copy
import re

import pytest

from benchmarks.preflight import check_same_run
from orchestrator.config import override
from orchestrator.layout import RunLayout
from orchestrator.provenance import drift_lines, provenance, settle
from orchestrator.recipe_file import read_recipe, recipe_copy
from querying.errors import UserError
from querying.files import write_json
from tests.small import SMALL, small_config, small_run


@pytest.fixture
def now(toy_data, tmp_path):
    return {**provenance(toy_data, tmp_path / "none", "cpu AVX2"), "commit": "a" * 40}


@pytest.fixture
def begun(now, tmp_path):
    """A run that has bought its first labels."""
    layout = RunLayout(tmp_path / "run")
    assert settle(layout, small_config(), now) == []
    layout.ledger.mkdir()
    (layout.ledger / "cycle-000.parquet").touch()
    return layout


def with_library(now, name, version):
    return {**now, "libraries": {**now["libraries"], name: version}}


def drifts(layout):
    return read_recipe(layout.recipe)[1].get("drift", [])


def test_the_same_again_changes_nothing(begun, now, toy_data, tmp_path):
    before = begun.recipe.read_bytes()
    again = provenance(toy_data, tmp_path / "none", "cpu AVX2")
    assert again["id"] != now["id"]
    assert settle(begun, small_config(), {**again, "commit": now["commit"]}) == []
    assert begun.recipe.read_bytes() == before


CHANGES = {
    "a library that computes": (lambda now: with_library(now, "torch", "9.9"), "torch was .*, is 9.9"),
    "the device": (lambda now: {**now, "device": "cuda"}, "device was cpu AVX2, is cuda"),
    "the code": (
        lambda now: {**now, "code": "b" * 64, "commit": "c" * 40 + "-dirty"},
        r"code was \w{8} \(commit aaaaaaaaaaaa\), is bbbbbbbb \(commit cccccccccccc-dirty\)",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_may_change_the_last_bits_is_noted_once_from_the_stage_that_comes_next(begun, now, what):
    change, expected = CHANGES[what]
    begun.checkpoint(0).mkdir(parents=True)
    [line] = settle(begun, small_config(), change(now))
    assert re.fullmatch(expected, line)
    assert settle(begun, small_config(), change(now)) == []
    [entry] = drifts(begun)
    assert (entry["from"], entry["changes"]) == ("evaluation of cycle 0", [line])
    assert read_recipe(begun.recipe)[1]["id"] == now["id"]
    assert begun.recipe.read_bytes() == recipe_copy(begun.recipe).read_bytes()
    settle(begun, small_config(), now)  # back again: what follows is a third kind
    assert len(drifts(begun)) == 2


HARMLESS = {
    "a library that moves bytes": lambda now: with_library(now, "pillow", "99"),
    "a commit without other code": lambda now: {**now, "commit": "d" * 40},
    "a device that nobody knows": lambda now: {**now, "device": "unknown"},
}


@pytest.mark.parametrize("what", HARMLESS)
def test_what_can_not_change_results_is_no_drift(begun, now, what):
    assert settle(begun, small_config(), HARMLESS[what](now)) == []
    assert drifts(begun) == []


def test_before_the_first_label_and_after_the_end_nothing_has_drifted(begun, now):
    labels = begun.ledger / "cycle-000.parquet"
    labels.unlink()
    assert settle(begun, small_config(), with_library(now, "torch", "9.9")) == []
    assert read_recipe(begun.recipe)[1]["libraries"]["torch"] == "9.9"
    labels.touch()
    write_json(begun.summary, {"finished": True})
    assert settle(begun, small_config(), now) == []
    assert drifts(begun) == []


def test_a_recipe_of_an_earlier_version_that_did_not_note_code_and_device_is_no_drift(begun, now):
    from orchestrator.recipe_file import write_recipe

    old = copy.deepcopy(now)
    for key in ("code", "device", "id"):
        del old[key]
    write_recipe(begun.recipe, small_config(), old)
    assert settle(begun, small_config(), now) == []
    assert read_recipe(begun.recipe)[1]["code"] == now["code"]


@pytest.mark.parametrize(
    ("assignment", "allowed", "refused"),
    [
        ("train.threads=3", True, "train.threads is 1 there, 3 here: .*--allow-drift continues"),
        ("query.batch_size=1", True, "query.batch_size is 4 there, 1 here: "),
        ("train.lr=0.5", False, "holds another run: train.lr is 0.1 there, 0.5 here"),
        ("query.region_size=24", False, "holds another run: query.region_size"),
        ("train.max_failures=0", True, None),
        ("query.actors=2", True, None),
    ],
)
def test_what_of_a_recipe_may_change_in_mid_run(begun, toy_data, assignment, allowed, refused):
    config = override(small_config(), [assignment])
    if refused:
        with pytest.raises(UserError, match=refused):
            check_same_run(config, toy_data, begun)
    else:
        check_same_run(config, toy_data, begun)
    if allowed:
        check_same_run(config, toy_data, begun, allow_drift=True)
    else:
        with pytest.raises(UserError, match=refused):
            check_same_run(config, toy_data, begun, allow_drift=True)


def test_other_threads_in_mid_run_are_refused_then_allowed_and_everybody_is_told(
    toy_data, tmp_path, monkeypatch, capsys
):
    from benchmarks.run_command import run_command
    from benchmarks.tables import status_command
    from orchestrator.stages import Stages

    def run(threads, **options):
        overrides = [*SMALL, "cycles=0", "train.epochs=1", f"train.threads={threads}"]
        run_command("toy_s4al_plus", overrides, toy_data.root, tmp_path / "run", "local", None, "none", **options)

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Stages, "evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            run(1)
    with pytest.raises(UserError, match=r"train\.threads is 1 there, 2 here"):
        run(2)
    monkeypatch.setattr("benchmarks.deploy.export_onnx", lambda checkpoint, onnx: onnx.touch())  # takes its time
    run(2, allow_drift=True)
    status_command(tmp_path / "run")
    line = "not bit-exact: from evaluation of cycle 0 on"
    told = [
        capsys.readouterr().out,
        *((tmp_path / "run/report" / f"report.{kind}").read_text() for kind in ("html", "md")),
    ]
    assert all(line in text and "train.threads was 1, is 2" in text for text in told)
    assert len(drift_lines(read_recipe(tmp_path / "run/recipe.yaml")[1])) == 1


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_training_of_two_ranks_continues_with_one(local_ray, toy_data, tmp_path):
    import threading
    import time

    from orchestrator.ray_backend import RayBackend
    from querying.errors import Interrupted
    from training.job import stop_file

    overrides = ("cycles=0", "teacher.batch_size=4", "train.epochs=20")
    work = RunLayout(tmp_path).work(0)

    def stop():
        while not list(work.glob("states/step-*")):
            time.sleep(0.02)
        stop_file(work).touch()

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted, match=r"stopped after step \d+, state saved"):
        small_run(toy_data.root, tmp_path, *overrides, "train.workers=2", backend=RayBackend())
    [*_, state] = sorted(work.glob("states/step-*"))
    assert state.name < "step-00000040"
    summary = small_run(toy_data.root, tmp_path, *overrides, "train.workers=1", backend=RayBackend())
    assert summary["finished"]
