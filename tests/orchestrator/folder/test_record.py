import json

import pytest

from orchestrator.folder.record import Record, is_live, latest, live_rows, read_record


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


def test_of_a_stage_that_was_made_again_with_another_result_the_new_rows_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = Record(path)
    record.log(row(0, miou=0.5, **{"from": "aa"}))
    record.log(row(1, miou=0.6, **{"from": "bb"}))
    Record(path).log(row(0, miou=0.5, **{"from": "aa"}))
    Record(path).log(row(0, miou=0.4, **{"from": "cc"}))
    Record(path).log(row(0, miou=0.4, **{"from": "cc"}))
    assert [r["miou"] for r in read_record(path)] == [0.5, 0.6, 0.4]
    assert [r["miou"] for r in latest(path)] == [0.4, 0.6]


def test_rows_of_a_version_that_did_not_say_what_they_are_from_stay(tmp_path):
    path = tmp_path / "metrics.jsonl"
    Record(path).log(row(0, miou=0.5))
    Record(path).log(row(0, miou=0.5, **{"from": "aa"}))
    assert len(list(read_record(path))) == 1


def epochs(*losses, made="aa"):
    return [
        {"run": "main", "cycle": 0, "stage": "train", "from": made, "epoch": number, "train/loss": loss}
        for number, loss in enumerate(losses)
    ]


def live(record, *losses, inputs="labels"):
    history = [{"epoch": number, "train/loss": loss} for number, loss in enumerate(losses)]
    return [record.log(row) for row in live_rows(history, "main", 0, inputs)]


def test_the_rows_of_a_training_are_there_as_they_happen_and_once_it_is_published_they_are_its_own(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = Record(path)
    record.log(row(7, miou=0.1))
    assert live(record, 3.0) == [True]
    assert live(record, 3.0, 2.0) == [False, True]
    assert [is_live(one) for one in read_record(path)] == [False, True, True]
    times = [one["time"] for one in read_record(path)]
    record.settle(epochs(3.0, 2.0, 1.0))
    found = list(read_record(path))
    assert [(one.get("epoch"), one.get("from")) for one in found] == [(None, None), (0, "aa"), (1, "aa"), (2, "aa")]
    assert [one["time"] for one in found[:3]] == times  # so that MLflow has no point twice
    before = path.read_bytes()
    for again in (record, Record(path)):
        again.settle(epochs(3.0, 2.0, 1.0))
    assert path.read_bytes() == before


def test_of_a_training_that_was_killed_and_gave_other_numbers_again_the_last_rows_count(tmp_path):
    path = tmp_path / "metrics.jsonl"
    live(Record(path), 3.0, 2.0)
    assert live(Record(path), 3.0, 2.5) == [False, False]  # repeated: one row for an epoch and its inputs
    assert live(Record(path), 3.5, inputs="more labels") == [True]
    Record(path).settle(epochs(3.5, 2.5))
    assert [(one["epoch"], one["train/loss"], is_live(one)) for one in latest(path)] == [
        (0, 3.5, False),
        (1, 2.5, False),
    ]
