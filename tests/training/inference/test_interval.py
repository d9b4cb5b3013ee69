"""The interval of an mIoU, against numpy's own way from every image's confusion matrix."""

import numpy as np
import pytest
import torch

from training.inference.confusion import Confusion
from training.inference.evaluation import EvaluationTask, ShardEvaluator
from training.inference.interval import RESAMPLES, SEED, ImageCounts, image_row


def confusions(number, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 50, (number, classes, classes))
    counts[: number // 2, 0] = counts[: number // 2, :, 0] = 0  # a class that half of the images do not have
    return [Confusion(torch.from_numpy(one)) for one in counts]


def counted(parts):
    return ImageCounts.of({f"image_{place:03d}": image_row(part) for place, part in enumerate(parts)})


@pytest.mark.parametrize("number", [2, 3, 60])
def test_it_is_the_percentiles_of_the_miou_of_resampled_confusion_matrices(number):
    parts = confusions(number)
    draws, found = np.random.RandomState(SEED), []
    for weights_N in draws.multinomial(number, [1 / number] * number, size=RESAMPLES):
        total = sum((Confusion(part.counts * int(w)) for part, w in zip(parts, weights_N, strict=True)),
                    Confusion.empty(4))  # fmt: skip
        found.append(total.mean_iou())
    low, high = counted(parts).interval()
    assert (low, high) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])), rel=1e-12)
    assert number < 60 or low < sum(parts, Confusion.empty(4)).mean_iou() < high


def test_it_covers_what_images_are_drawn_from_about_as_often_as_it_says():
    """2,000 images are the truth, 60 of them are measured, a hundred times."""
    parts = confusions(2000, seed=3)
    whole, all_of_them = sum(parts, Confusion.empty(4)).mean_iou(), counted(parts)
    rng, held = np.random.default_rng(5), 0
    for _ in range(100):
        chosen = rng.integers(0, 2000, 60)
        low, high = ImageCounts(
            [str(place) for place in range(60)],
            *(part[chosen] for part in (all_of_them.hit_NC, all_of_them.true_NC, all_of_them.predicted_NC)),
        ).interval()
        held += low <= whole <= high
    assert 85 <= held <= 100


def test_one_image_has_none_and_images_without_a_known_pixel_cost_nothing():
    [one] = confusions(1)
    assert counted([one]).interval() is None
    nothing = Confusion.empty(4)
    low, high = counted([one, nothing]).interval()  # a quarter of the draws has nothing known
    assert low == high == pytest.approx(one.mean_iou())
    assert np.isnan(counted([one, nothing]).miou_N()[1])


def test_order_and_a_way_through_json_change_nothing():
    parts = confusions(7)
    rows = {f"image_{place}": image_row(part) for place, part in enumerate(parts)}
    turned = ImageCounts.of(dict(reversed(rows.items())))
    assert turned.ids == sorted(rows)
    again = ImageCounts.from_dict(turned.to_dict())
    assert again.interval() == turned.interval() == counted(parts).interval()
    assert again.adds_up_to(sum(parts, Confusion.empty(4)))
    assert not again.adds_up_to(sum(parts[1:], Confusion.empty(4)))


def test_an_evaluation_counts_every_image_apart(toy_data):
    def predict(images_BCHW, scale):
        return torch.nn.functional.one_hot(images_BCHW[:, 0].long() % 6, 6).permute(0, 3, 1, 2).float()

    evaluator = ShardEvaluator(lambda: predict, 6, 4, 1)
    for shard in toy_data.shards("test"):
        counts, rows = evaluator.evaluate_images(EvaluationTask(toy_data.root, shard))
        assert len(rows) == shard.rows
        assert ImageCounts.of(rows).adds_up_to(Confusion.from_list(counts))
        for image_id, row in rows.items():
            alone = evaluator.evaluate_shard(EvaluationTask(toy_data.root, shard, frozenset([image_id])))
            assert image_row(Confusion.from_list(alone)) == row
