"""What an earlier version has stored is read; what a later one has stored is refused in one line, and kept.

`tests/fixtures/run-N` are runs of the versions with schema number N (see `tests/fixtures/make_run.py`).
"""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from benchmarks.commands.status import status_command
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import digest, problems
from orchestrator.folder.recipe_file import read_recipe, write_recipe
from orchestrator.folder.record import Record, latest, read_record
from orchestrator.recipe.config import changed, load_yaml
from orchestrator.recipe.provenance import drift_lines
from orchestrator.run.preflight import check_same_run
from orchestrator.tracking.mirror import MlflowMirror
from querying.base.errors import UserError
from querying.base.files import read_json, write_json
from querying.dataset.shards import DataIndex
from querying.labels.ledger import Ledger
from tests.small import small_config

STORED = sorted(Path(__file__).parents[1].glob("fixtures/run-*"))


@pytest.fixture
def stored(tmp_path):
    return Path(shutil.copytree(STORED[-1], tmp_path / "run"))


@pytest.mark.parametrize("root", STORED, ids=lambda root: root.name)
def test_a_stored_run_is_read_in_all_its_parts(root, tmp_path, capsys):
    layout = RunLayout(shutil.copytree(root, tmp_path / "run"))
    config, provenance = read_recipe(layout.recipe)
    index = DataIndex.load(layout.root / "dataset", shards_too=False)
    assert (config.name, provenance["data"]["sha256"]) == ("toy_s4al_plus", index.digest)
    assert drift_lines(provenance) == []
    ledger = Ledger(layout.ledger)
    assert [ledger.problems(cycle) for cycle in (0, 1)] == [[], []]
    assert ledger.spent(1).cells > ledger.spent(0).cells > 0
    assert problems(layout.evaluation(1)) == problems(layout.query(0)) == []
    assert ledger.answers(1) in (None, digest(layout.query(0), "*.parquet"))
    assert problems(layout.checkpoint(0), {"labels": ledger.chain(0)}) == [
        f"{layout.checkpoint(0)}/model.safetensors: does not exist"  # not stored: too large
    ]
    assert [(row["cycle"], row["stage"]) for row in latest(layout.metrics)] == [
        (cycle, stage) for cycle in (0, 1) for stage in ("train", "evaluate")
    ]
    before = layout.metrics.read_bytes()
    record = Record(layout.metrics)
    for row in read_record(layout.metrics):
        record.log(row)
    assert layout.metrics.read_bytes() == before
    # A note without places is of an older version: all rows are copied again, which is the same to MLflow.
    assert MlflowMirror(layout.root, config, {}, "sqlite:///gone.db").state["rows"] == 0
    status_command(layout.root)
    assert f"{layout.root}: finished" in capsys.readouterr().out


def test_a_run_that_was_begun_with_our_form_of_a_method_keeps_it_and_no_other_goes_on_in_it(stored):
    """Its recipe lacks the keys that choose a form, whose defaults are the authors' forms now."""
    config, _ = read_recipe(stored / "recipe.yaml")
    methods = config.methods
    assert (methods.self_training.mean, methods.cps.passes, methods.deal.balance) == ("apart", "joint", "share")
    assert methods.cct.decoder == "linear"
    assert methods.equal.model_dump() == {
        "weight": 1.0, "supervised": "image", "distance": "probabilities", "images": "all"
    }  # fmt: skip
    layout, index = RunLayout(stored), DataIndex.load(stored / "dataset", shards_too=False)
    check_same_run(config, index, layout)
    today = changed(config, methods={"self_training": {"mean": "all"}})
    with pytest.raises(UserError, match=r"methods\.self_training\.mean is 'apart' there, 'all' here"):
        check_same_run(today, index, layout)


def test_a_whole_recipe_of_an_earlier_version_means_what_it_meant_and_a_part_of_one_what_it_means_today(tmp_path):
    tree = yaml.safe_load(changed(small_config(), query={"acquisition": "equal"}).to_yaml())
    files = {name: tmp_path / f"{name}.yaml" for name in ("today", "then", "part")}
    files["today"].write_text(yaml.safe_dump(tree))
    del tree["methods"]["self_training"], tree["methods"]["equal"]["distance"]
    files["then"].write_text(yaml.safe_dump(tree))
    files["part"].write_text(yaml.safe_dump({"methods": tree["methods"], "query": tree["query"]}))
    found = {name: load_yaml(path) for name, path in files.items()}
    assert {name: one.query.acquisition for name, one in found.items()} == {
        "today": "equal", "then": "flip_entropy", "part": "equal"
    }  # fmt: skip
    assert {name: one.methods.equal.distance for name, one in found.items()} == {
        "today": "logits", "then": "probabilities", "part": "logits"
    }  # fmt: skip
    assert found["then"].methods.self_training.mean == "apart"


def test_a_key_that_came_after_the_others_has_its_old_value_in_a_whole_recipe_of_before_it(tmp_path):
    tree = yaml.safe_load(small_config().to_yaml())
    path = tmp_path / "recipe.yaml"
    found = []
    for _ in range(2):
        path.write_text(yaml.safe_dump(tree))
        found.append(load_yaml(path).methods)
        tree["methods"]["cct"].pop("decoder", None)
    assert [one.cct.decoder for one in found] == ["relu", "linear"]
    assert found[1].self_training == found[0].self_training


READERS = {
    "cycle-000/evaluation/manifest.json": lambda root: problems(root / "cycle-000/evaluation"),
    "dataset/index.json": lambda root: DataIndex.load(root / "dataset", shards_too=False),
    "ledger/cycle-001.json": lambda root: Ledger(root / "ledger").problems(1),
    "metrics.jsonl": lambda root: Record(root / "metrics.jsonl"),
    "summary.json": status_command,
    "recipe.yaml": lambda root: read_recipe(root / "recipe.yaml"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_a_later_version_is_named_with_both_numbers_and_kept(stored, name):
    path = stored / name
    if name == "recipe.yaml":
        config, provenance = read_recipe(path)
        write_recipe(path, config, {**provenance, "schema": 7})
        text = path.read_text().rpartition("# seal: ")[0].replace("seed: 0", "seed: 0\nmood: sunny")  # a new key
        path.write_text(f"{text}# seal: {hashlib.sha256(text.encode()).hexdigest()}\n")
    else:
        rows = [json.loads(line) for line in path.read_text().splitlines()] if "jsonl" in name else [read_json(path)]
        for row in rows:
            row.pop("seal", None)
            write_json(path, {**row, "schema": 7})
        path.write_text(json.dumps(json.loads(path.read_text())) + "\n")
    before = sorted(file for file in stored.rglob("*"))
    with pytest.raises(
        UserError, match=r"schema 7 is unknown, this version reads 1( and 2)?: use the version"
    ) as caught:
        READERS[name](stored)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(file for file in stored.rglob("*")) == before, "set aside as if it were damaged"


def test_the_note_on_mlflow_of_a_later_version_is_said_and_made_anew(stored, caplog):
    write_json(stored / "mlflow.json", {**read_json(stored / "mlflow.json"), "schema": 7})
    mirror = MlflowMirror(stored, small_config(), {}, "sqlite:///gone.db")
    assert mirror.state["rows"] == 0
    assert "mlflow.json: schema 7 is unknown, this version reads 1" in caplog.text
