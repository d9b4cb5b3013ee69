"""Whole runs on generated scenes in one process: killed and continued."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from orchestrator.audit.files import audit_run
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.record import is_live, latest, read_record
from querying.base.errors import Interrupted, UserError
from querying.base.files import read_json
from querying.dataset.shards import image_ids
from tests.small import small_run
from training.fit.loop import run_job
from training.fit.worker import Worker

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def undisturbed(toy_data, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "undisturbed"
    small_run(toy_data.root, root)
    return root


def ledger(root):
    return [pq.read_table(path).to_pylist() for path in sorted((root / "ledger").glob("cycle-*.parquet"))]


def finals(root):
    """What must not depend on how a run came to its end: all of the summary but the seconds."""
    summary = read_json(root / "summary.json")
    return {**summary, "cycles": [{k: v for k, v in row.items() if k != "seconds"} for row in summary["cycles"]]}


def score_files(root):
    return {path.name: path.read_bytes() for path in (root / "cycle-000" / "scores").glob("*.arrow")}


def weights(root, cycle):
    return (RunLayout(root).checkpoint(cycle) / "model.safetensors").read_bytes()


def assert_same(a, b):
    assert ledger(a) == ledger(b)
    assert score_files(a) == score_files(b)
    assert all(weights(a, cycle) == weights(b, cycle) for cycle in (0, 1))
    assert finals(a) == finals(b)


def test_the_run_folder_keeps_its_contract(undisturbed, toy_data):
    summary = json.loads((undisturbed / "summary.json").read_text())
    grid_cells = 3 * 4
    train = toy_data.num_images("train")
    first, second = summary["cycles"]
    assert first["cells"] == round(train * 0.2) * grid_cells
    assert second["cells"] == first["cells"] + 2 * (train - round(train * 0.2))
    assert second["labelled_fraction"] == second["labelled_pixels"] / (train * 48 * 64)
    assert set(first["class_iou"]) == set(toy_data.classes)
    assert set(first["seconds"]) == {"train", "evaluate", "score", "select"}
    assert [row["cycle"] for row in ledger(undisturbed)[1]] == [1] * (second["cells"] - first["cells"])
    pool = {row["image_id"] for row in ledger(undisturbed)[1]}
    labelled = {row["image_id"] for row in ledger(undisturbed)[0]}
    everything = {i for shard in toy_data.shards("train") for i in image_ids(toy_data.root, shard)}
    assert pool | labelled == everything
    assert not pool & labelled
    record = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    stages = [("train", 0), ("train", 1), ("train", 2), ("evaluate", None)]
    expected = [(0, *stage) for stage in (*stages, ("score", None))] + [(1, *stage) for stage in stages]
    assert [(row["cycle"], row["stage"], row.get("epoch")) for row in record] == expected
    # the poly schedule is stepped per epoch: constant within one, the base rate in the first
    rates = [row["train/lr"] for row in record if row["stage"] == "train"]
    assert rates == pytest.approx([0.1 * (1 - epoch / 3) ** 0.9 for epoch in range(3)] * 2)
    left = [p for p in undisturbed.rglob("*") if ".tmp" in p.name or p.name == "training"]
    assert left == []


def test_the_epochs_of_a_training_that_is_stopped_are_in_the_record_and_the_audit_asks_for_nothing(toy_data, tmp_path):
    """It is stopped in its second epoch; the same command again ends with the rows of an undisturbed run."""

    class Stopped(LocalBackend):
        def train(self, job):
            run_job(replace(job, train=job.train.model_copy(update={"epochs": 2})), Worker())
            raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        small_run(toy_data.root, tmp_path, "cycles=0", backend=Stopped())
    rows = list(read_record(tmp_path / "metrics.jsonl"))
    assert [(row["cycle"], row["stage"], row["epoch"]) for row in rows] == [(0, "train", 0), (0, "train", 1)]
    assert all("train/loss" in row and is_live(row) for row in rows)
    small_run(toy_data.root, tmp_path, "cycles=0")
    found = latest(tmp_path / "metrics.jsonl")
    assert [(row["stage"], row.get("epoch")) for row in found] == [
        ("train", 0), ("train", 1), ("train", 2), ("evaluate", None)
    ]  # fmt: skip
    assert not any(map(is_live, found))
    assert not [line for line in audit_run(RunLayout(tmp_path)) if "metrics" in line or "checkpoint" in line]


def test_the_first_cycle_of_a_run_is_the_same_run_without_a_query(undisturbed, toy_data, tmp_path):
    """So the chain's row with ReCo is what S4AL+ begins with (benchmarks/results/chain.py)."""
    small_run(toy_data.root, tmp_path, "cycles=0")
    assert weights(tmp_path, 0) == weights(undisturbed, 0)
    [alone], [first, *_] = (finals(root)["cycles"] for root in (tmp_path, undisturbed))
    # What became of its pseudo-labels is all that the longer run has beside it.
    assert alone == {key: first[key] for key in alone}


def test_running_again_changes_nothing(undisturbed, toy_data):
    before = {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()}
    small_run(toy_data.root, undisturbed)
    assert {path: path.read_bytes() for path in undisturbed.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "place",
    [
        "step-00000002:renamed",  # in training, after the first epoch's state
        "shard-00002.json:renamed",  # in scoring, between two shards
    ],
)
def test_a_killed_driver_continues_to_the_same_end(undisturbed, toy_data, tmp_path, place):
    command = [sys.executable, "-m", "tests.small", str(toy_data.root), str(tmp_path / "run")]
    environment = {**os.environ, "S4AL_FAILPOINT": f"{place}=kill"}
    killed = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert not (tmp_path / "run" / "ledger" / "cycle-001.parquet").exists()
    done = {path.name: path.stat().st_ino for path in tmp_path.glob("run/cycle-000/scores-*.tmp/regions-*")}
    assert bool(done) == ("shard" in place)
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    assert_same(tmp_path / "run", undisturbed)
    found = {path.name: path.stat().st_ino for path in tmp_path.glob("run/cycle-000/scores/regions-*")}
    assert done.items() <= found.items(), "a finished shard was scored again"


@pytest.mark.parametrize("manifests", [False, True])
def test_what_is_damaged_is_set_aside_and_made_again_to_the_same_end(undisturbed, toy_data, tmp_path, manifests):
    """One file of every stage and of the ledger, one bit each."""
    root = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    names = {
        "checkpoint": "model.safetensors", "evaluation": "confusion.json", "scores": "pseudo-00001.arrow",
        "query": "query.parquet",
    }  # fmt: skip
    if manifests:
        names = dict.fromkeys(names, "manifest.json")
    for name in (
        *(f"cycle-000/{stage}/{name}" for stage, name in names.items()),
        "ledger/cycle-001.parquet",
        "cycle-001/checkpoint/meta.json",
        "metrics.jsonl",
    ):
        content = bytearray((root / name).read_bytes())
        # in JSON a letter of a name: the last digit of a float may mean the same number
        place = re.search(rb"[a-z]", content).start() if "json" in name else len(content) // 2
        content[place] ^= 1
        (root / name).write_bytes(content)
    small_run(toy_data.root, root)
    assert_same(root, undisturbed)
    aside = {path.name for path in root.rglob("damaged-*")}
    assert {name.split("-", 2)[2] for name in aside} == {
        "checkpoint", "evaluation", "scores", "query", "cycle-001.parquet", "metrics.jsonl",
    }  # fmt: skip


def test_a_budget_is_kept_and_ends_the_run(toy_data, tmp_path):
    summary = small_run(toy_data.root, tmp_path, "budget=0.25", "cycles=3", "query.per_image=1", "train.last_epochs=4")
    fractions = [row["labelled_fraction"] for row in summary["cycles"]]
    assert fractions[-1] <= 0.25
    assert len(summary["cycles"]) == 2
    assert not (tmp_path / "cycle-001" / "scores").exists()  # nothing is scored for a query that nobody can pay
    epochs = [json.loads((tmp_path / f"cycle-00{c}/checkpoint/meta.json").read_text())["history"] for c in (0, 1)]
    assert [len(history) for history in epochs] == [3, 4]  # the cycle that spends the last pixel is the longer last one
    cell = 16 * 16 / (toy_data.num_images("train") * 48 * 64)
    assert fractions[-1] > 0.25 - cell


def test_a_budget_that_pays_no_cell_that_may_be_asked_about_is_spent(toy_data, tmp_path):
    """The last row is 3 pixels high, the last column 4 wide: cheaper, but on the border, which no query asks about."""
    changes = ("query.region_size=15", "query.exclude_border=true", "budget=0.22", "query.per_image=1")
    summary = small_run(toy_data.root, tmp_path, *changes, "cycles=3", "train.epochs=2", "train.last_epochs=4")
    left = int(0.22 * toy_data.num_images("train") * 48 * 64) - summary["cycles"][-1]["labelled_pixels"]
    assert 3 * 4 <= left < 15 * 15
    epochs = [json.loads((tmp_path / f"cycle-00{c}/checkpoint/meta.json").read_text())["history"] for c in (0, 1)]
    assert [len(history) for history in epochs] == [2, 4]
    assert len(summary["cycles"]) == 2
    assert not (tmp_path / "cycle-001" / "scores").exists()


def test_reaching_the_target_share_of_the_reference_ends_the_run(toy_data, tmp_path):
    """A target of one part in a thousand of the fully supervised mIoU is met by the teacher."""
    summary = small_run(toy_data.root, tmp_path, "reference=true", "stop_at=0.001", "train.epochs=1", "cycles=3")
    assert len(summary["cycles"]) == 1
    assert summary["supervised_miou"] > 0
    reference = json.loads((tmp_path / "reference" / "summary.json").read_text())
    assert reference["cycles"][0]["labelled_fraction"] == 1.0


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_state(toy_data, tmp_path):
    with pytest.raises(FloatingPointError, match=r"epoch \d, step \d: the loss is not finite"):
        small_run(toy_data.root, tmp_path, "train.lr=1e30")
    assert not (tmp_path / "cycle-000" / "checkpoint").exists()
    assert (tmp_path / "ledger" / "cycle-000.parquet").exists()


def test_weights_that_are_not_finite_are_never_published(toy_data, tmp_path):
    """One step: its loss is of the weights before it."""
    with pytest.raises(FloatingPointError, match=r"after the last step: weight \S+ is not finite"):
        small_run(toy_data.root, tmp_path, "train.lr=1e30", "train.epochs=1", "train.steps_per_epoch=1")
    assert not (tmp_path / "cycle-000" / "checkpoint").exists()


def test_a_pool_that_is_bought_empty_leaves_too_few_images_for_a_step(toy_data, tmp_path):
    everything = ("cycles=1", "query.unit=image", "query.per_image=0", "query.images=24", "teacher.batch_size=2")
    with pytest.raises(UserError, match=r"^train\.batch_size=1: no pool is left, and a worker needs at least 2 images"):
        small_run(toy_data.root, tmp_path, *everything, "train.batch_size=1")


def test_a_clock_that_jumps_back_a_day_changes_nothing(undisturbed, toy_data, tmp_path, monkeypatch):
    """Stopped in mid-training; all that was written is from tomorrow then, what is older from the day after."""
    from training.fit.heartbeat import Heartbeat

    steps = []

    def stopped(self, progress, loss):
        steps.append(progress.step)
        if steps == [1, 2, 3, 4, 5]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Heartbeat, "step", stopped)
    with pytest.raises(KeyboardInterrupt):
        small_run(toy_data.root, tmp_path)
    now = time.time()
    states = sorted(tmp_path.glob("cycle-000/training/states/step-*"))
    assert len(states) == 2
    for path in tmp_path.rglob("*"):
        later = 86400 * (2 if states[0] in (path, *path.parents) else 1)
        os.utime(path, (now + later, now + later))
    monkeypatch.setattr(time, "time", lambda: now - 86400)
    small_run(toy_data.root, tmp_path)
    assert steps[5] == 5, "not continued from the newest state by number"
    assert_same(tmp_path, undisturbed)
