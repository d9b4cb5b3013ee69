import dataclasses
import shutil
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import torch

from orchestrator.folder.layout import RunLayout
from querying.base.errors import UserError
from querying.base.files import read_json, sha256, write_json
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import PSEUDO_LABELS, QUERY
from querying.dataset.shards import encode_label, image_ids, read_truth
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from tests.small import small_run
from training.batches.augment_gpu import with_looks
from training.batches.targets import compose_target
from training.batches.training_data import TrainingData, prefetched
from training.settings.training import AugmentSettings

PLAIN = AugmentSettings(scale_min=1, scale_max=1, flip=0, blur=0, colour=0, cutout=0)
GRID = RegionGrid(48, 64, 16)


def query(*cells):
    return pa.Table.from_pylist([{"image_id": i, "region": r, "score": None} for i, r in cells], schema=QUERY)


@pytest.fixture
def parts(toy_data, tmp_path):
    """Two images bought whole; the third has one bought cell over a pseudo-label of class 4 everywhere."""
    oracle, ledger = SimulatedOracle(toy_data, GRID), Ledger(tmp_path / "ledger")
    ids = oracle.answerable()
    ledger.append(0, oracle.annotate(0, query(*[(i, r) for i in ids[:2] for r in range(GRID.num_regions)])))
    ledger.append(1, oracle.annotate(1, query((ids[2], 5))))
    scores = tmp_path / "scores"
    scores.mkdir()
    pseudo = np.full((48, 64), 4, np.uint8)
    rows = [{"image_id": i, "label": encode_label(pseudo), "coverage": 1.0} for i in ids[2:]]
    with pa.ipc.new_file(scores / "pseudo-00000.arrow", PSEUDO_LABELS) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=PSEUDO_LABELS))
    write_json(scores / "shard-00000.json", {"pseudo-00000.arrow": sha256(scores / "pseudo-00000.arrow")})
    return ledger, scores, ids


def data(toy_data, parts, augment=PLAIN, seed=0, cycle=1):
    ledger, scores, _ = parts
    return TrainingData(toy_data, ledger, cycle, GRID, [scores], augment=augment, crop=(48, 64), seed=seed)


def test_bought_over_pseudo_over_ignore(toy_data, parts):
    truth = truth_of(toy_data)
    ids = parts[2]
    found = data(toy_data, parts)
    batches = [found.batch(step, 0, 1, labelled=2, unlabelled=2) for step in range(11)]
    for batch in batches:
        labelled = {tuple(t.flatten().tolist()) for t in batch.target}
        assert labelled == {tuple(truth[i].flatten().tolist()) for i in ids[:2]}
    pool = torch.cat([batch.target_u for batch in batches])  # 22 images: one pass over the pool
    expected = np.full((48, 64), 4, np.uint8)
    expected[GRID.box(5)] = truth[ids[2]][GRID.box(5)]
    with_cell = [t for t in pool if not (t == 4).all()]
    assert len(with_cell) == 1
    assert torch.equal(with_cell[0], torch.from_numpy(expected))


def truth_of(toy_data):
    return {i: m for s in toy_data.shards("train") for i, m in read_truth(toy_data.root, s)}


def test_an_image_is_labelled_when_its_last_cell_is_bought(toy_data, parts):
    ledger, scores, ids = parts
    oracle = SimulatedOracle(toy_data, GRID)
    ledger.append(2, oracle.annotate(2, query(*[(ids[2], r) for r in range(GRID.num_regions) if r != 5])))
    before, after = (
        TrainingData(toy_data, ledger, cycle, GRID, [scores], augment=PLAIN, crop=(48, 64), seed=0) for cycle in (1, 2)
    )
    assert (before.labelled, ids[2] in before.pool) == (ids[:2], True)
    assert (after.labelled, ids[2] in after.pool) == (ids[:3], False)
    assert len(after.pool) == len(ids) - 3
    targets = [after.batch(step, 0, 1, labelled=1, unlabelled=0).target[0].numpy() for step in range(3)]
    assert sum(np.array_equal(t, truth_of(toy_data)[ids[2]]) for t in targets) == 1


def test_a_method_without_cells_in_its_pool_learns_them_with_the_labelled_images(toy_data, parts):
    ledger, scores, ids = parts
    found = TrainingData(
        toy_data, ledger, 1, GRID, [scores], augment=PLAIN, crop=(48, 64), seed=0, views=0, cells_in_pool=False
    )
    assert found.labelled == ids[:3]
    assert found.pool == ids[2:]
    truth = truth_of(toy_data)
    only_cell = np.full((48, 64), IGNORE, np.uint8)
    only_cell[GRID.box(5)] = truth[ids[2]][GRID.box(5)]
    # One of twelve cells: an image that is known whole is drawn 16 times, this one ceil(16 / 12) times.
    targets = [found.batch(step, 0, 1, labelled=1, unlabelled=1).target[0].numpy() for step in range(34)]
    expected = {truth[ids[0]].tobytes(): 16, truth[ids[1]].tobytes(): 16, only_cell.tobytes(): 2}
    assert Counter(t.tobytes() for t in targets) == expected


def test_views_carry_bought_cells_and_see_bought_void(toy_data, parts):
    ledger, _, ids = parts
    data = TrainingData(toy_data, ledger, 1, GRID, (), augment=PLAIN, crop=(64, 64), seed=0, views=1)
    cells = data.bought[ids[2]]
    void = np.full((16, 16), IGNORE, np.uint8)
    data.bought[ids[2]] = [*cells, (6, encode_label(void))]
    batches = [data.batch(step, 0, 1, labelled=1, unlabelled=1) for step in range(len(data.pool))]
    with_cell = [batch for batch in batches if (batch.target_u != IGNORE).any()]
    assert len(with_cell) == 1
    expected = np.full((64, 64), IGNORE, np.uint8)
    expected[GRID.box(5)] = truth_of(toy_data)[ids[2]][GRID.box(5)]
    assert np.array_equal(with_cell[0].target_u[0].numpy(), expected)
    seen = np.zeros((64, 64), bool)
    seen[:48] = True  # the rest is padding
    assert all(np.array_equal(view[0].numpy(), seen) for batch in batches for view in batch.seen_u)


def test_a_target_without_labels_is_ignored_and_inputs_stay_untouched():
    pseudo = np.full((48, 64), 3, np.uint8)
    target = compose_target(GRID, [(0, encode_label(np.full((16, 16), 1, np.uint8)))], pseudo)
    assert ((target == 1).sum(), (target == 3).sum(), (pseudo == 3).all()) == (256, 48 * 64 - 256, True)
    assert (compose_target(GRID, [], None) == IGNORE).all()


def test_a_batch_is_a_function_of_seed_cycle_and_step(toy_data, parts):
    strong = AugmentSettings(cutout_size=10)
    first = data(toy_data, parts, strong).batch(5, 0, 1, labelled=2, unlabelled=4)
    again = data(toy_data, parts, strong).batch(5, 0, 1, labelled=2, unlabelled=4)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (data(toy_data, parts, strong, seed=1), data(toy_data, parts, strong, cycle=0)):
        assert not torch.equal(first.image, other.batch(5, 0, 1, labelled=2, unlabelled=4).image)


def test_the_ranks_together_see_the_global_batch(toy_data, parts):
    found = data(toy_data, parts)
    whole = found.batch(3, 0, 1, labelled=2, unlabelled=4)
    shares = [found.batch(3, rank, 2, labelled=2, unlabelled=4) for rank in range(2)]
    assert torch.equal(torch.stack([s.image_u for s in shares], 1).flatten(0, 1), whole.image_u)
    assert torch.equal(torch.cat([s.target for s in shares]), whole.target)


def test_every_pool_image_is_seen_once_per_pass(toy_data, parts):
    found = data(toy_data, parts)
    draws = [found._draw(found.pool, 1, position) for position in range(3 * len(found.pool))]
    for start in range(0, len(draws), len(found.pool)):
        assert sorted(draws[start : start + len(found.pool)]) == sorted(found.pool)
    assert draws[: len(found.pool)] != draws[len(found.pool) : 2 * len(found.pool)]


@pytest.mark.parametrize("threads", [1, 3])
def test_prefetching_keeps_the_order(toy_data, parts, threads):
    found = data(toy_data, parts)
    batches = list(prefetched(found, range(4, 9), 0, 1, labelled=2, unlabelled=2, threads=threads))
    direct = [found.batch(step, 0, 1, labelled=2, unlabelled=2) for step in range(4, 9)]
    assert all(torch.equal(a.image_u, b.image_u) for a, b in zip(batches, direct, strict=True))
    assert len(batches) == 5


def test_the_pools_truth_is_not_needed(toy_data, parts, tmp_path):
    for folder in ("images", "ids"):
        shutil.copytree(toy_data.root / folder, tmp_path / "blind" / folder)
    blind = dataclasses.replace(toy_data, root=tmp_path / "blind")
    found, expected = (data(index, parts).batch(0, 0, 1, labelled=2, unlabelled=4) for index in (blind, toy_data))
    assert torch.equal(found.target_u, expected.target_u)


def views(toy_data, parts, count, augment, cycle=0):
    ledger = parts[0]
    options = {"augment": augment, "crop": (96, 80), "seed": 0, "views": count}
    return TrainingData(toy_data, ledger, cycle, GRID, [], **options)


def test_views_show_the_same_place_and_say_what_is_seen(toy_data, parts):
    """Crops of 96x80 from images of 48x64 at most 1.5 times as large: padding is always there."""
    augment = AugmentSettings(scale_min=0.8, scale_max=1.5, blur=0, colour=0, cutout=1, cutout_size=20)
    found = views(toy_data, parts, 2, augment).batch(3, 0, 1, labelled=2, unlabelled=4)
    assert found.strong_u.shape == (2, 4, 3, 96, 80)
    assert found.seen_u.shape == (3, 4, 96, 80)
    assert (found.target_u == IGNORE).all()
    weak_seen, *strong_seen = found.seen_u
    for image, seen in zip(found.strong_u, strong_seen, strict=True):
        hole = weak_seen & ~seen
        assert 0 < hole.sum() <= 4 * 400
        assert not (seen & ~weak_seen).any()
        assert not image.permute(0, 2, 3, 1)[~seen].any()  # black where nothing is seen
        same = (image == found.image_u).all(1)
        assert same[seen].all()  # without colours and blur, all else is the weak view
    assert not torch.equal(*strong_seen)  # each view has its own hole
    assert (~weak_seen).any()


def test_views_are_drawn_from_all_images_that_are_not_labelled_and_are_a_function_of_the_step(toy_data, parts):
    first, again = (views(toy_data, parts, 1, AugmentSettings()) for _ in range(2))
    assert sorted(first.pool) == sorted(set(toy_data_ids(toy_data)) - set(parts[2][:2]))
    one, two = (data.batch(7, 0, 1, labelled=2, unlabelled=4) for data in (first, again))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    shares = [first.batch(7, rank, 2, labelled=2, unlabelled=4) for rank in range(2)]
    assert torch.equal(torch.stack([s.strong_u for s in shares], 2).flatten(1, 2), one.strong_u)


def toy_data_ids(toy_data):
    return [image_id for shard in toy_data.shards("train") for image_id in image_ids(toy_data.root, shard)]


def test_a_pool_that_is_empty_is_said_to_be(toy_data, parts, tmp_path):
    oracle, ledger = SimulatedOracle(toy_data, GRID), Ledger(tmp_path / "all")
    everything = [(i, r) for i in oracle.answerable() for r in range(GRID.num_regions)]
    ledger.append(0, oracle.annotate(0, query(*everything)))
    with pytest.raises(UserError, match="every train image is labelled"):
        views(toy_data, (ledger,), 1, PLAIN)


def test_a_method_that_makes_its_own_pseudo_labels_can_query(toy_data, tmp_path):
    small_run(toy_data.root, tmp_path, "cycles=1", "train.method=mean_teacher", "train.epochs=1")
    ledger = Ledger(tmp_path / "ledger")
    bought = ledger.images(1)
    assert bought
    found = TrainingData(
        toy_data, ledger, 1, RegionGrid(48, 64, 16), (), augment=PLAIN, crop=(48, 64), seed=0, cells_in_pool=False
    )
    assert set(found.labelled) == {*ledger.images(0), *bought}
    assert read_json(RunLayout(tmp_path).checkpoint(1) / "meta.json")["labelled_images"] == len(found.labelled)


def test_supervised_training_learns_bought_cells_beside_the_labelled_images_and_no_pseudo_labels(toy_data, tmp_path):
    small_run(toy_data.root, tmp_path, "cycles=1", "train.method=supervised", "train.epochs=1", "budget=0.22")
    ledger = Ledger(tmp_path / "ledger")
    meta = read_json(RunLayout(tmp_path).checkpoint(1) / "meta.json")
    assert meta["labelled_images"] == len(ledger.images(0))
    assert 0 < meta["pool_images"] == len(set(ledger.images(1))) < len(toy_data_ids(toy_data)) - len(ledger.images(0))


def test_an_image_with_cells_and_no_pseudo_label_is_augmented_like_a_labelled_one(toy_data, parts):
    ledger, _, ids = parts
    hard = AugmentSettings(scale_min=1, scale_max=1, flip=0, blur=1, cutout=1, cutout_size=20)
    found = TrainingData(toy_data, ledger, 1, GRID, (), augment=hard, crop=(48, 64), seed=0)
    assert found.pool == [ids[2]]
    one = found.batch(0, 0, 1, labelled=1, unlabelled=1)
    assert np.array_equal(one.image_u[0].permute(1, 2, 0).numpy(), found.store.image(ids[2]))
    expected = np.full((48, 64), IGNORE, np.uint8)
    expected[GRID.box(5)] = truth_of(toy_data)[ids[2]][GRID.box(5)]
    assert np.array_equal(one.target_u[0].numpy(), expected)
    apart = TrainingData(toy_data, ledger, 1, GRID, (), augment=hard, crop=(48, 64), seed=0, looks_apart=True)
    made = with_looks(apart.batch(0, 0, 1, labelled=1, unlabelled=1))  # where a GPU augments
    assert torch.equal(made.image_u, one.image_u)
