from functools import partial

import numpy as np
import pytest
import torch

from querying.dataset.label_values import IGNORE
from training.losses.cross_entropy import cross_entropy, hard_cross_entropy


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 3, 5, 6, generator=generator, dtype=torch.float32)
    target = torch.randint(3, (4, 5, 6), generator=generator, dtype=torch.uint8)
    target[0] = IGNORE  # images with very different numbers of known pixels
    target[1, 1:] = IGNORE
    return logits, target


def reference(logits: torch.Tensor, target: torch.Tensor) -> tuple[float, int]:
    """Sum of -log p and number of pixels, in float64."""
    z = logits.double().numpy()
    total, count = 0.0, 0
    for b, y, x in np.ndindex(*target.shape):
        if target[b, y, x] != IGNORE:
            column = z[b, :, y, x]
            total += np.log(np.exp(column - column.max()).sum()) + column.max() - column[int(target[b, y, x])]
            count += 1
    return total, count


def test_mean_over_known_or_over_all_pixels_equals_a_loop_in_float64():
    logits, target = batch()
    total, count = reference(logits, target)
    assert cross_entropy(logits, target, normalise="valid").item() == pytest.approx(total / count, rel=1e-6)
    assert cross_entropy(logits, target, normalise="all").item() == pytest.approx(total / target.numel(), rel=1e-6)


@pytest.mark.parametrize("normalise", ["valid", "all"])
def test_workers_with_different_masks_average_to_the_gradient_of_the_whole_batch(normalise):
    logits, target = batch()
    logits.requires_grad_()
    (whole,) = torch.autograd.grad(cross_entropy(logits, target, normalise=normalise), logits)

    halves = [slice(0, 2), slice(2, 4)]
    counted = target != IGNORE if normalise == "valid" else torch.ones_like(target)
    mean = counted.sum() / 2
    parts = [cross_entropy(logits[h], target[h], normalise=normalise, mean_count=lambda _: mean) for h in halves]
    (averaged,) = torch.autograd.grad(sum(parts) / 2, logits)
    torch.testing.assert_close(averaged, whole)


def test_the_only_pixel_of_a_batch_weighs_the_same_whatever_the_number_of_workers():
    """Its mean count over 4 workers is 1/4: the workers' mean of the loss is its cost all the same."""
    logits, target = torch.zeros(1, 3, 1, 2), torch.tensor([[[1, IGNORE]]], dtype=torch.uint8)
    four = [
        form(logits, one, mean_count=lambda _: torch.tensor(0.25))
        for form in (partial(cross_entropy, normalise="valid"), partial(hard_cross_entropy, easy_from=0.7, keep=1))
        for one in (target, *[torch.full_like(target, IGNORE)] * 3)
    ]
    assert [sum(four[:4]).item() / 4, sum(four[4:]).item() / 4] == pytest.approx([np.log(3)] * 2)


def test_mean_count_is_given_the_number_of_known_pixels():
    logits, target = batch()
    seen = []
    cross_entropy(logits, target, normalise="valid", mean_count=lambda count: seen.append(count.item()) or count)
    assert seen == [(target != IGNORE).sum().item()]


@pytest.mark.parametrize("normalise", ["valid", "all"])
def test_without_a_known_pixel_the_loss_is_zero_and_has_a_graph(normalise):
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = cross_entropy(logits, torch.full((2, 4, 4), IGNORE), normalise=normalise)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_half_precision_logits_are_reduced_in_float32():
    logits, target = batch()
    loss = cross_entropy(logits.bfloat16(), target, normalise="valid")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy(logits.bfloat16().float(), target, normalise="valid"))
