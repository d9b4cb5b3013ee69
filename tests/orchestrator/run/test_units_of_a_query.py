"""Whatever is bought, however it is chosen: the real stages, ledger and oracle, with a network that is a formula."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

import orchestrator.run.stages
import querying.base.files
from benchmarks.datasets.ingest import ingest
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout
from orchestrator.process.progress import SilentProgress
from orchestrator.run.context import RunContext
from orchestrator.run.stages import Stages, whole_images
from querying.base.arrow_file import scored_file
from querying.dataset.label_values import IGNORE
from querying.dataset.shards import decode_label, read_truth, size_of
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from querying.scoring.extra_files import SCHEMAS
from querying.scoring.score_files import read_scores
from tests.mixed import mixed_data
from tests.small import small_config, small_run
from training.batches.training_data import TrainingData
from training.settings.training import AugmentSettings

HEIGHT, WIDTH, TRAIN = 24, 32, 9
SIZES = ((24, 32), (32, 24), (17, 26))
"""Of the data set of several sizes; no region size below divides all sides."""
ASKING = {
    "cells": ["query.select=per_image"],
    "global": ["query.select=global"],
    "class_balanced": ["query.select=class_balanced"],
    "diverse": ["query.select=diverse", "query.candidates=2"],
    "images": ["query.unit=image", "query.images=2"],
    "random images": ["query.unit=image", "query.images=2", "query.acquisition=random"],
    "coreset": ["query.unit=image", "query.images=2", "query.acquisition=coreset"],
    "pixels": ["query.unit=pixel", "query.region_size=1", "query.per_image=7"],
}


class Formula:
    """Logits from smoothed colours, in one order of the classes or another; features from the image's colours."""

    order = (0, 1, 2, 3)

    def __init__(self, *args, **kwargs):
        self.number = int(args[0].parent.name.rsplit("-")[-1])  # another network every cycle

    def __call__(self, images_BCHW, scale=1.0):
        factors = torch.tensor([1.0, 0.9, 1.1]).view(3, 1, 1)  # on a grey pixel, too, no two classes are alike
        x = images_BCHW.float() * factors / 64 + torch.linspace(0, 1 + self.number, images_BCHW.shape[3])
        z = torch.cat([x, (x[:, :1] * x[:, 1:2]).sin()], dim=1)[:, list(self.order)]
        return z[:, :, ::2, ::2]

    def with_features(self, images_BCHW, scale=1.0):
        means = [one.float().mean(dim=(1, 2)) for one in images_BCHW]
        return self(images_BCHW, scale), torch.stack(means)


@pytest.fixture(autouse=True)
def formula(monkeypatch):
    monkeypatch.setattr(orchestrator.run.stages, "Predictor", Formula)
    monkeypatch.setattr(querying.base.files, "sync", lambda path: None)  # most of the time would be spent on the disk


def made(root, sizes, shard_size):
    if sizes == "one size":
        size = HEIGHT, WIDTH
        return ingest("toy", None, root / "data", size=size, shard_size=shard_size, counts=(TRAIN, 1, 1), num_classes=6)
    return mixed_data(root, SIZES, counts=(3, 1, 1), shard_size=shard_size)


@pytest.fixture(scope="module")
def one_size(tmp_path_factory):
    return made(tmp_path_factory.mktemp("units"), "one size", 5)


@pytest.fixture(scope="module")
def three_sizes(tmp_path_factory):
    return made(tmp_path_factory.mktemp("units"), "three sizes", 2)


data = one_size


@pytest.fixture(params=["one size", "three sizes"])
def any_data(request, one_size, three_sizes):
    return one_size if request.param == "one size" else three_sizes


def start(data, root, *words):
    """Stages of a run whose first image is bought whole."""
    config = small_config("query.region_size=5", "query.scales=[1]", *words)
    grid = RegionGrid(data.height, data.width, config.query.region_size)
    ledger, oracle = Ledger(root / "ledger"), SimulatedOracle(data, grid)
    first = oracle.answerable()[4:5]
    ledger.append(0, oracle.annotate(0, whole_images(first, grid, size_of(data, "train"))))
    context = RunContext(
        config=config, index=data, layout=RunLayout(root), backend=LocalBackend(), progress=SilentProgress()
    )
    return Stages(context), oracle


def ask(stages, cycle):
    """What a cycle asks, without buying it."""
    stages.score(cycle, stages.layout.scores(cycle))
    return stages.select(cycle)


def pixels_bought(stages, cycle):
    """Image -> how often each pixel was bought, and the label that was paid for."""
    times, labels = {}, {}
    size = size_of(stages.index, "train")
    table = stages.ledger.read(cycle)
    for image_id, region, png in zip(
        *(table[name].to_pylist() for name in ("image_id", "region", "label")), strict=True
    ):
        box = stages.grid.on(size(image_id)).box(region)
        times.setdefault(image_id, np.zeros(size(image_id), int))[box] += 1
        labels.setdefault(image_id, np.full(size(image_id), IGNORE, np.uint8))[box] = decode_label(png)
        assert decode_label(png).size, "a cell without a pixel"
    return times, labels


@pytest.mark.parametrize("how", ASKING)
@given(st.floats(0.14, 1.0), st.sampled_from([1, 3, 40]), st.booleans(), st.sampled_from([4, 7, 12]), st.integers(0, 9))
@settings(deadline=None, max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_pixel_is_bought_twice_and_the_budget_is_kept(how, any_data, budget, many, exclude_border, size, seed):
    data = any_data
    words = [f"budget={budget}", f"seed={seed}", f"query.exclude_border={str(exclude_border).lower()}"]
    words += ASKING[how]
    if "pixel" not in how:
        words.append(f"query.region_size={size}")
    words.append(f"query.images={min(many, 5)}" if "query.unit=image" in ASKING[how] else f"query.per_image={many}")
    truth = {i: m for shard in data.shards("train") for i, m in read_truth(data.root, shard)}
    with tempfile.TemporaryDirectory() as folder:
        stages, oracle = start(data, Path(folder), *words)
        total = sum(mask_HW.size for mask_HW in truth.values())
        assert data.num_pixels("train") == total
        times = {image_id: np.zeros(mask_HW.shape, int) for image_id, mask_HW in truth.items()}
        for cycle in range(4):
            for image_id, count_HW in pixels_bought(stages, cycle)[0].items():
                times[image_id] += count_HW
            spent = stages.ledger.spent(cycle).pixels
            assert spent == sum(count.sum() for count in times.values())
            assert max(count.max() for count in times.values()) == 1, "a pixel was bought twice"
            assert spent <= total * budget + 1e-6
            whole = {image_id for image_id, count in times.items() if count.min() == 1}
            cells = {image_id: stages.grid.on(mask_HW.shape).num_cells for image_id, mask_HW in truth.items()}
            assert set(stages.ledger.whole(cycle, cells.__getitem__)) == whole
            query = ask(stages, cycle)
            scored = [i for path in stages.layout.scores(cycle).glob("regions-*") for i in
                      read_scores(path, stages.grid.num_regions)[0]]  # fmt: skip
            assert sorted(scored) == sorted(times.keys() - whole)
            if stages.spent_up(cycle):
                assert not query.num_rows
                break
            stages.ledger.append(cycle + 1, oracle.annotate(cycle + 1, query))
            _, labels = pixels_bought(stages, cycle + 1)
            for image_id, label_HW in labels.items():
                known = pixels_bought(stages, cycle + 1)[0][image_id] == 1
                assert np.array_equal(label_HW[known], truth[image_id][known])


@pytest.mark.parametrize("how", ASKING)
def test_neither_shards_nor_batches_nor_the_order_of_classes_matter(how, any_data, tmp_path, monkeypatch):
    data = any_data

    def asked(name, *words, source=data):
        stages, oracle = start(source, tmp_path / name, *ASKING[how], *words)
        stages.ledger.append(1, oracle.annotate(1, ask(stages, 0)))
        return ask(stages, 1)

    query = asked("first")
    assert query.num_rows
    assert asked("again").equals(query)
    assert asked("batches", "query.batch_size=1").equals(query)
    other = made(tmp_path, "three sizes" if data.several_sizes else "one size", 3)
    assert asked("shards", source=other).equals(query)
    monkeypatch.setattr(Formula, "order", (2, 0, 3, 1))
    renamed = asked("classes")
    assert renamed.select(["image_id", "region"]).equals(query.select(["image_id", "region"]))
    assert renamed["score"].to_numpy() == pytest.approx(query["score"].to_numpy(), rel=1e-4)


def test_an_image_is_scored_with_its_border(data, tmp_path):
    stages, _ = start(data, tmp_path, *ASKING["images"], "query.exclude_border=true")
    query = ask(stages, 0)
    assert query.num_rows == 2 * stages.grid.num_regions
    means = {}
    for path in sorted(stages.layout.scores(0).glob("regions-*.arrow")):
        for image_id, score_R in zip(*read_scores(path, stages.grid.num_regions), strict=True):
            heat_HW = np.zeros((HEIGHT, WIDTH))
            for region, score in enumerate(score_R):
                heat_HW[stages.grid.box(region)] = score
            means[image_id] = heat_HW.mean()
    best = sorted(means, key=means.get)[-2:]
    assert set(query["image_id"].to_pylist()) == set(best)
    for image_id, score in zip(query["image_id"].to_pylist(), query["score"].to_pylist(), strict=True):
        assert score == pytest.approx(means[image_id], rel=1e-5)


def test_the_core_set_is_that_of_the_images_colours_with_the_bought_ones_as_centres(data, tmp_path):
    from querying.dataset.shards import read_images
    from tests.querying.selection.test_core_set import brute_force

    stages, oracle = start(data, tmp_path, *ASKING["coreset"])
    colours = {i: x.mean(axis=(0, 1)) for shard in data.shards("train") for i, x in read_images(data.root, shard)}
    whole = oracle.answerable()[4:5]
    for cycle in range(2):
        query = ask(stages, cycle)
        pool = [i for i in oracle.answerable() if i not in whole]
        picks, far = brute_force([colours[i] for i in pool], 2, [colours[i] for i in whole])
        wanted = {pool[pick]: distance for pick, distance in zip(picks, far, strict=True)}
        found = dict(zip(query["image_id"].to_pylist(), query["score"].to_pylist(), strict=True))
        assert found == pytest.approx(wanted, rel=1e-4)
        whole = whole + [pool[pick] for pick in picks]
        stages.ledger.append(cycle + 1, oracle.annotate(cycle + 1, query))


def test_files_beside_the_scores_are_there_only_where_they_are_asked_for(data, tmp_path):
    for how, kind in {
        "global": None,
        "class_balanced": "classes",
        "diverse": "mixtures",
        "coreset": "features",
    }.items():
        stages, _ = start(data, tmp_path / how, *ASKING[how])
        stages.score(0, stages.layout.scores(0))
        names = {path.name.partition("-")[0] for path in stages.layout.scores(0).iterdir()}
        assert names == {"machine", "regions", "pseudo", "pool_counts.json", "shard", *([kind] if kind else [])}
    scores = RunLayout(tmp_path / "class_balanced").scores(0)
    table = scored_file(scores / "classes-00000.arrow", SCHEMAS["classes"]).table()
    mixture = scored_file(
        RunLayout(tmp_path / "diverse").scores(0) / "mixtures-00000.arrow", SCHEMAS["mixtures"]
    ).table()
    assert len(table["value"][0].as_py()) == 5 * 7
    p_RC = np.array(mixture["value"][0].as_py()).reshape(35, 4)
    assert p_RC.sum(axis=1) == pytest.approx(np.ones(35), abs=1e-5)


@pytest.mark.parametrize("how", ["class_balanced", "coreset", "pixels"])
def test_a_whole_run_asks_so(how, toy_data, tmp_path, monkeypatch):
    monkeypatch.undo()
    small_run(toy_data.root, tmp_path, *ASKING[how], "train.epochs=1", "model.dropout=0")
    layout = RunLayout(tmp_path)
    query = pq.read_table(layout.query(0) / "query.parquet")
    assert query.num_rows
    ledger = Ledger(layout.ledger)
    assert ledger.spent(0).pixels == 5 * 48 * 64
    if how == "pixels":
        assert ledger.spent(1).pixels - ledger.spent(0).pixels == 7 * (24 - 5)
        assert ledger.spent(0).cells == 5
    if how == "coreset":
        assert ledger.spent(1).pixels == 7 * 48 * 64


def test_cells_of_another_grid_are_closed_where_they_share_a_pixel_of_the_image(three_sizes, tmp_path):
    """`s4al replay` on another grid: cells that meet only beyond the image's edge stay open."""
    stages, oracle = start(three_sizes, tmp_path, "query.region_size=5")
    stages.ledger.append(1, oracle.annotate(1, ask(stages, 0)))
    config, size = small_config("query.region_size=7", "query.scales=[1]"), size_of(three_sizes, "train")
    context = RunContext(
        config=config, index=three_sizes, layout=RunLayout(tmp_path), backend=LocalBackend(), progress=SilentProgress()
    )
    other = Stages(context, bought_on=stages.grid)
    seen = 0
    for task in other._score_tasks(1):
        for image_id, closed in task.bought.items():
            height, width = size(image_id)
            known = pixels_bought(stages, 1)[0][image_id] > 0
            wanted = {
                row // 7 * -(-32 // 7) + column // 7
                for row in range(height)
                for column in range(width)
                if known[row, column]
            }
            assert set(closed) == wanted
            seen += 1
    assert seen > 3


def test_an_image_whose_own_cells_are_all_bought_is_trained_on_whole(three_sizes, tmp_path):
    stages, oracle = start(three_sizes, tmp_path)
    small = next(i for i in oracle.answerable() if size_of(three_sizes, "train")(i) == (17, 26))
    query = whole_images([small], stages.grid, size_of(three_sizes, "train"))
    assert query.num_rows == 4 * 6 < stages.grid.num_regions
    stages.ledger.append(1, oracle.annotate(1, query))
    scored = tmp_path / "none"
    scored.mkdir()
    made = TrainingData(
        three_sizes, stages.ledger, 1, stages.grid, [scored], augment=AugmentSettings(), crop=(20, 20), seed=0
    )
    assert small in made.labelled
    assert small not in made.pool
    truth = {i: m for shard in three_sizes.shards("train") for i, m in read_truth(three_sizes.root, shard)}
    assert np.array_equal(decode_label(made.targets[small]), truth[small])
    assert made.batch(0, 0, 1, labelled=3, unlabelled=0).image.shape == (3, 3, 20, 20)
