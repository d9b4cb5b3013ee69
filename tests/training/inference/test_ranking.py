import numpy as np
import pytest
import torch

from querying.dataset.shards import image_ids, read_images
from querying.scoring.pool import ScoreTask
from training.inference.ranking import ShardRanker, reliability

CLASSES = 5


def by_hand(early, last):
    """Over the classes that are in either prediction, in float64."""
    values = []
    for one in early:
        pairs = [((one == c) & (last == c), (one == c) | (last == c)) for c in range(CLASSES)]
        values.append(np.mean([both.sum() / np.float64(either.sum()) for both, either in pairs if either.any()]))
    return np.mean(values)


def test_reliability_is_the_mean_agreement_of_the_early_networks_with_the_last():
    """Four pixels: IoU 1/2, 2/3 and 1 of one early network's classes; the other says the same as the last."""
    last, early = torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 1, 1, 2]])
    assert reliability([early, last], last, CLASSES) == pytest.approx(((1 / 2 + 1 / 2 + 1) / 3 + 1) / 2, abs=1e-15)
    rng = np.random.default_rng(0)
    for classes in (2, 3, 5):
        one, two, three = rng.integers(0, classes, (3, 6, 7))
        found = reliability([torch.from_numpy(one), torch.from_numpy(two)], torch.from_numpy(three), CLASSES)
        assert found == pytest.approx(by_hand([one, two], three), abs=1e-12)


def network(shift):
    """A stand-in: brightness in so many bands, at half the size; `shift` moves their borders."""

    def predict(images, scale):
        assert scale == 1.0
        grey = images.float().mean(1, keepdim=True)[:, :, ::2, ::2]
        centres = torch.arange(CLASSES).view(1, -1, 1, 1) * 50.0 + shift
        return -(grey - centres).abs()

    return predict


def test_a_shard_becomes_a_number_per_pool_image_whatever_the_batch_size(toy_data):
    shard = toy_data.shards("train")[1]
    ids = image_ids(toy_data.root, shard)
    task = ScoreTask(1, toy_data.root, shard, frozenset(ids[:1]), {})
    found, again = (
        ShardRanker([network(40), network(20)], network(0), CLASSES, size).rank_shard(task) for size in (1, 3)
    )
    assert found == again
    expected = []
    for image_id, image_HWC in read_images(toy_data.root, shard, ids[1:]):
        image = torch.from_numpy(image_HWC.copy()).permute(2, 0, 1)[None]
        maps = [
            torch.nn.functional.interpolate(network(shift)(image, 1.0), image.shape[2:], mode="bilinear")
            .argmax(1)[0]
            .numpy()
            for shift in (40, 20, 0)
        ]
        expected.append((image_id, pytest.approx(by_hand(maps[:2], maps[2]), abs=1e-12)))
    assert found == expected
    assert len({value for _, value in found}) > 1


def test_a_broken_network_is_said_with_the_image(toy_data):
    shard = toy_data.shards("train")[0]
    first = image_ids(toy_data.root, shard)[0]
    broken = ShardRanker([network(0)], lambda images, scale: network(0)(images, scale) * torch.nan, CLASSES, 2)
    with pytest.raises(FloatingPointError, match=f"image {first}"):
        broken.rank_shard(ScoreTask(0, toy_data.root, shard, frozenset(), {}))
