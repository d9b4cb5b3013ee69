"""Whole images and drawn pixels, class-balanced and diverse cells: against their definitions, in float64."""

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from querying.scoring.acquisition import random_scores
from querying.selection.diverse import select_class_balanced, select_diverse
from querying.selection.images_and_pixels import drawn_within_budget, select_drawn, select_images, whole_within_budget
from querying.selection.top_regions import Cells, select_global
from tests.querying.selection.fixed_areas import FixedAreas
from tests.querying.selection.test_core_set import brute_force
from tests.querying.selection.test_selection import SCORES, cut, picked, ranking

AREAS = np.array([1, 2, 4, 1, 2, 4])
FIXED = FixedAreas(AREAS)


def images_by_hand(rows):
    """(-mean, place) of every image that has an eligible cell; bought cells count 0."""
    means = {
        place: sum(a * s for a, s in zip(AREAS.tolist(), row, strict=True) if s > -np.inf) / 14
        for place, row in enumerate(rows)
        if max(row) > -np.inf
    }
    return sorted((-np.float32(mean), place) for place, mean in means.items())


@given(SCORES, st.integers(0, 10), st.integers(1, 9), st.integers(0, 60))
@settings(deadline=None)
def test_whole_images_are_bought_by_their_weighted_mean_and_never_in_part(rows, count, size, pixels):
    best = select_images(cut(rows, size), FIXED, count)
    expected = images_by_hand(rows)[:count]
    assert best.position_S.tolist() == [place for _, place in expected]
    assert best.score_S.tolist() == [-score for score, _ in expected]
    cells = whole_within_budget(cut(rows, size), best, FIXED, pixels)
    wanted, left = [], pixels
    for _, place in expected:
        mine = [(place, r) for r, s in enumerate(rows[place]) if s > -np.inf]
        left -= sum(int(AREAS[r]) for _, r in mine)
        if left < 0:
            break
        wanted += mine
    assert picked(cells) == sorted(wanted)
    assert AREAS[cells.region_S].sum() <= pixels
    assert {cells.position_S.dtype, cells.region_S.dtype, cells.score_S.dtype} == {
        np.dtype(np.int64), np.dtype(np.int32), np.dtype(np.float32),
    }  # fmt: skip


def named(rows, size):
    return [([f"image {first + i}" for i in range(len(part))], (first, part)) for first, part in cut(rows, size)]


@given(SCORES, st.integers(1, 7), st.integers(1, 9), st.sampled_from([0.05, 0.34, 0.5, 1.0]), st.integers(0, 3))
@settings(deadline=None)
def test_drawn_cells_are_among_the_best_share_of_their_image(rows, k, size, share, seed):
    cells = select_drawn(named(rows, size), k, share, FIXED, seed=seed, cycle=1)
    for place in range(len(rows)):
        best = [cell for cell in ranking(rows) if cell[0] == place][: max(k, int(share * 6 + 1e-6))]
        mine = [cell for cell in picked(cells) if cell[0] == place]
        assert set(mine) <= set(best)
        assert len(set(mine)) == len(mine) == min(k, len(best))
    scores = np.array(rows, np.float32)
    assert cells.score_S.tolist() == [float(scores[cell]) for cell in picked(cells)]
    other_cut = select_drawn(named(rows, 1)[::-1], k, share, FIXED, seed=seed, cycle=1)
    assert sorted(picked(other_cut)) == sorted(picked(cells))


def test_a_draw_is_even_and_of_its_own_for_every_seed_cycle_and_image():
    flat = np.tile(np.arange(100, dtype=np.float32), (400, 1))
    shards = named(flat.tolist(), 400)
    even = FixedAreas(np.ones(100, np.int64))
    cells = select_drawn(shards, 5, 0.2, even, seed=0, cycle=0)
    found = np.bincount(cells.region_S, minlength=100)
    assert (found[:80] == 0).all()
    assert found[80:].sum() == 2000
    # 400 draws of 5 out of 20: 100 each, standard deviation 8.7.
    assert (abs(found[80:] - 100) < 35).all()
    assert len({tuple(cells.region_S[i : i + 5]) for i in range(0, 2000, 5)}) > 390
    for changes in ({"seed": 1, "cycle": 0}, {"seed": 0, "cycle": 1}):
        assert picked(select_drawn(shards, 5, 0.2, even, **changes)) != picked(cells)


@given(SCORES, st.integers(1, 6), st.integers(0, 40))
@settings(deadline=None)
def test_a_short_budget_is_spread_over_the_images(rows, k, pixels):
    cells = select_drawn(named(rows, 4), k, 1.0, FIXED, seed=0, cycle=0)
    kept = drawn_within_budget(cells, FixedAreas(np.ones(6, np.int64)), pixels)
    assert kept.num == min(pixels, cells.num)
    assert set(picked(kept)) <= set(picked(cells))
    counts = np.bincount(kept.position_S, minlength=len(rows))
    there = np.bincount(cells.position_S, minlength=len(rows))
    assert (counts >= np.minimum(there, max(counts) - 1)).all()


CLASSES = st.integers(0, 2**16)


def balanced_by_hand(rows, classes, count):
    found = [s for row in rows for s in row if s > -np.inf]
    if not found:
        return []
    low, high = min(found), max(found)
    every = [c for row in classes for c in row]
    cells = []
    for i, row in enumerate(rows):
        for r, s in enumerate(row):
            if s > -np.inf:
                u = (s - low) / (high - low) if high > low else 1.0
                weight = math.exp(-every.count(classes[i][r]) / len(every))
                cells.append((-np.float32(u * weight), i, r))
    return sorted(cells)[:count]


@given(SCORES, CLASSES, st.integers(0, 30), st.integers(1, 9))
@settings(deadline=None)
def test_class_balance_is_the_published_weight_whatever_the_shards(rows, seed, count, size):
    class_NR = np.random.default_rng(seed).integers(0, 4, (len(rows), 6)).astype(np.uint8)
    expected = balanced_by_hand(rows, class_NR.tolist(), count)

    def select(classes):
        parts = [classes[i : i + size] for i in range(0, len(rows), size)]
        return select_class_balanced(lambda: cut(rows, size), lambda: iter(parts), count)

    cells = select(class_NR)
    assert picked(cells) == [(i, r) for _, i, r in expected]
    assert cells.score_S == pytest.approx([-s for s, _, _ in expected], rel=1e-6)
    renamed = select(np.array([7, 250, 0, 3], np.uint8)[class_NR])
    assert picked(renamed) == picked(cells)


def test_a_rare_class_is_asked_about_first():
    """Nine cells of class 0 and one of class 1, all as unsure: exp(-0.9) against exp(-0.1)."""
    class_NR = np.zeros((1, 10), np.uint8)
    class_NR[0, 6] = 1
    cells = select_class_balanced(lambda: [(0, np.full((1, 10), 0.5, np.float32))], lambda: [class_NR], 2)
    assert picked(cells) == [(0, 6), (0, 0)]
    assert cells.score_S == pytest.approx([math.exp(-0.1), math.exp(-0.9)])


@given(SCORES, CLASSES, st.integers(0, 8), st.integers(1, 4), st.integers(1, 9))
@settings(deadline=None)
def test_diverse_cells_are_a_core_set_of_the_best_whatever_the_shards(rows, seed, count, candidates, size):
    p_NRC = (np.random.default_rng(seed).integers(0, 3, (len(rows), 6, 3)) / 2).astype(np.float32)
    parts = [p_NRC[i : i + size] for i in range(0, len(rows), size)]
    cells = select_diverse(lambda: cut(rows, size), lambda: iter(parts), count, candidates)
    best = ranking(rows)[: candidates * count]
    order, _ = brute_force([p_NRC[cell] for cell in best], count, [])
    assert picked(cells) == [best[i] for i in order]
    renamed = [part[:, :, [2, 0, 1]] for part in parts]
    assert picked(select_diverse(lambda: cut(rows, size), lambda: iter(renamed), count, candidates)) == picked(cells)


def test_shards_without_an_image_in_the_pool_change_no_choice():
    """Their mixtures say no number of classes."""
    rng = np.random.default_rng(0)
    score, mixture = rng.random((3, 6), dtype=np.float32), rng.random((3, 6, 4), dtype=np.float32)
    none = np.zeros((0, 6, 1), np.float32)
    cells = [select_diverse(lambda: [(0, score)], lambda m=m: m, 5, 2) for m in ([mixture], [none, mixture, none])]
    assert picked(cells[0]) == picked(cells[1])


def test_with_one_candidate_each_diverse_is_global():
    rng = np.random.default_rng(0)
    score, mixture = rng.random((9, 6), dtype=np.float32), rng.random((9, 6, 4), dtype=np.float32)
    cells = select_diverse(lambda: [(0, score)], lambda: [mixture], 10, 1)
    assert set(picked(cells)) == set(picked(select_global([(0, score)], 10)))


def test_nothing_to_buy_is_an_empty_choice():
    nothing = [(0, np.full((2, 6), -np.inf, np.float32))]
    assert select_images(nothing, FIXED, 3).num == 0
    assert whole_within_budget(nothing, Cells.concatenate([]), FIXED, 100).num == 0
    assert select_drawn([(["a", "b"], nothing[0])], 3, 0.5, FIXED, seed=0, cycle=0).num == 0
    assert select_class_balanced(lambda: nothing, lambda: [np.zeros((2, 6), np.uint8)], 3).num == 0
    assert select_diverse(lambda: nothing, lambda: [np.zeros((2, 6, 3), np.float32)], 3, 2).num == 0


def test_a_random_whole_image_is_any_image():
    """The mean of an image's uniform numbers ranks images at random: 600 images, 3 of them ten times."""
    ids = [f"i{place}" for place in range(600)]
    areas = FixedAreas(np.ones(12, np.int64))
    found = []
    for seed in range(10):
        score_NR = np.stack([random_scores(seed, 0, image_id, 12) for image_id in ids])
        found += select_images([(0, score_NR)], areas, 3).position_S.tolist()
    assert len(set(found)) > 25
    assert 200 < np.mean(found) < 400
