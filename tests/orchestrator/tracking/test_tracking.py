import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from orchestrator.folder.record import Record, read_record
from orchestrator.recipe.config import flatten
from orchestrator.tracking import mirror as tracking, run as mlflow_run
from orchestrator.tracking.mirror import MlflowMirror
from orchestrator.tracking.uri import check_uri, chosen_uri
from querying.base.errors import UserError
from querying.base.files import read_json, write_json
from tests.mlflow_files import sqlite_uri
from tests.small import small_config

DATA = {"name": "toy", "digest": "a" * 64, "root": "somewhere"}
ROOT = Path(__file__).parents[3]


def row(cycle, stage="evaluate", **values):
    return {"run": "main", "cycle": cycle, "stage": stage, **values}


@pytest.fixture
def run(tmp_path):
    """A run folder whose record holds a training and an evaluation."""
    folder = tmp_path / "run"
    folder.mkdir()
    record = Record(folder / "metrics.jsonl")
    record.log(row(0, "train", epoch=0, **{"train/loss": 2.0}))
    record.log(row(0, miou=0.5, labelled_fraction=0.1))
    return folder


EXPECTED = {
    "run": [("labelled_fraction", 1000, 0.1), ("miou", 1000, 0.5)],  # the step is the label axis, in 0.01 %
    "run/main/0": [("labelled_fraction", 0, 0.1), ("miou", 0, 0.5), ("train/loss", 0, 2.0)],
}


def points(uri):
    """Every point that MLflow holds, by run; no (key, step) may be there twice."""
    from mlflow import MlflowClient

    client, found = MlflowClient(uri), {}
    [experiment] = [e for e in client.search_experiments() if e.name == "toy_s4al_plus"]
    for one in client.search_runs([experiment.experiment_id]):
        history = [m for key in one.data.metrics for m in client.get_metric_history(one.info.run_id, key)]
        assert one.info.run_name not in found, "two runs for one cycle"
        found[one.info.run_name] = sorted((m.key, m.step, m.value) for m in history)
        assert len({point[:2] for point in found[one.info.run_name]}) == len(history), "conflicting points"
    return found


def sqlite(tmp_path):
    return sqlite_uri(tmp_path / "mlflow.db")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database with MLflow's tables: making them takes a second or two."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("empty")
    MlflowClient(sqlite(folder)).search_experiments()
    return folder / "mlflow.db"


@pytest.fixture
def uri(empty, tmp_path):
    shutil.copy(empty, tmp_path)
    return sqlite(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_one_parent_one_child_per_cycle_and_nothing_twice(run, uri):
    from mlflow import MlflowClient

    MlflowMirror(run, small_config(), DATA, uri).copy()
    state = read_json(run / "mlflow.json")
    write_json(run / "mlflow.json", {**state, "children": {}, "rows": 1})  # killed before it was written
    Record(run / "metrics.jsonl").log(row(1, miou=0.6, labelled_fraction=0.121))
    mirror = MlflowMirror(run, small_config(), DATA, uri)
    mirror.sync()
    mirror.finish(None, None)

    client = MlflowClient(uri)
    [experiment] = [e for e in client.search_experiments() if e.name == "toy_s4al_plus"]
    runs = client.search_runs([experiment.experiment_id])
    children = [r for r in runs if "mlflow.parentRunId" in r.data.tags]
    [parent] = [r for r in runs if r not in children]
    assert len(children) == 2
    assert {c.data.tags["mlflow.parentRunId"] for c in children} == {parent.info.run_id}
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert points(uri)["run"] == sorted([*EXPECTED["run"], ("labelled_fraction", 1210, 0.121), ("miou", 1210, 0.6)])
    assert parent.data.params["query.threshold"] == "0.7"
    assert len(parent.data.params) == len(flatten(small_config().model_dump(mode="json"))) > 100  # MLflow cuts them up
    assert parent.inputs.dataset_inputs[0].dataset.digest == "a" * 36


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lost", ["one write", "every write", "the file"])
def test_killed_between_the_copy_and_its_note_nothing_is_there_twice(run, uri, monkeypatch, lost):
    write = mlflow_run.write_json

    def killed(path, state):
        if lost == "every write" or state["rows"]:
            raise KeyboardInterrupt
        write(path, state)

    mirror = MlflowMirror(run, small_config(), DATA, uri)
    with monkeypatch.context() as patch:
        patch.setattr(mlflow_run, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            mirror.copy()
    if lost == "the file":
        (run / "mlflow.json").unlink()
    MlflowMirror(run, small_config("train.threads=2"), DATA, uri).copy()  # a parameter that has drifted since
    assert points(uri) == EXPECTED


@pytest.mark.filterwarnings("ignore")
def test_a_new_run_in_an_old_place_is_another_run_to_mlflow(run, uri):
    MlflowMirror(run, small_config(), DATA, uri, "first").copy()
    (run / "mlflow.json").unlink()
    MlflowMirror(run, small_config(), DATA, uri, "second").copy()
    with pytest.raises(AssertionError, match="two runs"):
        points(uri)


@pytest.mark.filterwarnings("ignore")
def test_a_twin_that_a_lost_answer_has_left_is_removed(run, uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    MlflowMirror(run, small_config(), DATA, uri).copy()
    parent = client.get_run(read_json(run / "mlflow.json")["parent"])
    client.create_run(parent.info.experiment_id, tags={"s4al.key": parent.data.tags["s4al.key"]}, run_name="run")
    (run / "mlflow.json").unlink()
    MlflowMirror(run, small_config(), DATA, uri).copy()
    assert points(uri) == EXPECTED


@pytest.mark.filterwarnings("ignore")
def test_a_result_that_was_made_again_is_the_newer_point_at_its_step(run, uri, monkeypatch):
    from mlflow import MlflowClient

    record, now = Record(run / "metrics.jsonl"), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 9)
    record.log(row(1, miou=0.6, **{"from": "aa", "labelled_fraction": 0.2}))
    MlflowMirror(run, small_config(), DATA, uri).copy()
    monkeypatch.setattr(time, "time", lambda: now + 99)
    record.log(row(1, miou=0.4, **{"from": "bb", "labelled_fraction": 0.2}))
    MlflowMirror(run, small_config(), DATA, uri).copy()
    state = read_json(run / "mlflow.json")
    for run_id in (state["parent"], state["children"]["main/1"]):
        assert MlflowClient(uri).get_run(run_id).data.metrics["miou"] == 0.4


class Server:
    """MLflow's own application, which can be slow, fail before it acts, or fail to answer after it has acted."""

    def __init__(self, database):
        from mlflow.server import app, handlers
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Silent(WSGIRequestHandler):
            def log(self, *_):
                pass

        self.app, self.mode, self.go_on, self.requests = app, "well", threading.Event(), 0
        self.lost = []
        handlers.initialize_backend_stores(f"sqlite:///{database}", default_artifact_root=str(Path(database).parent))
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True, request_handler=Silent)
        self.uri = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, environ, start):
        self.requests += 1
        if self.mode == "slow":
            self.go_on.wait(30)
        lost = self.mode == "loses answers" and environ["PATH_INFO"].endswith(("/create", "/log-batch"))
        if self.mode == "fails" or lost:
            if lost:
                self.lost.append(environ["PATH_INFO"])
                b"".join(self.app(environ, lambda *_: None))
            start("500 Internal Server Error", [("Content-Type", "text/plain")])
            return [b"broken"]
        return self.app(environ, start)


@pytest.fixture(scope="module")
def server(empty, tmp_path_factory):
    server = Server(shutil.copy(empty, tmp_path_factory.mktemp("server")))
    yield server
    server.server.shutdown()
    server.server.server_close()


def at_once(action):
    started = time.monotonic()
    action()
    assert time.monotonic() - started < 15  # to wait for the server would take `FINAL_WAIT_S` or MLflow's minutes


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_never_comes_costs_nothing_and_the_rows_stay(run, caplog):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    mirror = MlflowMirror(run, small_config(), DATA, uri)
    at_once(mirror.sync)
    at_once(lambda: mirror.finish(None, None))
    assert "the run goes on; the same command copies the rest" in caplog.text
    assert len(list(read_record(run / "metrics.jsonl"))) == 2


@pytest.mark.filterwarnings("ignore")
def test_a_server_that_is_slow_fails_or_loses_its_answers_costs_nothing_and_gets_everything_later(
    run, server, monkeypatch, caplog
):
    monkeypatch.setattr(tracking, "FINAL_WAIT_S", 0.5)
    server.mode = "slow"
    mirror = MlflowMirror(run, small_config(), DATA, server.uri)
    for _ in range(3):
        at_once(mirror.sync)
    at_once(lambda: mirror.finish(None, None))
    assert "0 of 2 rows copied, not waiting longer: the same command copies the rest" in caplog.text
    server.mode = "fails"
    server.go_on.set()
    mirror._thread.join(60)
    assert "the run goes on" in caplog.text

    # Every request that changes something is acted on and not heard of: each attempt gets one further.
    monkeypatch.setattr(tracking, "FINAL_WAIT_S", 60)
    server.mode = "loses answers"
    for _ in range(7):
        MlflowMirror(run, small_config(), DATA, server.uri).finish(None, None)
    assert {path.split("mlflow/")[1] for path in server.lost} == {"experiments/create", "runs/create", "runs/log-batch"}
    server.mode = "well"
    Record(run / "metrics.jsonl").log(row(1, miou=0.6, labelled_fraction=0.121))
    mirror = MlflowMirror(run, small_config(), DATA, server.uri)
    before = server.requests
    mirror.copy()
    assert server.requests - before < 20, "rows are not copied in batches"
    found = points(server.uri)
    assert found["run/main/0"] == EXPECTED["run/main/0"]
    assert len(found) == 3


@pytest.mark.filterwarnings("ignore")
def test_a_locked_database_costs_nothing_and_gets_everything_later(run, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "FINAL_WAIT_S", 0.5)
    lock = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    mirror = MlflowMirror(run, small_config(), DATA, sqlite(tmp_path))
    at_once(mirror.sync)
    at_once(lambda: mirror.finish(None, None))
    assert "0 of 2 rows copied" in caplog.text
    lock.execute("ROLLBACK")
    lock.close()
    mirror._thread.join(60)
    assert points(sqlite(tmp_path)) == EXPECTED


TOGETHER = """
import sys, time
from pathlib import Path
import mlflow
from benchmarks.recipes.catalogue import find
from orchestrator.tracking.mirror import MlflowMirror
run, uri = Path(sys.argv[1]), sys.argv[2]
data = {"name": "toy", "digest": "a" * 64, "root": "somewhere"}
mirror = MlflowMirror(run, find("toy_s4al_plus"), data, uri)
(run / "ready").touch()
while not (run.parent / "go").exists():
    time.sleep(0.01)
mirror.copy()
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_four_processes_share_a_database_that_none_has_made_yet(run, tmp_path):
    runs = [tmp_path / f"run{number}" for number in range(4)]
    for one in runs:
        one.mkdir()
        (one / "metrics.jsonl").write_bytes((run / "metrics.jsonl").read_bytes())
    command = [sys.executable, "-W", "ignore", "-c", TOGETHER]
    processes = [
        subprocess.Popen(
            [*command, str(one), f"sqlite:///{tmp_path}/mlflow.db"], cwd=ROOT, env=os.environ, stderr=subprocess.PIPE
        )
        for one in runs
    ]
    deadline = time.monotonic() + 120
    while not all((one / "ready").exists() for one in runs):
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    (tmp_path / "go").touch()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    expected = {}
    for one in runs:
        expected |= {name.replace("run", one.name, 1): found for name, found in EXPECTED.items()}
    assert points(f"sqlite:///{tmp_path}/mlflow.db") == expected


@pytest.mark.parametrize("uri", ["mlruns", "file:./mlruns", "ftp://host"])
def test_a_tracking_address_that_mlflow_would_refuse_is_refused_at_once(uri):
    with pytest.raises(UserError, match="--tracking"):
        check_uri(uri)


def test_the_variable_is_named_where_it_holds_the_address(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "file:///x")
    with pytest.raises(UserError, match=r"^MLFLOW_TRACKING_URI 'file:///x': expected"):
        chosen_uri(None, tmp_path)
    with pytest.raises(UserError, match=r"^--tracking 'file:///y': expected"):
        chosen_uri("file:///y", tmp_path)
    assert chosen_uri("none", tmp_path) == "none"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert chosen_uri(None, tmp_path / "run") == f"sqlite:///{tmp_path}/mlflow.db"


def runs_of(uri, name="toy_s4al_plus"):
    """Every run of the experiment by its name, and the experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(name)
    return {one.info.run_name: one for one in client.search_runs([experiment.experiment_id])}, experiment


@pytest.mark.filterwarnings("ignore")
def test_pages_show_real_times_parameters_source_and_what_the_steps_are(tmp_path, uri, monkeypatch):
    """Two lives of 100 s and 50 s with an hour between; cycle 0 takes 40 s of the first one."""
    from mlflow import MlflowClient

    folder, start = tmp_path / "run", 1_700_000_000.0
    folder.mkdir()
    record, clock = Record(folder / "metrics.jsonl"), [start]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    client = MlflowClient(uri)
    client.create_experiment("toy_s4al_plus")  # of an earlier version: without its kind
    first = MlflowMirror(folder, small_config(), DATA, uri)
    first.copy()
    assert runs_of(uri)[0]["run"].info.status == "RUNNING"
    clock[0] += 60
    record.log(row(0, "train", epoch=0, **{"train/loss": 2.0}))
    record.log(row(0, miou=0.5, labelled_fraction=0.1, **{"seconds/train": 30.0, "seconds/evaluate": 10.0}))
    clock[0] += 40
    first.leave("KILLED")
    assert runs_of(uri)[0]["run"].info.status == "KILLED"
    clock[0] += 3600
    second = MlflowMirror(folder, small_config(), DATA, uri)
    second.copy()
    assert runs_of(uri)[0]["run"].info.status == "RUNNING"
    clock[0] += 50
    second.finish(None, None)
    clock[0] += 3600
    write_json(folder / "summary.json", {"finished": True})
    MlflowMirror(folder, small_config(), DATA, uri).finish(None, None)  # the same command again is no work of the run

    runs, experiment = runs_of(uri)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    whole, cycle = runs["run"], runs["run/main/0"]
    assert (whole.info.status, cycle.info.status) == ("FINISHED", "FINISHED")
    assert (whole.info.start_time, whole.info.end_time) == (start * 1000, (start + 150) * 1000)
    assert (cycle.info.start_time, cycle.info.end_time) == ((start + 20) * 1000, (start + 60) * 1000)
    assert (cycle.data.params["train.epochs"], cycle.data.params["cycle"]) == ("3", "0")
    assert cycle.data.params["train.method"] == small_config().train_at(0, last=False).method
    assert whole.data.tags["mlflow.source.name"] == "s4al run"
    assert "hundredths of a percent" in whole.data.tags["mlflow.note.content"]
    assert "Steps are epochs" in cycle.data.tags["mlflow.note.content"]


@pytest.mark.filterwarnings("ignore")
def test_what_was_killed_or_never_timed_has_the_times_of_its_files(run, uri, monkeypatch):
    rows = list(read_record(run / "metrics.jsonl"))
    mirror = MlflowMirror(run, small_config(), DATA, uri)
    mirror.copy()
    [[began, ended], [_, now]] = mirror.state["work"]
    assert (began, ended, now) == (rows[0]["time"], rows[-1]["time"], None)
    last = time.time() + 30
    os.utime(run / "metrics.jsonl", (last, last))
    monkeypatch.setattr(time, "time", lambda: last + 500)
    again = MlflowMirror(run, small_config(), DATA, uri)
    assert again.state["work"][1][1] == pytest.approx(last)
    assert again.state["work"][2] == [last + 500, None]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("first", ["copy", "original"])
@pytest.mark.parametrize("how", ["beside", "in its place", "without its note"])
def test_a_copied_run_folder_goes_on_as_another_run_and_a_renamed_one_as_the_same(run, uri, caplog, first, how):
    def go_on(folder):
        record = Record(folder / "metrics.jsonl")
        record.log(row(1, miou=0.6 if folder == copy else 0.7, labelled_fraction=0.2))
        MlflowMirror(folder, small_config(), DATA, uri, "id").copy()
        return read_json(folder / "mlflow.json")["parent"]

    MlflowMirror(run, small_config(), DATA, uri, "id").copy()
    before = read_json(run / "mlflow.json")["parent"]
    if how == "in its place":
        original, copy = run.rename(run.with_name("aside")), run
        shutil.copytree(original, copy)
    else:
        original, copy = run, Path(shutil.copytree(run, run.with_name("copy")))
    if how == "without its note":
        (copy / "mlflow.json").unlink()
    order = [copy, original] if first == "copy" else [original, copy]
    found = {folder: go_on(folder) for folder in order}
    assert len(set(found.values())) == 2
    assert before in found.values()
    assert caplog.text.count("tracked as a run of its own") == 1
    assert {folder: go_on(folder) for folder in order} == found
    assert caplog.text.count("tracked as a run of its own") == 1
    if how != "in its place":
        assert found[original] == before
        assert go_on(original.rename(original.with_name("renamed"))) == before


@pytest.mark.filterwarnings("ignore")
def test_what_was_deleted_in_the_ui_is_named_with_the_remedy(run, uri, caplog):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    MlflowMirror(run, small_config(), DATA, uri).copy()
    client.delete_run(read_json(run / "mlflow.json")["parent"])
    MlflowMirror(run, small_config(), DATA, uri).finish(None, None)
    assert f"{run}: its run in MLflow was deleted there" in caplog.text
    assert client.get_run(read_json(run / "mlflow.json")["parent"]).data.metrics["miou"] == 0.5
    number = client.get_experiment_by_name("toy_s4al_plus").experiment_id
    client.delete_experiment(number)
    caplog.clear()
    MlflowMirror(run, small_config(), DATA, uri).finish(None, None)
    assert "the experiment 'toy_s4al_plus' was deleted there: restore it" in caplog.text
    assert f"--experiment-id {number}" in caplog.text
    client.restore_experiment(number)
    MlflowMirror(run, small_config(), DATA, uri).finish(None, None)
    assert read_json(run / "mlflow.json")["status"] == "FINISHED"


@pytest.mark.filterwarnings("ignore")
def test_a_grid_whose_path_has_a_quote_has_its_run_closed_as_it_ended_and_after_a_renaming(tmp_path, uri):
    from orchestrator.tracking.grids import grid_run
    from orchestrator.tracking.store import Group

    root = tmp_path / "it's a grid"
    group = Group(root, "toy_s4al_plus", {}, "grid", "s4al splits")
    with pytest.raises(ValueError, match="x"), grid_run(group, uri, "note", {"seeds": "0"}):
        raise ValueError("x")
    runs, _ = runs_of(uri)
    assert {name: one.info.status for name, one in runs.items()} == {"it's a grid": "FAILED"}
    assert runs["it's a grid"].data.params == {"seeds": "0"}
    moved = root.rename(tmp_path / "moved")
    with grid_run(Group(moved, "toy_s4al_plus", {}, "grid", "s4al splits"), uri, "note", {"seeds": "0,1"}):
        pass
    runs, _ = runs_of(uri)
    assert {name: one.info.status for name, one in runs.items()} == {"it's a grid": "FINISHED"}
