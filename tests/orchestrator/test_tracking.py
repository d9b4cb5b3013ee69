import json
import socket
import time

import pytest

from orchestrator.tracking import MlflowMirror, Record, check_uri, read_record
from querying.errors import UserError
from querying.files import read_json, write_json
from tests.small import small_config

DATA = {"name": "toy", "digest": "a" * 64, "root": "somewhere"}


def row(cycle, stage="evaluate", **values):
    return {"run": "main", "cycle": cycle, "stage": stage, **values}


def test_a_row_is_recorded_once_even_by_a_resumed_driver(tmp_path):
    path = tmp_path / "metrics.jsonl"
    Record(path).log(row(0, miou=0.5))
    record = Record(path)
    record.log(row(0, miou=0.5))
    record.log(row(1, miou=0.6))
    assert [r["miou"] for r in read_record(path)] == [0.5, 0.6]


def test_a_torn_last_line_is_dropped_and_the_file_stays_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    Record(path).log(row(0, miou=0.5))
    with path.open("a") as file:
        file.write('{"run": "main", "cyc')
    assert len(list(read_record(path))) == 1
    Record(path).log(row(1, miou=0.6))
    assert [json.loads(line)["cycle"] for line in path.read_text().splitlines()] == [0, 1]


def test_a_number_that_is_not_finite_never_reaches_the_record(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Record(tmp_path / "metrics.jsonl").log(row(0, miou=float("nan")))


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_one_parent_one_child_per_cycle_and_nothing_twice(tmp_path):
    from mlflow import MlflowClient

    run, uri = tmp_path / "run", f"sqlite:///{tmp_path}/mlflow.db"
    run.mkdir()
    record = Record(run / "metrics.jsonl")
    record.log(row(0, "train", epoch=0, **{"train/loss": 2.0}))
    record.log(row(0, miou=0.5, labelled_fraction=0.1))
    MlflowMirror(run, small_config(), DATA, uri).sync()
    state = read_json(run / "mlflow.json")
    write_json(run / "mlflow.json", {**state, "children": {}, "rows": 1})  # killed before it was written
    record.log(row(1, miou=0.6, labelled_fraction=0.121))
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
    curve = client.get_metric_history(parent.info.run_id, "miou")
    assert sorted((m.step, m.value) for m in curve) == [
        (1000, 0.5),
        (1210, 0.6),
    ]  # the step is the label axis, in 0.01 %
    assert parent.data.params["query.threshold"] == "0.7"
    assert parent.inputs.dataset_inputs[0].dataset.digest == "a" * 36


@pytest.mark.filterwarnings("ignore")
def test_a_dead_server_costs_seconds_and_nothing_is_lost(tmp_path, caplog):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{probe.getsockname()[1]}"
    record = Record(tmp_path / "metrics.jsonl")
    record.log(row(0, miou=0.5, labelled_fraction=0.1))
    started = time.monotonic()
    MlflowMirror(tmp_path, small_config(), DATA, uri).sync()
    assert time.monotonic() - started < 30
    assert "the run goes on" in caplog.text
    assert len(list(read_record(tmp_path / "metrics.jsonl"))) == 1


@pytest.mark.parametrize("uri", ["mlruns", "file:./mlruns", "ftp://host"])
def test_a_tracking_address_that_mlflow_would_refuse_is_refused_at_once(uri):
    with pytest.raises(UserError, match="--tracking"):
        check_uri(uri)
