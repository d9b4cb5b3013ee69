"""Every byte of a run: altered, cut or missing, it is named."""

import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import save_file

from orchestrator.audit.files import audit_run
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import digest, seal
from orchestrator.folder.products import exported_from, foreign
from orchestrator.folder.record import latest
from orchestrator.run.inputs import STAGES, stage_inputs, unnoted_settings
from querying.base.files import read_json, sealed, sha256, write_json
from querying.dataset.schemas import LEDGER, QUERY
from querying.dataset.shards import encode_label
from querying.labels.ledger import Ledger, _link
from querying.scoring.score_files import read_scores
from tests.faults.flips import same_values
from tests.small import small_run
from training.network.deeplab import build_model
from training.settings.training import ModelSettings


@pytest.fixture(scope="module")
def whole(toy_data, tmp_path_factory):
    from orchestrator.folder.recipe_file import write_recipe
    from orchestrator.recipe.provenance import provenance as _provenance
    from tests.small import small_config

    root = tmp_path_factory.mktemp("verify") / "run"
    overrides = ("reference=true", "train.epochs=1")
    root.mkdir()
    encoder = build_model(ModelSettings(), 2, embedding=False).encoder.state_dict()
    save_file({name: value.contiguous() for name, value in encoder.items()}, root / "backbone.safetensors")
    small_run(toy_data.root, root, *overrides)
    write_recipe(root / "recipe.yaml", small_config(*overrides), _provenance(toy_data, root / "backbone.safetensors"))
    return root


@pytest.fixture
def run(whole, tmp_path):
    return RunLayout(shutil.copytree(whole, tmp_path / "run"))


def audited(layout):
    return [
        path for path in sorted(layout.root.rglob("*")) if path.is_file() and not path.name.endswith((".lock", ".copy"))
    ]


def culprit(layout, path):
    """What must be named: the file; for one of the ledger either of the pair."""
    return str(path.with_suffix("")) if path.parent.name == "ledger" else str(path)


def test_an_intact_run_has_nothing_to_say(run):
    assert list(audit_run(run)) == []
    assert len(audited(run)) > 25


@pytest.mark.parametrize("flips", [50, pytest.param(400, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_in_a_run_is_named(run, flips):
    """Flips over every file of the run; a flip in the file's own text is found, or the file says the same."""
    rng = np.random.default_rng(flips)
    files = audited(run)
    assert len(files) <= flips
    for turn in range(flips):
        path = files[turn % len(files)]
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[int(rng.integers(len(content) - 1))] ^= 1 << int(rng.integers(8))  # not a text's last newline
        path.write_bytes(flipped)
        assert same_values(path, content) or culprit(run, path) in "\n".join(audit_run(run)), path
        path.write_bytes(content)
    assert list(audit_run(run)) == []


def test_a_cut_file_is_named(run):
    for turn, path in enumerate(audited(run)):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2 if turn % 2 else 0])
        assert culprit(run, path) in "\n".join(audit_run(run)), path
        path.write_bytes(content)


def test_a_missing_file_is_named(run):
    for path in audited(run):
        content = path.read_bytes()
        path.unlink()
        assert culprit(run, path) in "\n".join(audit_run(run)), path
        path.write_bytes(content)


@pytest.mark.parametrize(
    "folder",
    [
        "cycle-000/checkpoint", "cycle-000/evaluation", "cycle-000/scores", "cycle-000/query", "cycle-001/checkpoint",
        "cycle-001/evaluation", "reference/cycle-000/checkpoint",
    ],
)  # fmt: skip
def test_a_missing_stage_is_named(run, folder):
    shutil.rmtree(run.root / folder)
    assert f"{run.root / folder}: does not exist" in list(audit_run(run))


def test_a_missing_cycle_and_a_missing_row_are_named(run):
    lines = run.metrics.read_bytes().splitlines(keepends=True)
    run.metrics.write_bytes(b"".join(lines[:-2]))
    [named] = audit_run(run)
    assert "metrics.jsonl: 2 rows are missing" in named
    shutil.rmtree(run.cycle(1))
    assert f"{run.checkpoint(1)}: does not exist" in list(audit_run(run))


def test_what_the_record_tells_of_is_missed_though_nothing_else_does(run):
    """A finished run that loses the reference, then the summary, then all of its last cycle."""
    record = run.metrics.read_bytes()
    shutil.rmtree(run.reference.root)
    named = list(audit_run(run))
    for path in (run.reference.summary, run.reference.checkpoint(0), run.reference.ledger / "cycle-000.parquet"):
        assert f"{path}: does not exist" in named
    run.summary.unlink()
    assert f"{run.summary}: does not exist" in list(audit_run(run))
    shutil.rmtree(run.cycle(1))
    for path in run.ledger.glob("cycle-001.*"):
        path.unlink()
    shutil.rmtree(run.query(0))
    named = list(audit_run(run))
    lost = (run.ledger / "cycle-001.parquet", run.checkpoint(1), run.evaluation(1), run.query(0))
    for path in lost:
        assert f"{path}: does not exist" in named
    lines = [
        line for line in record.splitlines(keepends=True) if b'"reference"' not in line and b'"cycle": 1' not in line
    ]
    run.metrics.write_bytes(b"".join(lines))  # now of a run that was stopped when it had evaluated cycle 0, but:
    assert list(audit_run(run)) == [f"{run.summary}: does not exist"]


def test_a_summary_of_fewer_cycles_than_the_record_is_named(run):
    summary = read_json(run.summary)
    write_json(run.summary, {**summary, "cycles": summary["cycles"][:1], "finished": False})
    assert list(audit_run(run)) == [f"{run.summary}: lists 1 of the 2 cycles that the record has"]


@pytest.mark.parametrize("stop_at", ["null", "1.0"])  # the reference last or first
def test_a_run_is_intact_wherever_it_is_interrupted(toy_data, tmp_path, monkeypatch, stop_at):
    """Looked at before and after every write, rename and transition, as a kill there would leave it."""
    from orchestrator.folder.recipe_file import write_recipe
    from orchestrator.recipe.provenance import provenance as _provenance
    from tests.small import small_config

    overrides = ("reference=true", f"stop_at={stop_at}", "train.epochs=1", "query.per_image=1")
    layout, states, alarms = RunLayout(tmp_path / "run"), set(), []
    write_recipe(layout.recipe, small_config(*overrides), _provenance(toy_data, layout.backbone))

    def look(name):
        files = [path for path in layout.root.rglob("*") if path.is_file() and ".tmp" not in str(path)]
        state = str(sorted((str(path), path.stat().st_mtime_ns) for path in files))
        if state not in states:
            states.add(state)
            alarms.extend((name, line) for line in audit_run(layout))

    for module in ("querying.base.files", "orchestrator.folder.layout"):
        monkeypatch.setattr(f"{module}.failpoint", look)
    small_run(toy_data.root, layout.root, *overrides)
    assert len(states) > 15
    assert alarms == []


def test_scores_of_another_model_are_noticed_though_their_own_manifest_is_right(run):
    folder = run.checkpoint(0)
    (folder / "model.safetensors").write_bytes(b"another")
    seal(folder, inputs={"labels": "x"}, seconds=1)
    named = list(audit_run(run))
    assert f"{folder}: was made from another labels" in named
    assert f"{run.scores(0)}: was made from another model" in named
    assert f"{run.evaluation(0)}: was made from another model" in named


def test_an_exported_model_belongs_to_its_checkpoint(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    model = {"cycle": 1, "checkpoint": "c"}
    assert not exported_from(tmp_path, model)
    from querying.base.files import sha256

    write_json(tmp_path / "model.json", {**model, "sha256": sha256(tmp_path / "model.onnx")})
    assert exported_from(tmp_path, model)
    assert not exported_from(tmp_path, {**model, "checkpoint": "d"})
    (tmp_path / "model.onnx").write_bytes(b"grapH")
    assert not exported_from(tmp_path, model)
    assert f"{tmp_path / 'model.onnx'}: differs from what was exported" in list(audit_run(RunLayout(tmp_path)))
    (tmp_path / "model.onnx").unlink()
    assert f"{tmp_path / 'model.onnx'}: does not exist" in list(audit_run(RunLayout(tmp_path)))


@pytest.fixture(scope="module")
def other(whole, toy_data, tmp_path_factory):
    """A run with another rate and seed, whose first labels are those of `whole`."""
    root = tmp_path_factory.mktemp("verify") / "other"
    root.mkdir()
    for name in ("backbone.safetensors", "labelled_set.json"):
        shutil.copy(whole / name, root / name)
    small_run(toy_data.root, root, "train.epochs=1", "train.lr=0.5", "seed=0")
    return RunLayout(root)


@pytest.mark.parametrize("folder", ["checkpoint", "evaluation", "scores", "query"])
def test_a_stage_of_a_run_with_other_settings_is_named_though_its_manifest_is_right(run, other, folder):
    """All of cycle 0, so that the inputs by hash of all but the first stage fit."""
    for name in STAGES.values():
        shutil.rmtree(run.cycle(0) / name)
        shutil.copytree(other.cycle(0) / name, run.cycle(0) / name)
    assert f"{run.cycle(0) / folder}: was made with train.lr 0.5, not 0.1" in list(audit_run(run))


def test_a_run_sets_a_stage_with_other_settings_aside_and_makes_it_again(run, other, toy_data):
    weights = run.checkpoint(0) / "model.safetensors"
    right = weights.read_bytes()
    shutil.rmtree(run.checkpoint(0))
    shutil.copytree(other.checkpoint(0), run.checkpoint(0))
    assert weights.read_bytes() != right
    small_run(toy_data.root, run.root, "reference=true", "train.epochs=1")
    assert weights.read_bytes() == right
    assert [path.name for path in run.root.glob("cycle-*/damaged-*")] == ["damaged-1-checkpoint"]
    assert list(audit_run(run)) == []


def test_stages_of_a_version_that_noted_no_settings_are_believed_and_said(run, toy_data, capsys):
    """No stage of an unfinished run is made again because a later version continues it."""
    folders = [path.parent for path in run.root.rglob("manifest.json")]
    for folder in folders:
        manifest = read_json(folder / "manifest.json")
        del manifest["settings"]
        write_json(folder / "manifest.json", manifest)
    before = {path: path.stat().st_mtime_ns for path in run.root.glob("cycle-*/*/*")}
    [line] = unnoted_settings(run)
    assert line.startswith(f"{run.checkpoint(0)} (and 5 more): made by a version that noted no settings")
    small_run(toy_data.root, run.root, "reference=true", "train.epochs=1")
    assert {path: path.stat().st_mtime_ns for path in run.root.glob("cycle-*/*/*")} == before
    assert list(audit_run(run)) == []


def test_a_record_of_a_stage_that_was_made_again_with_another_result_follows_it(toy_data, run, monkeypatch):
    """As on a GPU, where nothing is bit for bit: here with another rate."""
    monkeypatch.setattr("training.fit.loop.learning_rate", lambda step, train: 5 * train.lr)
    old, counts = latest(run.metrics), run.evaluation(1) / "confusion.json"
    before = read_json(counts)
    shutil.rmtree(run.checkpoint(1))
    small_run(toy_data.root, run.root, "reference=true", "train.epochs=1")
    assert list(audit_run(run)) == []
    new = latest(run.metrics)
    history = read_json(run.checkpoint(1) / "meta.json")["history"]
    trained = [
        {k: row[k] for k in history[0]}
        for row in new
        if (row["run"], row["cycle"], row["stage"]) == ("main", 1, "train")
    ]
    assert trained == history
    assert len(new) == len(old)
    changed = [(a["run"], a["cycle"], a["stage"]) for a, b in zip(old, new, strict=True) if a != b]
    # So small a network may say the same with other weights; then there is nothing new to record.
    expected = [("main", 1, "train"), ("main", 1, "evaluate")][: 1 + (read_json(counts) != before)]
    assert changed == expected
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    run.metrics.write_text(
        "".join(sealed({k: v for k, v in row.items() if k != "seal"}) + "\n" for row in lines[: -len(expected)])
    )
    [found] = audit_run(run)
    assert f"{len(expected)} rows are missing or of another result, the first: run main, cycle 1" in found


def test_a_ledger_and_a_query_that_do_not_belong_together_are_named(run):
    note = read_json(run.ledger / "cycle-001.json")
    write_json(run.ledger / "cycle-001.json", {**note, "query": "0" * 64})
    assert list(audit_run(run)) == [f"{run.ledger}/cycle-001.parquet: answers another query than {run.query(0)}"]


def rewritten(run, cycle, change):
    """Change a cycle's rows in the ledger, with hash, chain and manifests right, as somebody with the source could."""
    ledger = Ledger(run.ledger)
    rows = ledger.read(cycle).to_pylist()
    rows = change(rows) or rows
    pq.write_table(pa.Table.from_pylist(rows, schema=LEDGER), ledger.path(cycle))
    for number in range(cycle, 2):
        digest = sha256(ledger.path(number))
        note = read_json(ledger.note(number))
        write_json(ledger.note(number), {**note, "sha256": digest, "chain": _link(ledger.chain(number - 1), digest)})
    resealed(run)


def resealed(run):
    """Give every stage the inputs that it should have, in the order in which they were made."""
    ledger = Ledger(run.ledger)
    for cycle in (0, 1):
        for stage, folder in STAGES.items():
            path = run.cycle(cycle) / folder
            if path.exists():
                seal(path, inputs=stage_inputs(run, ledger, stage, cycle), seconds=1)


def change_summary(change):
    def apply(run):
        summary = read_json(run.summary)
        change(summary)
        write_json(run.summary, summary)

    return apply


def other_counts(run):
    path = run.evaluation(1) / "confusion.json"
    counts = read_json(path)
    counts["counts"][0][0] += 1000
    write_json(path, counts)
    resealed(run)


def other_classes(run):
    meta = read_json(run.checkpoint(1) / "meta.json")
    write_json(run.checkpoint(1) / "meta.json", {**meta, "classes": meta["classes"][::-1]})
    resealed(run)


def other_network(run):
    meta = read_json(run.checkpoint(1) / "meta.json")
    meta["model"]["aspp_channels"] = 16
    write_json(run.checkpoint(1) / "meta.json", meta)
    resealed(run)


def another_copy(run):
    from orchestrator.folder.recipe_file import read_recipe, recipe_copy, write_recipe

    config, provenance = read_recipe(run.recipe)
    whole = run.recipe.read_text()
    write_recipe(run.recipe, config.model_copy(update={"seed": 7}), provenance)
    assert "seed: 7" in recipe_copy(run.recipe).read_text()
    run.recipe.write_text(whole)


def without_reference(run):
    shutil.rmtree(run.reference.root)
    kept = [line for line in run.metrics.read_text().splitlines(keepends=True) if '"reference"' not in line]
    run.metrics.write_text("".join(kept))


def another_query(run):
    path = run.query(0) / "query.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    resealed(run)
    note = read_json(run.ledger / "cycle-001.json")
    write_json(run.ledger / "cycle-001.json", {**note, "query": digest(run.query(0), "*.parquet")})


def edited_report(run):
    (run.root / "report").mkdir()
    (run.root / "report/report.html").write_text("mIoU 50")
    write_json(run.root / "report.json", {"report.html": sha256(run.root / "report/report.html")})
    assert list(audit_run(run)) == []
    (run.root / "report/report.html").write_text("mIoU 90")


def foreign_row(run):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    for row in rows:
        del row["seal"]
        if (row["run"], row["stage"], row["cycle"]) == ("main", "evaluate", 1):
            row["miou"] = 0.99
    run.metrics.write_text("".join(sealed(row) + "\n" for row in rows))


def first_set(run):
    found = read_json(run.labelled_set)
    write_json(run.labelled_set, {**found, "ids": found["ids"][1:]})


def set_of_another_seed(run):
    found = read_json(run.labelled_set)
    write_json(run.labelled_set, {**found, "source": "drawn with seed 77"})


def model_of_another_checkpoint(run):
    (run.root / "model.onnx").write_bytes(b"graph")
    note = {"cycle": 1, "checkpoint": digest(run.checkpoint(0), "*.safetensors")}
    write_json(run.root / "model.json", {**note, "sha256": sha256(run.root / "model.onnx")})


def better_epoch(run):
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    for row in rows:
        del row["seal"]
        if (row["run"], row["stage"], row["cycle"]) == ("main", "train", 1):
            row["train/loss" if "train/loss" in row else next(k for k in row if k.startswith("train/"))] = 1e-9
    run.metrics.write_text("".join(sealed(row) + "\n" for row in rows))


def chosen_by_hand(run):
    """Another open cell of the same size is asked about and bought, with its own score and all hashes right."""
    path = run.query(0) / "query.parquet"
    rows = pq.read_table(path).to_pylist()
    taken = {(row["image_id"], row["region"]) for row in rows}
    for file in sorted(run.scores(0).glob("regions-*.arrow")):
        ids, score_NR = read_scores(file, 12)
        for image_id, score_R in zip(ids, score_NR, strict=True):
            for region in np.flatnonzero(score_R > -np.inf).tolist():
                if image_id == rows[0]["image_id"] and (image_id, region) not in taken:
                    rows[0] |= {"region": region, "score": float(score_R[region])}
    assert (rows[0]["image_id"], rows[0]["region"]) not in taken
    pq.write_table(pa.Table.from_pylist(rows, schema=QUERY), path)
    rewritten(run, 1, lambda bought: _rebought(bought, rows[0], taken, rows))
    note = read_json(run.ledger / "cycle-001.json")
    write_json(run.ledger / "cycle-001.json", {**note, "query": digest(run.query(0), "*.parquet")})


def _rebought(bought, new, taken, rows):
    [old] = [r for r in bought if (r["image_id"], r["region"]) not in {(a["image_id"], a["region"]) for a in rows}]
    old |= {"region": new["region"], "score": new["score"]}


def strange_summary(run):
    write_json(run.summary, {"cycles": [None, 3], "finished": True})


FORGERIES = {
    "a summary of something else": (strange_summary, "holds what s4al did not write: key recipe"),
    "a region charged twice in a cycle": (
        lambda run: rewritten(run, 1, lambda rows: [*rows, rows[0]]),
        r"cycle-001\.parquet: image \w+, region \d+ is charged twice",
    ),
    "a region charged again in a later cycle": (
        lambda run: rewritten(run, 1, lambda rows: [*rows, {**Ledger(run.ledger).read(0).to_pylist()[0], "cycle": 1}]),
        "is charged twice",
    ),
    "a region outside": (
        lambda run: rewritten(run, 1, lambda rows: rows[0].update(region=10**6)), "region 1000000 is none of the",
    ),
    "a whole image": (lambda run: rewritten(run, 1, lambda rows: rows[0].update(region=-1)), "region -1 is none"),
    "fewer pixels": (lambda run: rewritten(run, 1, lambda rows: rows[0].update(pixels=1)), r"says 1 pixels.*label has"),
    "more void": (lambda run: rewritten(run, 1, lambda rows: rows[0].update(void_pixels=-1)), "-1 void, where"),
    "a label of another size": (
        lambda run: rewritten(run, 1, lambda rows: rows[0].update(label=encode_label(np.zeros((2, 2), np.uint8)))),
        "has a label that is none of it",
    ),
    "a cycle's number": (lambda run: rewritten(run, 1, lambda rows: rows[0].update(cycle=0)), "it is of cycle 0"),
    "a cell that was not asked about": (
        lambda run: rewritten(run, 1, lambda rows: rows[1:]), r"differs from what .*query\.parquet asks",
    ),
    "a score": (lambda run: rewritten(run, 1, lambda rows: rows[0].update(score=9.0)), r"differs from what .*query"),
    "a query": (another_query, r"differs from what .*query\.parquet asks"),
    "mIoU": (change_summary(lambda s: s["cycles"][1].update(miou=0.99)), r"summary\.json: cycle 1: miou is 0\.99"),
    "IoU of a class": (
        change_summary(lambda s: s["cycles"][0]["class_iou"].update(sky=0.99)), "cycle 0, class_iou: sky is 0.99",
    ),
    "labelled pixels": (change_summary(lambda s: s["cycles"][1].update(labelled_pixels=5)), "labelled_pixels is 5"),
    "a share": (change_summary(lambda s: s["cycles"][1].update(labelled_fraction=0.01)), "are shares of .* and of"),
    "cells": (change_summary(lambda s: s["cycles"][1].update(cells=5)), "cells is 5"),
    "void": (change_summary(lambda s: s["cycles"][1].update(void_pixels=5)), "void_pixels is 5"),
    "the supervised mIoU": (change_summary(lambda s: s.update(supervised_miou=0.99)), "supervised_miou is 0.99"),
    "the seed": (change_summary(lambda s: s.update(seed=9)), "seed is 9"),
    "the split": (change_summary(lambda s: s.update(evaluated_on="val")), "evaluated_on is 'val'"),
    "counts": (other_counts, r"cycle 1: miou is"),
    "a row of the record": (foreign_row, r"metrics\.jsonl: main cycle 1: miou is 0\.99"),
    "the first images": (first_set, r"labelled_set\.json: names other images"),
    "classes of a checkpoint": (other_classes, r"cycle-001/checkpoint/meta\.json: classes is"),
    "network of a checkpoint": (other_network, r"meta\.json: model\.aspp_channels is 16, where the run has 8"),
    "a set of another seed": (set_of_another_seed, "drawn with seed 77, where the recipe says: drawn with seed 0"),
    "a model of another checkpoint": (model_of_another_checkpoint, r"model\.onnx: was exported from other weights"),
    "an epoch": (better_epoch, r"metrics\.jsonl: main cycle 1, epoch .*: train/.* is 1e-09"),
    "a query by hand": (chosen_by_hand, r"query\.parquet: .*: not what the scores of its cycle choose"),
    "a share without void": (
        change_summary(lambda s: s["cycles"][1].update(labelled_fraction_valid=0.9)), "pixels that are not void",
    ),
    "the copy of the recipe": (another_copy, r"recipe\.yaml: contradicts its copy .*: seed"),
    "the reference with its rows": (without_reference, r"reference/summary\.json: does not exist"),
    "a cycle from elsewhere": (lambda run: shutil.copytree(run.cycle(0), run.cycle(7)), "cycle-007: of a cycle that"),
    "the report": (edited_report, r"report/report\.html: differs from what was written"),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_run_whose_sums_do_not_agree_is_named_though_all_seals_are_right(run, name):
    forge, message = FORGERIES[name]
    forge(run)
    found = list(audit_run(run))
    assert any(re.search(message, line) for line in found), found
    assert not any("differs from its manifest" in line or "its seal" in line for line in found)


def test_files_and_folders_that_are_none_of_a_run_are_named(run):
    assert list(foreign(run)) == []
    (run.root / "notes.txt").write_text("")
    (run.root / "cycle-000/old").mkdir()
    (run.reference.ledger / "x.parquet").write_text("")
    (run.root / "report").mkdir()
    (run.root / "report/a.png").write_text("")
    write_json(run.root / "report.json", {})
    assert [line.partition(": ")[0] for line in foreign(run)] == [
        f"{run.root}/notes.txt", f"{run.reference.ledger}/x.parquet", f"{run.root}/cycle-000/old",
        f"{run.root}/report/a.png",
    ]  # fmt: skip
