import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from querying.scoring.upsampling import log_probabilities
from querying.settings import QuerySettings
from training.inference.evaluation import EvaluationTask, ShardEvaluator
from training.inference.sliding import Windowed, probabilities, starts
from training.settings.training import EvaluateSettings


def pixelwise(images_BCHW, scale):
    """Logits of six classes from the pixel alone, none ever equal: a network that is invariant to translation."""
    return torch.stack([images_BCHW[:, c % 3].float() * (0.01 + 0.007 * c) - 0.31415 * c for c in range(6)], dim=1)


def images(height=37, width=53):
    return torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("extent", "window", "stride", "expected"),
    [
        (10, 4, 3, [0, 3, 6]),
        (11, 4, 3, [0, 3, 6, 7]),  # shifted back, not cut off
        (4, 4, 3, [0]),
        (5, 4, 3, [0, 1]),
        (3, 4, 3, [0]),
        (2048, 801, 534, [0, 534, 1068, 1247]),
        (1024, 769, 513, [0, 255]),
    ],
)
def test_windows_begin_every_stride_and_end_at_the_border(extent, window, stride, expected):
    assert starts(extent, window, stride) == expected
    assert expected[-1] == max(0, extent - window)
    covered = np.zeros(extent, bool)
    for start in expected:
        covered[start : start + window] = True
    assert covered.all()


@pytest.mark.parametrize("window", [(16, 16), (20, 53), (37, 20), (64, 64)])
@pytest.mark.parametrize("stride", [(5, 7), (16, 16)])
def test_windows_equal_the_whole_image_for_a_translation_invariant_network(window, stride):
    whole = pixelwise(images(), 1.0).softmax(1)
    found = probabilities(pixelwise, images(), window=window, stride=stride)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-6)


def test_a_pixel_gets_the_mean_of_the_windows_that_see_it():
    """Each window says its own number; along a row of 10 by windows of 4 every 3, pixel 3 is in the first two."""
    calls = []

    def count(images_BCHW, scale):
        calls.append(images_BCHW.shape)
        p = torch.tensor([len(calls) / 10, 1 - len(calls) / 10])
        return p.log().view(1, 2, 1, 1).expand(1, 2, *images_BCHW.shape[2:])

    found = probabilities(count, images(4, 10)[:1], window=(4, 4), stride=(3, 3))[0, 0, 0]
    assert [tuple(shape) for shape in calls] == [(1, 3, 4, 4)] * 3  # none is cut off or padded
    torch.testing.assert_close(found, torch.tensor([1, 1, 1, 1.5, 2, 2, 2.5, 3, 3, 3]) / 10)


def test_a_shard_counts_the_same_in_windows_and_two_workers_as_one(toy_data):
    """With an invariant network: exact counts, however the shards are shared out."""

    def counts(settings, shards):
        evaluator = ShardEvaluator(lambda: pixelwise, 6, 4, 1, settings)
        return sum(np.array(evaluator.evaluate_shard(EvaluationTask(toy_data.root, shard))) for shard in shards)

    sliding = EvaluateSettings(window=(20, 30))
    shards = toy_data.shards("train")
    whole = counts(None, shards)
    assert (counts(sliding, shards) == whole).all()
    assert (counts(sliding, shards[::2]) + counts(sliding, shards[1::2]) == whole).all()
    assert whole.sum() > 0


def test_the_default_stride_is_two_thirds():
    assert EvaluateSettings(window=(801, 769)).strides() == (534, 513)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"stride": (3, 3)}, "stride needs a window"),
        ({"window": (16, 16), "stride": (16, 17)}, "the stride is larger than the window"),
    ],
)
def test_what_can_not_cover_an_image_is_refused(keys, message):
    for kind in (EvaluateSettings, QuerySettings):
        with pytest.raises(ValueError, match=message):
            kind(**keys)


@pytest.mark.parametrize("acquisition", ["bald", "deal_de"])
def test_windows_are_refused_where_further_passes_see_whole_images(acquisition):
    with pytest.raises(ValueError, match=f"query.acquisition={acquisition}, which looks at whole images"):
        QuerySettings(window=(32, 32), acquisition=acquisition)


def test_windows_of_a_scaled_network_are_averaged_as_a_loop_does_and_keep_their_size():
    seen = []

    def network(images_BCHW, scale):
        seen.append(tuple(round(side * scale) for side in images_BCHW.shape[2:]))
        size = [max(1, round(side * scale)) for side in images_BCHW.shape[2:]]
        x = F.interpolate(images_BCHW.float(), size, mode="bilinear")
        return torch.cat([x, (x[:, :2] / 20).sin() * 50], dim=1)[:, :, ::2, ::2] / 40

    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 50, 70), dtype=np.uint8))
    windowed = Windowed(lambda: network, (20, 24), (16, 16))
    for scale in (0.5, 1.0, 2.0):
        seen.clear()
        found = windowed(image, scale).exp()[0].numpy()
        tall, wide, down, right = (math.ceil(side / scale) for side in (20, 24, 16, 16))
        tall, wide = min(tall, 50), min(wide, 70)
        total, times = np.zeros((5, 50, 70)), np.zeros((50, 70))
        for top in [*range(0, 50 - tall, down), 50 - tall]:
            for left in [*range(0, 70 - wide, right), 70 - wide]:
                z = network(image[:, :, top : top + tall, left : left + wide], scale)
                full = F.interpolate(z, (tall, wide), mode="bilinear")[0].double().numpy()
                p = np.exp(full - full.max(0))
                total[:, top : top + tall, left : left + wide] += p / p.sum(0)
                times[top : top + tall, left : left + wide] += 1
        np.testing.assert_allclose(found, total / times, rtol=1e-4, atol=1e-7)
        assert {size for size in seen if size != (25, 35)} <= {(20, 24)} or scale == 0.5


def test_one_window_over_the_image_scores_as_the_image_does():
    def network(images_BCHW, scale):
        return images_BCHW.float()[:, :, ::4, ::4] / (30 * scale)

    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 48), dtype=np.uint8))
    windowed = Windowed(lambda: network, (160, 192), (100, 100))
    for scales in ((1.0,), (0.5, 1.0, 2.0)):
        whole = log_probabilities([network(image, scale) for scale in scales], 40, 48)
        windows = log_probabilities([windowed(image, scale) for scale in scales], 40, 48)
        np.testing.assert_allclose(windows.numpy(), whole.numpy(), rtol=1e-4, atol=1e-5)
