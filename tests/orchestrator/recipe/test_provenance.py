"""What a run ran with: what may change in mid-run, what is noted, and who is told."""

import copy
import re

import pytest

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import read_recipe, recipe_copy, write_recipe
from orchestrator.recipe.config import override
from orchestrator.recipe.provenance import ENVIRONMENT, drift_lines, latest_environment, provenance
from orchestrator.run.preflight import check_same_run
from orchestrator.run.start import settle
from querying.base.environment import variables
from querying.base.errors import UserError
from querying.base.files import write_json
from tests.small import FINISHED, SMALL, small_config, small_run


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


def with_machine(now, **changes):
    return {**now, "machine": {**now["machine"], **changes}}


CHANGES = {
    "a library that computes": (lambda now: with_library(now, "torch", "9.9"), "torch was .*, is 9.9"),
    "a library that a stage imports": (lambda now: with_library(now, "pillow", "99"), "pillow was .*, is 99"),
    "a library that such a one requires": (lambda now: with_library(now, "sympy", "99"), "sympy was .*, is 99"),
    "another processor": (lambda now: with_machine(now, processor="Z80"), "processor was .*, is Z80"),
    "the same with other instructions": (
        lambda now: with_machine(now, instructions="99 flags (0)"),
        r"instructions was \d+ flags \(\w+\), is 99 flags \(0\)",
    ),
    "what chooses kernels": (
        lambda now: with_machine(now, **variables({"ONEDNN_MAX_CPU_ISA": "AVX2"})),
        "variable ONEDNN_MAX_CPU_ISA was unset, is AVX2",
    ),
    "another Python": (lambda now: with_machine(now, python="CPython 3.99"), "python was CPython .*, is CPython 3.99"),
    "the user's own code": (
        lambda now: {**now, "own_code": {"lab.helper": "a" * 64}},
        "code of lab.helper was not there, is aaaaaaaaaaaa",
    ),
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


def test_what_a_run_began_with_is_never_replaced_and_each_change_is_kept(begun, now):
    """With another Pillow, which resizes every image, and then with the first one again."""
    first = now["libraries"]["pillow"]
    for version in ("98", "99", first):
        settle(begun, small_config(), with_library(now, "pillow", version))
    found = read_recipe(begun.recipe)[1]
    assert {key: found[key] for key in ENVIRONMENT} == {key: now[key] for key in ENVIRONMENT}
    assert [entry["libraries"] for entry in found["environments"]] == [{"pillow": v} for v in ("98", "99", first)]
    assert latest_environment(found) == {key: now[key] for key in ENVIRONMENT}
    assert [line.rpartition(": ")[2] for line in drift_lines(found)] == [
        f"pillow was {first}, is 98", "pillow was 98, is 99", f"pillow was 99, is {first}",
    ]  # fmt: skip


def test_a_variable_that_is_gone_again_is_noted_too(begun, now):
    settle(begun, small_config(), with_machine(now, **variables({"MKL_CBWR": "AVX2"})))
    assert settle(begun, small_config(), now) == ["variable MKL_CBWR was AVX2, is unset"]
    assert latest_environment(read_recipe(begun.recipe)[1])["machine"] == now["machine"]


def test_the_record_of_many_changes_is_still_read(begun, now):
    config, found = read_recipe(begun.recipe)
    entry = {"time": "t", "from": "x", "libraries": {"torch": "0", "long": "x" * 50_000}}
    write_recipe(begun.recipe, config, {**found, "environments": [entry]})
    assert begun.recipe.stat().st_size > 50_000
    assert settle(begun, small_config(), now) == [f"torch was 0, is {now['libraries']['torch']}"]


def test_a_reference_that_comes_first_is_something_that_was_made(begun, now):
    """With `stop_at` it is trained before the run buys a label of its own."""
    (begun.ledger / "cycle-000.parquet").unlink()
    begun.reference.ledger.mkdir(parents=True)
    (begun.reference.ledger / "cycle-000.parquet").touch()
    assert settle(begun, small_config("reference=true", "stop_at=1.0"), with_library(now, "torch", "9.9")) != []


HARMLESS = {
    "a library that no stage imports": lambda now: with_library(now, "mlflow", "99"),
    "a variable that chooses no kernel": lambda now: with_machine(now, **variables({"MKL_VERBOSE": "1", "HOME": "x"})),
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
    write_json(begun.summary, FINISHED)
    assert settle(begun, small_config(), now) == []
    assert drifts(begun) == []


def test_a_recipe_of_an_earlier_version_that_did_not_note_code_and_device_is_no_drift(begun, now):
    old = copy.deepcopy(now)
    for key in ("code", "own_code", "device", "machine", "id"):
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
    from benchmarks.commands.run import run_command
    from benchmarks.commands.status import status_command
    from orchestrator.run.stages import Stages

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
    monkeypatch.setattr(
        "benchmarks.deploy.onnx_file.export_onnx", lambda checkpoint, onnx: onnx.touch()
    )  # takes its time
    run(2, allow_drift=True)
    status_command(tmp_path / "run")
    line = "not bit-exact: from evaluation of cycle 0 on"
    told = [
        capsys.readouterr().out,
        *((tmp_path / "run/report" / f"report.{kind}").read_text() for kind in ("html", "md")),
    ]
    assert all(line in text and "train.threads was 1, is 2" in text for text in told)
    assert len(drift_lines(read_recipe(tmp_path / "run/recipe.yaml")[1])) == 1


def test_an_own_acquisition_that_is_edited_while_the_run_is_stopped_is_noted_with_its_module(
    toy_data, tmp_path, monkeypatch, capsys
):
    """Here not the module itself, but one that it imports only when it is called."""
    from benchmarks.commands.run import run_command
    from benchmarks.commands.status import status_command
    from benchmarks.commands.verify import verify_command
    from orchestrator.run.stages import Stages
    from querying.base import own_code

    lab = tmp_path / "lab_on_disk"
    lab.mkdir()
    (lab / "ask.py").write_text("def score(log_p):\n    from .power import raised\n    return raised(log_p)\n")
    helper = lab / "power.py"
    helper.write_text("def raised(log_p): return 1 - log_p.exp().amax(1)\n")
    monkeypatch.syspath_prepend(tmp_path)

    def run():
        overrides = [*SMALL, "train.epochs=1", "query.acquisition=lab_on_disk.ask:score"]
        run_command("toy_s4al_plus", overrides, toy_data.root, tmp_path / "run", "local", None, "none")

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Stages, "score", stopped)
    with pytest.raises(KeyboardInterrupt):
        run()
    helper.write_text("def raised(log_p): return log_p.exp().amax(1)\n")
    own_code._read.clear()  # as in a process of its own
    with pytest.raises(KeyboardInterrupt):
        run()
    for command in (status_command, verify_command):
        capsys.readouterr()
        command(tmp_path / "run")
        told = capsys.readouterr().out
        assert re.search(
            r"not bit-exact: from scores of cycle 0 on .*: code of lab_on_disk\.power was \w+, is \w+", told
        )
        assert "lab_on_disk.ask" not in told


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_training_of_two_ranks_continues_with_one(local_ray, toy_data, tmp_path):
    import threading
    import time

    from orchestrator.backends.ray_backend import RayBackend
    from querying.base.errors import Interrupted
    from training.fit.job import stop_file

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
