import json
import math

import numpy as np
import pytest
import torch

from querying.dataset.label_values import IGNORE
from training.inference.confusion import Confusion


def random_maps(seed: int, *, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    predicted = torch.randint(classes, (3, 7, 9), generator=generator)
    true = torch.randint(classes, (3, 7, 9), generator=generator)
    true[torch.rand(true.shape, generator=generator) < 0.2] = IGNORE
    return predicted, true


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_counts_and_ratios_equal_a_loop_over_pixels(dtype):
    predicted, true = random_maps(0)
    counts = np.zeros((5, 5), dtype=np.int64)
    for t, p in zip(true.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if t != IGNORE:
            counts[t, p] += 1
    confusion = Confusion.of(predicted.to(dtype), true.to(dtype), 5)
    assert confusion.counts.dtype == torch.int64
    np.testing.assert_array_equal(confusion.counts.numpy(), counts)
    iou = [counts[c, c] / (counts[c].sum() + counts[:, c].sum() - counts[c, c]) for c in range(5)]
    np.testing.assert_allclose(confusion.iou().numpy(), iou, rtol=1e-15)
    assert confusion.mean_iou() == pytest.approx(np.mean(iou), rel=1e-15)
    assert confusion.pixel_accuracy() == pytest.approx(np.trace(counts) / counts.sum(), rel=1e-15)


def test_merging_parts_in_any_order_equals_the_whole():
    predicted, true = random_maps(1)
    parts = [Confusion.of(p, t, 5) for p, t in zip(predicted, true, strict=True)]
    whole = Confusion.of(predicted, true, 5).to_list()
    assert sum(parts, Confusion.empty(5)).to_list() == whole
    assert sum(reversed(parts), Confusion.empty(5)).to_list() == whole


def test_an_absent_class_is_nan_and_left_out_of_the_mean():
    confusion = Confusion.of(torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 0, 1]]]), 3)
    iou = confusion.iou().tolist()
    assert iou[:2] == [2 / 3, 1 / 2]
    assert math.isnan(iou[2])
    assert confusion.mean_iou() == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_class_that_is_only_predicted_counts_as_zero():
    confusion = Confusion.of(torch.tensor([[[0, 1]]]), torch.tensor([[[0, 0]]]), 2)
    assert confusion.iou().tolist() == [0.5, 0.0]


def test_nothing_counted_gives_nan_not_zero():
    assert math.isnan(Confusion.empty(2).mean_iou())
    assert math.isnan(Confusion.empty(2).pixel_accuracy())


def test_json_round_trip_keeps_every_count():
    confusion = Confusion.of(*random_maps(2), 5)
    assert torch.equal(Confusion.from_list(json.loads(json.dumps(confusion.to_list()))).counts, confusion.counts)


@pytest.mark.parametrize(
    ("predicted", "true", "message"),
    [
        ([0, 1], [0, 2], "label 2 "),
        ([0, 1], [0, 254], "label 254 "),
        ([0, 1], [0, -1], "label -1 "),
        ([0, 1], [0, 256], "label 256 "),
        ([0, 2], [0, 1], "prediction 2 "),
        ([0, IGNORE], [0, 1], "prediction 255 "),
        ([0, -3], [0, 1], "prediction -3 "),
    ],
)
def test_numbers_that_are_no_class_are_refused_by_name(predicted, true, message):
    with pytest.raises(ValueError, match=message):
        Confusion.of(torch.tensor([[predicted]]), torch.tensor([[true]]), 2)


def test_maps_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="differ"):
        Confusion.of(torch.zeros(1, 2, 3), torch.zeros(1, 3, 2), 2)


def test_an_evaluation_of_a_network_that_gives_nan_stops(toy_data):
    from training.inference.evaluation import EvaluationTask, ShardEvaluator

    evaluator = ShardEvaluator(lambda: lambda images, scale: torch.full((len(images), 6, 4, 4), torch.nan), 6, 4, 1)
    with pytest.raises(FloatingPointError, match="the network's output is not finite"):
        evaluator.evaluate_shard(EvaluationTask(toy_data.root, toy_data.shards("test")[0]))
