"""`s4al query`: what the last model would ask next, as a table, a CSV and a sheet; the run stays as it is."""

import csv
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.commands.query import query_command
from benchmarks.results.asked import asked_of
from querying.base.errors import UserError
from querying.base.files import read_json, write_json
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid
from querying.settings import QuerySettings


def files(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def read(out):
    with (out / "query.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_finished_run_says_what_it_would_ask_next_and_stays_as_it_is(finished, tmp_path, capsys):
    before = files(finished)
    query_command(finished, [], data=None, out=tmp_path, backend="local", address=None)
    assert files(finished) == before
    rows, grid = read(tmp_path), RegionGrid(48, 64, 16)
    assert rows
    bought = Ledger(finished / "ledger").bought(2)
    for row in rows:
        rows_, columns = grid.box(int(row["region"]))
        box = [rows_.start, columns.start, rows_.stop, columns.stop]
        assert [int(row[name]) for name in ("top", "left", "bottom", "right")] == box
        assert int(row["region"]) not in bought.get(row["image"], ())
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert rows[0]["reason"] == f"entropy: no. 1 of {len(rows)}, no. 1 of 2 in its image"
    shown = capsys.readouterr().out
    assert f"{len(rows)} boxes in {len({row['image'] for row in rows})} images to label next" in shown
    assert rows[0]["image"] in shown
    assert shown.splitlines()[-1] == f"written: {tmp_path}/query.csv {tmp_path}/query.png"
    with Image.open(tmp_path / "query.png") as sheet:
        assert len(np.unique(np.asarray(sheet))) > 50
    assert {path.name for path in tmp_path.iterdir()} == {"query.csv", "query.png"}


def test_what_a_stopped_run_has_chosen_already_is_shown(finished, tmp_path, capsys):
    run = shutil.copytree(finished, tmp_path / "run")
    summary = read_json(run / "summary.json")
    write_json(run / "summary.json", {**summary, "cycles": summary["cycles"][:2], "finished": False})
    query_command(run, [], data=None, out=tmp_path / "out", backend="local", address=None)
    query = pq.read_table(run / "cycle-001/query/query.parquet")
    wanted = set(zip(query["image_id"].to_pylist(), map(str, query["region"].to_pylist()), strict=True))
    assert {(row["image"], row["region"]) for row in read(tmp_path / "out")} == wanted


def test_whole_images_are_asked_for_once_each():
    import pyarrow as pa

    from querying.dataset.schemas import QUERY

    columns = {"image_id": ["a", "a", "b", "b"], "region": [0, 1, 0, 1], "score": [0.1, 0.1, 0.7, 0.7]}
    settings = QuerySettings(unit="image", images=2, region_size=16)
    rows = asked_of(pa.table(columns, schema=QUERY), RegionGrid(16, 32, 16), settings, lambda _: (16, 32))
    assert [(row.image_id, row.region, row.box) for row in rows] == [
        ("b", None, (0, 0, 16, 32)),
        ("a", None, (0, 0, 16, 32)),
    ]


@pytest.mark.parametrize(
    ("words", "out", "message"),
    [
        (["train.epochs=2"], "out", "train.epochs=2: a query changes keys of `query` alone"),
        ([], "run/query", "lies in the run"),
        (["query.per_imag=3"], "out", "query.per_imag"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(finished, tmp_path, words, out, message):
    (tmp_path / "run").symlink_to(finished)
    with pytest.raises(UserError, match=message):
        query_command(tmp_path / "run", words, data=None, out=tmp_path / out, backend="local", address=None)
    assert not (tmp_path / "out").exists()
    assert not (finished / "query").exists()
