"""Every acquisition against its equation."""

import numpy as np
import pytest
import torch

from querying.scoring.acquisition import ACQUISITIONS, random_scores
from querying.scoring.difficulty import DifficultyMaps, histogram_entropy
from querying.scoring.disagreement import FURTHER, Predictions
from querying.selection.images_and_pixels import select_drawn
from querying.selection.k_centre import k_centre_greedy
from tests.querying.selection.fixed_areas import FixedAreas
from tests.training.fidelity.given import CLOSE, maps, softmax


def bits(p):
    return -(p * np.log(p)).sum(1)


@pytest.mark.parametrize(("name", "of"), [
    ("entropy", bits),  # S4AL+ section 3.3: -sum_c p_c log p_c
    ("least_confidence", lambda p: 1 - p.max(1)),  # 1 - max_c p_c
    ("margin", lambda p: 1 - (np.sort(p, 1)[:, -1] - np.sort(p, 1)[:, -2])),  # BvSB: 1 - (p_(1) - p_(2))
])  # fmt: skip
def test_of_one_prediction(name, of):
    z = maps(3)
    found = ACQUISITIONS[name](torch.from_numpy(z).log_softmax(1))
    np.testing.assert_allclose(found.numpy(), of(softmax(z)), **CLOSE)


def several(*p):
    found = Predictions()
    for one in p:
        found.add(torch.from_numpy(np.log(np.maximum(one, 1e-300))))
    return found


@pytest.mark.parametrize(("name", "count", "of"), [
    ("bald", 5, lambda p: bits(p.mean(0)) - np.mean([bits(one) for one in p], 0)),  # H[mean p] - mean H[p]
    ("flip", 2, lambda p: bits(p.mean(0)) - np.mean([bits(one) for one in p], 0)),  # Jensen-Shannon divergence
    ("equal", 2, lambda p: bits(p[0]) + bits(p[1])),  # EquAL: H(p) + H(p')
    ("flip_entropy", 2, lambda p: bits(p.mean(0))),  # ours, called `equal` until 2026-12: H((p + p') / 2)
])  # fmt: skip
def test_of_several_predictions(name, count, of):
    p = np.stack([softmax(maps(2, seed=seed)) for seed in range(count)])
    np.testing.assert_allclose(FURTHER[name](several(*p)).numpy(), of(p), **CLOSE)


def test_equal_ranks_an_unsure_pixel_above_two_sure_views_that_contradict_each_other():
    """The audit's hand values: (1, 0) and (0, 1) score 0 (ours 0.693), (.6, .4) twice 1.346 (ours 0.673)."""
    pixel = np.array([[1.0, 0.0], [0.0, 1.0]]).reshape(2, 1, 2, 1, 1), np.full((2, 1, 2, 1, 1), [[[0.6]], [[0.4]]])
    found = {name: [FURTHER[name](several(*p)).item() for p in pixel] for name in ("equal", "flip_entropy")}
    assert found["equal"] == pytest.approx([0.0, 1.346], abs=5e-4)
    assert found["flip_entropy"] == pytest.approx([0.693, 0.673], abs=5e-4)


def test_deals_difficulty_score_is_the_mean_of_the_branch_and_its_entropy_that_of_its_histogram():
    """DEAL section 3.3: DS = (1 / N) sum d_i; DE = -sum_k a_k log a_k, a_k the share of pixels in the k-th of equal
    parts of the image's range (code: numpy.histogram)."""
    d = 1 / (1 + np.exp(-maps(1)[:, :1]))
    logit = torch.from_numpy(np.log(d / (1 - d)))
    predict = type("Branch", (), {"difficulty": staticmethod(lambda z: logit)})
    whole = torch.zeros(2, 3, dtype=torch.int64)
    (found,) = DifficultyMaps("deal_ds", predict, whole, levels=8).maps(["a"], torch.zeros(1, 3, 2, 3), [logit])
    np.testing.assert_allclose(found.numpy(), d[:, 0], **CLOSE)
    count, _ = np.histogram(d, bins=4)
    share = count[count > 0] / d.size
    entropy = histogram_entropy(torch.from_numpy(d[:, 0]), whole, 4)
    np.testing.assert_allclose(entropy.item(), -(share * np.log(share)).sum(), **CLOSE)


def test_pixelpick_draws_from_the_most_uncertain_share_of_an_image():
    """PixelPick section 3.2: n pixels, uniformly from the 5 % with the smallest margin."""
    score, areas = np.arange(200, dtype=np.float32)[None], FixedAreas(np.ones(200, np.int64))
    seen = set()
    for seed in range(60):
        cells = select_drawn([(["a"], (0, score))], 3, 0.05, areas, seed=seed, cycle=1)
        assert len(set(cells.region_S.tolist())) == 3
        seen |= set(cells.region_S.tolist())
    assert seen == set(range(190, 200))


def test_the_core_set_takes_the_point_farthest_from_all_centres():
    """Sener & Savarese, algorithm 1: u = argmax_i min_{j in s} ||x_i - x_j||."""
    points = np.array([[0, 0], [4, 0], [0, 3], [1, 1]], np.float32)
    picks, far = k_centre_greedy(points, 2, [np.array([[0, 0]], np.float32)])
    assert picks.tolist() == [1, 2]
    np.testing.assert_allclose(far, [4, 3], **CLOSE)


def test_random_is_uniform():
    found = np.concatenate([random_scores(0, 1, f"image {number}", 500) for number in range(40)])
    assert [found.min() >= 0, found.max() < 1] == [True, True]
    np.testing.assert_allclose(np.histogram(found, bins=10, range=(0, 1))[0] / len(found), 0.1, atol=0.01)
