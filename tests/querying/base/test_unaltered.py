"""Shards that are written to while a process uses them."""

import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.commands.verify import verify_command
from orchestrator.folder.layout import RunLayout
from orchestrator.recipe.provenance import provenance
from orchestrator.run.loop import buy
from orchestrator.run.stages import whole_images
from orchestrator.run.start import settle
from querying.base.arrow_file import unaltered
from querying.base.errors import DamagedError
from querying.dataset.shards import DataIndex, ImageStore, read_images
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from querying.scoring.pool import ScoreTask
from tests.querying.scoring.test_scorer import scorer
from tests.small import small_config, small_run
from training.inference.evaluation import EvaluationTask, ShardEvaluator


@pytest.fixture
def data(toy_data, tmp_path):
    return DataIndex.load(Path(shutil.copytree(toy_data.root, tmp_path / "toy")))


def altered(path):
    """In place, in the middle of the pixels, with size and time of modification kept."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(before.st_size // 2)
        byte = file.read(1)
        file.seek(before.st_size // 2)
        file.write(bytes([byte[0] ^ 255]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def first(data):
    shard = data.shards("train")[0]
    return shard, data.root / shard.images


def test_a_shard_that_was_hashed_before_is_hashed_again_once_it_was_altered(data):
    shard, path = first(data)
    list(read_images(data.root, shard))
    altered(path)
    with pytest.raises(DamagedError, match=r"train-00000\.arrow: differs from what was written"):
        list(read_images(data.root, shard))


def test_one_that_is_mapped_and_altered_is_found_at_the_end_and_whenever_one_looks(data):
    _, path = first(data)
    watch = unaltered()
    check = watch.__enter__()
    store = ImageStore(data, "train")
    store.image(store.ids()[0])
    check()
    altered(path)
    with pytest.raises(DamagedError, match=r"train-00000\.arrow: was altered or removed while it was read"):
        check()
    with pytest.raises(DamagedError, match="was altered"):
        watch.__exit__(None, None, None)
    with unaltered():  # of nothing that was read before
        pass


def test_a_new_link_or_time_of_a_shard_is_no_alteration_and_a_removed_one_is(data):
    shard, path = first(data)
    with unaltered() as check:
        list(read_images(data.root, shard))
        os.link(path, path.with_suffix(".link"))
        os.utime(path)
        check()
        path.unlink()
        with pytest.raises(DamagedError, match="was altered or removed"):
            check()
        path.with_suffix(".link").rename(path)


def test_a_block_within_a_block_tells_both(data):
    shard, path = first(data)
    with unaltered() as outer:
        with unaltered():
            list(read_images(data.root, shard))
        intact = path.read_bytes()
        altered(path)
        with pytest.raises(DamagedError, match="was altered"):
            outer()
        path.write_bytes(intact)


class Alters:
    """A network in whose pass a shard is altered."""

    def __init__(self, path):
        self.path = path

    def __call__(self, images_BCHW, scale=1.0):
        if self.path:
            altered(self.path)
            self.path = None
        return torch.zeros(len(images_BCHW), 6, 12, 16)


def test_scores_of_a_shard_that_is_altered_meanwhile_are_not_declared_done(data, tmp_path):
    shard, path = first(data)
    one = scorer(tmp_path / "scores", RegionGrid(48, 64, 16))
    one.predict = Alters(path)
    with pytest.raises(DamagedError, match="was altered"):
        one.score_shard(ScoreTask(0, data.root, shard, frozenset(), {}))
    assert not list((tmp_path / "scores").glob("shard-*.json"))


def test_counts_of_a_shard_that_is_altered_meanwhile_are_none(data):
    shard, path = first(data)
    evaluator = ShardEvaluator(partial(Alters, path), 6, 2, 1)
    with pytest.raises(DamagedError, match="was altered"):
        evaluator.evaluate_shard(EvaluationTask(data.root, shard))


def test_labels_of_a_truth_that_is_altered_meanwhile_are_not_bought(data, tmp_path):
    oracle = SimulatedOracle(data, RegionGrid(48, 64, 16))
    shard, _ = first(data)

    def answers():
        yield from oracle.annotate(0, whole_images(oracle.answerable()[:3], oracle.grid))
        altered(data.root / shard.truth)

    ledger = Ledger(tmp_path / "ledger")
    with pytest.raises(DamagedError, match="was altered"):
        buy(ledger, 0, answers, print)
    assert not ledger.has(0)


def test_a_training_whose_shard_is_altered_leaves_no_state_and_no_checkpoint_from_it(data, tmp_path, monkeypatch):
    """After its second step; the next start stops at the altered shard, and goes on once it is put back."""
    from training.fit.heartbeat import Heartbeat

    _, path = first(data)
    intact, step, layout = path.read_bytes(), Heartbeat.step, RunLayout(tmp_path / "run")

    def meddling(self, progress, loss):
        if progress.step == 3:
            altered(path)
        return step(self, progress, loss)

    with monkeypatch.context() as patch:
        patch.setattr(Heartbeat, "step", meddling)
        with pytest.raises(DamagedError, match="was altered or removed while it was read"):
            small_run(data.root, layout.root, "cycles=0")
    assert [state.name for state in layout.work(0).glob("states/step-*")] == ["step-00000002"]
    assert not layout.checkpoint(0).exists()
    with pytest.raises(DamagedError, match="differs from what was written"):
        small_run(data.root, layout.root, "cycles=0")
    path.write_bytes(intact)
    assert small_run(data.root, layout.root, "cycles=0")["finished"]


def test_a_data_set_or_first_weights_that_are_replaced_under_a_run_end_its_training(data, tmp_path):
    from training.fit.loop import run_job
    from training.fit.worker import Worker

    caught = []

    class Replaced:
        device, address = "cpu AVX2", None

        def train(self, job):
            assert job.data_sha256 == data.digest
            index = job.data / "index.json"
            index.write_bytes(index.read_bytes().replace(b'"seal"', b' "seal"', 1))
            caught.append(job)
            run_job(job, Worker())

    with pytest.raises(DamagedError, match=r"index\.json: was replaced under the run"):
        small_run(data.root, tmp_path / "run", "cycles=0", backend=Replaced())
    assert len(caught) == 1


def test_looking_at_ten_thousand_files_takes_no_time(data):
    shard, _ = first(data)
    with unaltered() as check:
        list(read_images(data.root, shard))
        started = time.perf_counter()
        for _ in range(10_000):
            check()
        assert time.perf_counter() - started < 2


@pytest.fixture
def run(data, tmp_path):
    """As of a run that was stopped before its first label."""
    layout = RunLayout(tmp_path / "run")
    settle(layout, small_config(), provenance(data, layout.backbone))
    return layout


def test_verify_says_of_a_run_whether_its_data_are_still_those(run, data, tmp_path, capsys):
    verify_command(run.root)
    assert "intact" in capsys.readouterr().out
    _, path = first(data)
    intact = path.read_bytes()
    altered(path)
    with pytest.raises(
        DamagedError, match=r"train-00000\.arrow: differs from what was ingested; put the data set back"
    ):
        verify_command(run.root)
    path.unlink()
    with pytest.raises(DamagedError, match=r"train-00000\.arrow: does not exist"):
        verify_command(run.root)
    path.write_bytes(intact)
    data.root.rename(tmp_path / "moved")
    capsys.readouterr()
    verify_command(run.root)
    told = capsys.readouterr().out
    assert f"{data.root}: the data set is not there, so it was not checked" in told
    assert "intact" in told
    verify_command(run.root, tmp_path / "moved")
    assert "not checked" not in capsys.readouterr().out


def test_verify_says_that_another_data_set_is_where_that_of_the_run_was(run, data):
    from benchmarks.datasets.ingest import ingest

    shutil.rmtree(data.root)
    ingest("toy", None, data.root, size=(32, 32), shard_size=5, counts=(4, 2, 2), num_classes=6)
    with pytest.raises(DamagedError, match=r"index\.json: not the data set that the run was made with"):
        verify_command(run.root)
