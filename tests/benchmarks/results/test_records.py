"""A record says what its run says, in kilobytes, and nothing of the machine."""

import getpass
import shutil
import socket

import pytest

from benchmarks.report.run_tables import as_markdown as cycles_markdown
from benchmarks.report.systems_table import as_csv, as_markdown
from benchmarks.results import records
from benchmarks.results.findings import load_findings
from benchmarks.results.records import EPOCHS, clean, keep, main, thinned
from benchmarks.results.systems import load_systems
from orchestrator.folder.recipe_file import read_recipe, write_recipe
from orchestrator.folder.record import Record, latest
from orchestrator.recipe.config import override
from querying.base.errors import UserError
from querying.base.files import read_json, sealed, write_json


@pytest.fixture(scope="module")
def record(finished, tmp_path_factory):
    [folder] = keep([finished], tmp_path_factory.mktemp("records"), "first")
    return folder


def renamed(run, target, *changes, **provenance):
    """A copy of a run with another recipe."""
    shutil.copytree(run, target)
    config, found = read_recipe(target / "recipe.yaml")
    write_recipe(target / "recipe.yaml", override(config, changes), {**found, **provenance})
    return target


def test_every_table_of_a_record_is_that_of_its_run(finished, record):
    there, here = (load_systems([root]) for root in (finished, record))
    assert as_csv(there) == as_csv(here)
    without_data = [block for block in as_markdown(there, "toy_s4al_plus").split("\n\n") if "(all train" not in block]
    assert len(without_data) >= 4
    assert [block for block in without_data if block not in as_markdown(here, "toy_s4al_plus")] == []
    cycles = [cycles_markdown(load_findings([root]), []) for root in (finished, record)]
    assert cycles[0] == cycles[1]
    [run], [kept] = load_findings([finished]), load_findings([record])
    assert kept.reference == run.reference
    assert kept.epochs[0]["train/loss"] == pytest.approx(run.epochs[0]["train/loss"], rel=1e-5)
    assert there[0].runs[0].cells(2) == here[0].runs[0].cells(2)
    assert sum(map(len, here[0].runs[0].cells(2).values())) == run.queried_cells > 0


def test_a_record_is_small_and_has_no_weights(record):
    files = [path for path in record.rglob("*") if path.is_file()]
    names = {str(path.relative_to(record)) for path in files}
    assert names == {"recipe.yaml", "summary.json", "metrics.jsonl", "bought.json", "reference/summary.json"}
    assert sum(path.stat().st_size for path in files) < 40_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root: /home/alice/my-data/camvid", "root: camvid"),
        ("weights: /srv/w/x.safetensors, then", "weights: x.safetensors, then"),
        ("~/runs/a/b.yaml", "b.yaml"),
        ("file:///mnt/share/a/", "a"),
        ("'/a/b c/d'", "'b c/d'"),
        ("images/s, 1/8, a / b, **/x, models/x", "images/s, 1/8, a / b, **/x, models/x"),
        ("https://user:pw@host.org/path", "https://***@host.org/path"),
        ("token=abcdef", "token=***"),
        ("on build-17, by carol; carolina", "on ***, by ***; carolina"),
    ],
)
def test_what_names_a_machine_is_taken_out(text, expected, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "build-17")
    monkeypatch.setattr(getpass, "getuser", lambda: "carol")
    assert clean(text) == expected


def test_paths_of_recipe_summary_and_provenance_are_not_in_a_record(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "build-17")
    monkeypatch.setenv("MY_TOKEN", "wxyz-1234")
    run = renamed(
        finished, tmp_path / "run", "model.weights=/home/alice/w/enc.safetensors", "initial.list=/home/alice/a.txt",
        machine={"variable OMP": "/home/alice/omp", "host": "build-17"}, environments=[{"secret": "wxyz-1234"}],
        drift=[{"time": "now", "from": "cycle 1", "changes": ["data was /home/alice/d, token wxyz-1234"]}],
    )  # fmt: skip
    summary = {key: value for key, value in read_json(run / "summary.json").items() if key != "seal"}
    summary["labelled_set"]["source"] = "/home/alice/a.txt"
    write_json(run / "summary.json", summary)
    [folder] = keep([run], tmp_path / "records", "x")
    text = "".join(path.read_text() for path in folder.rglob("*") if path.is_file())
    assert [word for word in ("alice", "/home", "build-17", "wxyz", str(tmp_path)) if word in text] == []
    config, found = read_recipe(folder / "recipe.yaml")
    assert (config.model.weights, config.initial.list) == ("enc.safetensors", "a.txt")
    assert found["drift"][0]["changes"] == ["data was d, token ***"]
    assert "environments" not in found


def test_what_still_names_a_machine_is_not_kept(record, tmp_path):
    copy = shutil.copytree(record, tmp_path / "record")
    (copy / "notes.txt").write_text("from /home/alice/x")
    with pytest.raises(UserError, match=r"notes\.txt: held something of this machine"):
        records.check_clean(copy)
    assert not (copy / "notes.txt").exists()


def test_of_a_long_training_some_epochs_are_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = Record(path)
    for epoch in range(200):
        record.log({"run": "main", "cycle": 0, "stage": "train", "epoch": epoch, "train/loss": 1 / (epoch + 3)})
    for epoch in range(3):
        record.log({"run": "main", "cycle": 1, "stage": "train", "from": "live-x", "epoch": epoch, "train/loss": 1.0})
    record.log({"run": "main", "cycle": 0, "stage": "evaluate", "miou": 0.5})
    rows = list(thinned(latest(path)))
    assert len(rows) == EPOCHS
    assert [rows[number]["epoch"] for number in (0, 1, -1)] == [0, 8, 199]
    assert rows[0] == {"run": "main", "cycle": 0, "stage": "train", "epoch": 0, "train/loss": 0.333333}
    assert max(len(sealed(row)) for row in rows) < 200


def test_a_folder_of_runs_and_a_grid_keep_their_layout(finished, tmp_path, capsys):
    for name in ("supervised/1_8/seed-0", "supervised/1_8/seed-1", "st++/1_8/seed-0", "lone-seed0"):
        shutil.copytree(finished, tmp_path / "grid" / name)
    unfinished = tmp_path / "grid/supervised/1_8/seed-1/summary.json"
    summary = {key: value for key, value in read_json(unfinished).items() if key != "seal"}
    write_json(unfinished, {**summary, "finished": False})
    assert main([str(tmp_path / "grid"), "--name", "g", "--under", str(tmp_path / "records")]) == 0
    shown = capsys.readouterr()
    made = {line.removeprefix(f"{tmp_path}/records/g/") for line in shown.out.splitlines()}
    assert made == {"supervised/1_8/seed-0", "st++/1_8/seed-0", "lone-seed0"}
    assert shown.err == f"left out, not finished: {unfinished.parent}\n"
    assert main([str(unfinished.parent), "--name", "g", "--under", str(tmp_path / "records")]) == 2
    assert "is not finished" in capsys.readouterr().err


def test_a_record_is_replaced_by_its_own_run_alone(finished, tmp_path, capsys):
    under = tmp_path / "records"
    first = renamed(finished, tmp_path / "a/run", id="one")
    other = renamed(finished, tmp_path / "b/run", id="two")
    assert keep([first], under, "x") == keep([first], under, "x")
    before = (under / "x/run/recipe.yaml").read_text()
    for paths, why in (([other], "is the record of another run"), ([first, other], "would both be")):
        with pytest.raises(UserError, match=why):
            keep(paths, under, "x")
    assert (under / "x/run/recipe.yaml").read_text() == before
    with pytest.raises(UserError, match="neither a run nor a folder with a finished run"):
        keep([tmp_path / "a/run/cycle-000"], under, "x")
    assert main([str(first), "--name", "../x", "--under", str(under)]) == 2
    assert "--name ../x" in capsys.readouterr().err
