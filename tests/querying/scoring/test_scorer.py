import math
import os
from functools import partial

import numpy as np
import pyarrow as pa
import pytest
import torch

from querying.base.errors import InfrastructureError
from querying.base.files import sha256, write_json
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import REGION_SCORES
from querying.dataset.shards import decode_label, image_ids
from querying.labels.regions import RegionGrid
from querying.scoring.multi_pass import dropout_seed
from querying.scoring.pool import ScoreTask
from querying.scoring.score_files import read_scores
from querying.scoring.scorer import ShardScorer
from querying.settings import QuerySettings

SETTINGS = QuerySettings(scales=(1.0,), exclude_border=False, batch_size=2, threads=1)


def channels_as_logits():
    """A stand-in network: the colour channels are the logits, at any scale."""

    def predict(images, scale):
        logits = images.float() / 10
        size = [round(side * scale) for side in logits.shape[2:]]
        return torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)

    return predict


def broken():
    return lambda images, scale: torch.full((len(images), 3, 4, 4), torch.nan)


def scorer(out, grid, load=channels_as_logits, *, seed=0, cycle=0, **changes):
    return ShardScorer(load, grid, out, SETTINGS.model_copy(update=changes), seed=seed, cycle=cycle)


def test_the_unsure_region_scores_highest_and_only_sure_pixels_get_pseudo_labels(tmp_path):
    image = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    image[0, 1] = 200  # sure of class 1 everywhere ...
    image[0, 1, :2, 2:] = 0  # ... except in region 1, where all three are equal
    regions, pseudo = scorer(tmp_path, RegionGrid(4, 4, 2)).score(["a"], image, {})
    assert regions["score"][0].as_py() == pytest.approx([0.0, math.log(3), 0.0, 0.0], abs=1e-5)
    label = decode_label(pseudo["label"][0].as_py())
    assert (label[:2, 2:] == IGNORE).all()
    assert (label == 1).sum() == 12
    assert pseudo["coverage"][0].as_py() == pytest.approx(12 / 16)


def test_bought_cells_and_the_border_ring_are_not_eligible(tmp_path):
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    grid = RegionGrid(8, 8, 2)
    regions, _ = scorer(tmp_path, grid, exclude_border=True).score(["a"], image, {"a": [6]})
    eligible = [r for r, score in enumerate(regions["score"][0].as_py()) if score is not None]
    assert eligible == [5, 9, 10]


def test_logits_are_averaged_over_the_scales_before_the_softmax(tmp_path):
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 60, (1, 3, 4, 4), dtype=np.uint8))
    scales = (1.0, 2.0)
    maps = [
        torch.nn.functional.interpolate(channels_as_logits()(image, s), (4, 4), mode="bilinear", align_corners=False)
        for s in scales
    ]
    z = ((maps[0] + maps[1]) / 2).double().numpy()[0]
    p = np.exp(z) / np.exp(z).sum(axis=0)
    expected = -(p * np.log(p)).sum(axis=0)
    regions, _ = scorer(tmp_path, RegionGrid(4, 4, 4), scales=scales).score(["a"], image, {})
    assert regions["score"][0].as_py() == pytest.approx([expected.mean()], abs=1e-5)


@pytest.mark.parametrize("acquisition", ["entropy", "random", "margin", "flip", "equal"])
def test_a_broken_network_stops_the_query_and_names_the_image(tmp_path, acquisition):
    with pytest.raises(FloatingPointError, match="image a"):
        scorer(tmp_path, RegionGrid(4, 4, 2), broken, acquisition=acquisition).score(
            ["a"], torch.zeros(1, 3, 4, 4, dtype=torch.uint8), {}
        )


def task(index, number, whole=frozenset()):
    return ScoreTask(number, index.root, index.shards("train")[number], whole, {})


def test_a_shard_becomes_two_files_and_a_note_without_the_labelled_images(toy_data, tmp_path):
    ids = image_ids(toy_data.root, toy_data.shards("train")[1])
    grid = RegionGrid(48, 64, 16)
    summary = scorer(tmp_path, grid).score_shard(task(toy_data, 1, frozenset(ids[:2])))
    assert summary.images == 3
    found, scores = read_scores(tmp_path / "regions-00001.arrow", grid.num_regions)
    assert found == ids[2:]
    assert np.isfinite(scores).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "pseudo-00001.arrow",
        "regions-00001.arrow",
        "shard-00001.json",
    ]


def test_scores_do_not_depend_on_the_batch_size_and_finished_shards_are_kept(toy_data, tmp_path):
    grid = RegionGrid(48, 64, 16)
    contents = []
    for size in (1, 4):
        out = tmp_path / str(size)
        scorer(out, grid, batch_size=size).score_shard(task(toy_data, 0))
        contents.append(pa.ipc.open_file(out / "regions-00000.arrow").read_all())
    assert contents[0].equals(contents[1])
    assert scorer(out, grid, broken).score_shard(task(toy_data, 0)).images == 0  # nothing left to do


def test_a_nan_in_a_score_file_is_an_error_that_names_the_image(tmp_path):
    table = pa.table({"image_id": ["a", "b"], "score": [[0.1, None], [0.2, math.nan]]}, schema=REGION_SCORES)
    path = tmp_path / "regions-00000.arrow"
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    write_json(tmp_path / "shard-00000.json", {path.name: sha256(path)})
    with pytest.raises(ValueError, match="image b: the score is NaN"):
        read_scores(path, 2)
    with pytest.raises(ValueError, match="4 scores for 2 images of 3 regions"):
        read_scores(path, 3)


@pytest.mark.parametrize("spoil", ["pseudo-00001.arrow", "regions-00001.arrow", "shard-00001.json"])
@pytest.mark.parametrize("how", ["flip", "remove"])
def test_a_shard_of_a_killed_attempt_is_kept_only_if_it_is_what_was_written(toy_data, tmp_path, spoil, how):
    grid = RegionGrid(48, 64, 16)
    scorer(tmp_path, grid).score_shard(task(toy_data, 1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert scorer(tmp_path, grid, load=broken).score_shard(task(toy_data, 1)).images == 0  # nothing is done again
    (tmp_path / spoil).unlink()
    if how == "flip":
        content = bytearray(before[spoil])
        content[len(content) // 2] ^= 4
        (tmp_path / spoil).write_bytes(content)
    assert scorer(tmp_path, grid).score_shard(task(toy_data, 1)).images == 5
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


class Doubler:
    def double(self, x):
        return 2 * x


class Failing:
    def double(self, x):
        raise FloatingPointError("image x: boom")


class Suicidal:
    """Dies at its first item, once; the item is then done by another actor."""

    def __init__(self, flag):
        self.flag = flag

    def double(self, x):
        import os

        if not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), 9)
        return 2 * x


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_the_pool_returns_every_item_once_even_when_an_actor_dies(local_ray, tmp_path):
    from querying.scoring.ray_map import map_unordered

    assert sorted(map_unordered(Doubler, "double", range(7), actors=2)) == [0, 2, 4, 6, 8, 10, 12]
    make = partial(Suicidal, tmp_path / "died")
    assert sorted(map_unordered(make, "double", range(5), actors=2)) == [0, 2, 4, 6, 8]
    with pytest.raises(FloatingPointError, match="image x: boom"):
        list(map_unordered(Failing, "double", range(3), actors=2))


class Named(Suicidal):
    def double(self, x):
        import os

        return super().double(x), os.getpid()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_lost_actor_is_not_replaced_where_the_cluster_has_no_room_left(local_ray, tmp_path):
    """A node is gone: a new actor would wait for it for ever, and its item with it."""
    from querying.scoring.ray_map import map_unordered

    found = list(map_unordered(partial(Named, tmp_path / "1"), "double", range(5), actors=2, slots=lambda: 1))
    assert sorted(doubled for doubled, _ in found) == [0, 2, 4, 6, 8]
    assert len({pid for _, pid in found}) == 1
    make = partial(Suicidal, tmp_path / "more busy than the room that is left")
    found = list(map_unordered(make, "double", range(9), actors=4, num_cpus=0.25, slots=lambda: 2))
    assert sorted(found) == list(range(0, 18, 2))
    with pytest.raises(InfrastructureError, match="no node of the cluster has room for a scorer"):
        list(map_unordered(partial(Named, tmp_path / "0"), "double", range(5), actors=2, slots=lambda: 0))


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_one_actor_two_actors_and_this_process_write_the_same_bytes(local_ray, toy_data, tmp_path):
    from querying.scoring.ray_map import map_unordered

    grid = RegionGrid(48, 64, 16)
    tasks = [task(toy_data, number) for number in range(len(toy_data.shards("train")))]
    here = scorer(tmp_path / "here", grid)
    for shard in tasks:
        here.score_shard(shard)
    for actors in (1, 2):
        make = partial(scorer, tmp_path / str(actors), grid)
        assert sum(s.images for s in map_unordered(make, "score_shard", tasks, actors=actors)) == 24
    expected = {path.name: path.read_bytes() for path in (tmp_path / "here").iterdir()}
    for actors in (1, 2):
        assert {p.name: p.read_bytes() for p in (tmp_path / str(actors)).iterdir()} == expected


class WithDropout:
    """A stand-in network: the colours as logits, and in a pass with dropout each pixel's either doubled or gone."""

    def __call__(self, images, scale):
        return images.float() / 10

    def dropout_passes(self, image, scales, passes, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(passes):
            kept = torch.randint(0, 2, (len(scales), *image.shape[2:]), generator=generator)
            yield [2 * self(image, scale) * kept_HW for scale, kept_HW in zip(scales, kept, strict=True)]


class Lopsided:
    """Sees nothing in the left half of an image."""

    def __call__(self, images, scale):
        logits = images.float() / 10
        logits[..., : images.shape[3] // 2] = 0
        return logits


def colours(count, size=(8, 8)):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 60, (count, 3, *size), dtype=np.uint8))


def softmax(z):
    p = np.exp(z - z.max(axis=0))
    return p / p.sum(axis=0)


def bits(p):
    return -(p * np.log(p)).sum(axis=0)


def test_bald_equals_a_float64_derivation_over_the_same_passes(tmp_path):
    image, grid = colours(1), RegionGrid(8, 8, 4)
    regions, _ = scorer(tmp_path, grid, WithDropout, acquisition="bald", passes=5, seed=3, cycle=2).score(
        ["a"], image, {}
    )
    passes = WithDropout().dropout_passes(image, (1.0,), 5, dropout_seed(3, 2, "a"))
    p = np.stack([softmax(z[0][0].double().numpy()) for z in passes])
    information = bits(p.mean(axis=0)) - np.mean([bits(one) for one in p], axis=0)
    expected = information.reshape(2, 4, 2, 4).mean(axis=(1, 3)).ravel()
    assert expected.min() > 0.01
    np.testing.assert_allclose(regions["score"][0].as_py(), expected, atol=1e-6)


def test_bald_depends_on_seed_cycle_and_image_not_on_its_batch(tmp_path):
    images, grid = colours(5), RegionGrid(8, 8, 4)
    ids = list("abcde")

    def scores(order, **changes):
        one = scorer(tmp_path, grid, WithDropout, acquisition="bald", passes=4, **changes)
        regions, _ = one.score([ids[i] for i in order], images[order], {})
        return dict(zip(regions["image_id"].to_pylist(), regions["score"].to_pylist(), strict=True))

    whole = scores([0, 1, 2, 3, 4])
    assert scores([4, 2, 0, 1, 3]) == whole
    assert {**scores([0, 1]), **scores([4]), **scores([3, 2])} == whole
    images[1] = images[0]  # another image, though it shows the same
    assert scores([1])["b"] != whole["a"]
    assert scores([0], cycle=1)["a"] != whole["a"]
    assert scores([0], seed=1)["a"] != whole["a"]


@pytest.mark.parametrize("acquisition", ["bald", "flip", "flip_entropy", "equal"])
def test_pseudo_labels_are_those_of_the_ordinary_pass(tmp_path, acquisition):
    _, plain = scorer(tmp_path, RegionGrid(8, 8, 4), WithDropout).score(["a", "b"], colours(2), {})
    _, found = scorer(tmp_path, RegionGrid(8, 8, 4), WithDropout, acquisition=acquisition).score(
        ["a", "b"], colours(2), {}
    )
    assert found.equals(plain)


def test_a_prediction_that_turns_with_the_image_is_consistent(tmp_path):
    regions, _ = scorer(tmp_path, RegionGrid(8, 8, 4), acquisition="flip").score(["a"], colours(1), {})
    assert regions["score"][0].as_py() == pytest.approx([0.0] * 4, abs=1e-6)


@pytest.mark.parametrize("acquisition", ["flip", "flip_entropy", "equal"])
def test_what_is_seen_in_the_mirror_alone_is_inconsistent(tmp_path, acquisition):
    """On the left the prediction is uniform, and the mirrored image's is the colours'; on the right the reverse."""
    image = colours(1)
    regions, _ = scorer(tmp_path, RegionGrid(8, 8, 4), Lopsided, acquisition=acquisition).score(["a"], image, {})
    p = softmax(image[0].double().numpy() / 10)
    mean = bits((p + 1 / 3) / 2)
    both = bits(p) + math.log(3)
    pixels = {"flip": mean - both / 2, "flip_entropy": mean, "equal": both}[acquisition]
    expected = pixels.reshape(2, 4, 2, 4).mean(axis=(1, 3)).ravel()
    assert expected.min() > 0.01
    np.testing.assert_allclose(regions["score"][0].as_py(), expected, atol=1e-6)


def test_a_shard_is_not_flushed_by_itself(toy_data, tmp_path, monkeypatch):
    """Six flushes of each of 9,375 small shards were most of the time that scoring them took."""
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    scorer(tmp_path, RegionGrid(48, 64, 16)).score_shard(task(toy_data, 1))
    assert flushed == []
