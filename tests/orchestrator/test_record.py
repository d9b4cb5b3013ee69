import json

import pytest

from orchestrator.record import Record, latest, read_record


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
