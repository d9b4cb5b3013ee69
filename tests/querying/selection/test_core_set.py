import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from querying.selection.k_centre import k_centre_greedy

# Few integer coordinates: distances are exact, equal ones and points that lie on each other the rule.
POINTS = st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=30)


def brute_force(points, count, centres):
    """The specification: every distance made anew in every round, in float64, the first of the farthest."""
    points, chosen = np.asarray(points, np.float64), [np.asarray(c, np.float64) for c in centres]
    picks, distances = [], []
    for _ in range(min(count, len(points))):
        best, far = None, None
        for i, point in enumerate(points):
            if i in picks:
                continue
            away = min((float(((point - c) ** 2).sum()) for c in chosen), default=np.inf)
            if far is None or away > far:
                best, far = i, away
        picks.append(best)
        distances.append(far**0.5)
        chosen.append(points[best])
    return picks, distances


@given(POINTS, st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=4), st.integers(0, 35))
@settings(deadline=None)
def test_it_equals_brute_force_with_ties(points, centres, count):
    blocks = [np.array(centres, np.float32).reshape(-1, 3)]
    picks, distances = k_centre_greedy(np.array(points, np.float32), count, blocks)
    expected, far = brute_force(points, count, centres)
    assert picks.tolist() == expected
    assert distances.tolist() == far


def test_it_equals_brute_force_on_200_points():
    rng = np.random.default_rng(3)
    points, centres = (rng.standard_normal((n, 16)).astype(np.float32) for n in (200, 20))
    picks, distances = k_centre_greedy(points, 60, [centres[:7], centres[:0], centres[7:]])
    expected, far = brute_force(points, 60, centres)
    assert picks.tolist() == expected
    assert distances == pytest.approx(far, rel=1e-12)


@given(st.permutations(range(12)), st.integers(0, 2**16))
@settings(deadline=None)
def test_the_order_of_points_and_blocks_changes_nothing_where_nothing_ties(order, seed):
    rng = np.random.default_rng(seed)
    points, centres = (rng.standard_normal((n, 5)).astype(np.float32) for n in (12, 3))
    one, far = k_centre_greedy(points, 6, [centres])
    other, far_too = k_centre_greedy(points[list(order)], 6, [centres[2:], centres[:2]])
    assert [order[i] for i in other] == one.tolist()
    assert far.tolist() == far_too.tolist()


def test_the_covering_radius_is_at_most_twice_the_best():
    """What greedy is chosen for (Gonzalez 1985), against the best of all pairs of centres."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = rng.random((12, 2), dtype=np.float32)
        away = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=2))
        best = min(np.minimum(away[i], away[j]).max() for i in range(12) for j in range(i))
        picks, _ = k_centre_greedy(points, 2)
        assert away[picks].min(axis=0).max() <= 2 * best + 1e-6


def test_ten_thousand_images_take_seconds_and_little_memory():
    points = np.random.default_rng(0).standard_normal((10_000, 256)).astype(np.float32)
    tracemalloc.start()
    started = time.process_time()
    picks, distances = k_centre_greedy(points, 100, [points[:50]])
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 20
    assert peak < 3e6, "beside the points, a number a point and one block"
    assert len(set(picks.tolist())) == 100
    assert (np.diff(distances) <= 0).all()
