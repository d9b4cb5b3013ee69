import itertools

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from querying.selection.top_regions import Cells, select_global, select_per_image, within_budget
from tests.querying.selection.fixed_areas import FixedAreas

# Few distinct values, so that ties are the rule; -inf is "not eligible".
SCORES = st.lists(
    st.lists(st.sampled_from([-np.inf, 0.0, 0.25, 0.5, 1.0]), min_size=6, max_size=6), min_size=1, max_size=9
)


def cut(rows, size):
    table = np.array(rows, np.float32)
    return [(i, table[i : i + size]) for i in range(0, len(table), size)]


def picked(cells):
    return list(zip(cells.position_S.tolist(), cells.region_S.tolist(), strict=True))


def ranking(rows):
    """The specification: score descending, image ascending, region ascending; not eligible is not there."""
    cells = [(-s, i, r) for i, row in enumerate(rows) for r, s in enumerate(row) if s > -np.inf]
    return [(i, r) for _, i, r in sorted(cells)]


@given(SCORES, st.integers(0, 7), st.integers(1, 9))
@settings(deadline=None)
def test_per_image_takes_the_k_best_of_each_whatever_the_shards(rows, k, size):
    expected = [cell for i in range(len(rows)) for cell in [c for c in ranking(rows) if c[0] == i][:k]]
    assert sorted(picked(select_per_image(cut(rows, size), k))) == sorted(expected)


@given(SCORES, st.integers(0, 30), st.integers(1, 9))
@settings(deadline=None)
def test_global_equals_a_full_sort_whatever_the_shards_and_their_order(rows, count, size):
    expected = ranking(rows)[:count]
    assert picked(select_global(cut(rows, size), count)) == expected
    assert picked(select_global(cut(rows, size)[::-1], count)) == expected


@given(SCORES, st.integers(0, 60))
@settings(deadline=None)
def test_the_budget_is_never_exceeded_and_the_best_cells_stay(rows, pixels):
    areas = np.array([1, 2, 3, 4, 5, 6])
    kept = within_budget(select_per_image(cut(rows, 4), 6), FixedAreas(areas), pixels)
    assert areas[kept.region_S].sum() <= pixels
    whole = ranking(rows)
    assert sorted(picked(kept)) == sorted(whole[: kept.num])
    if kept.num < len(whole):
        assert areas[[r for _, r in whole[: kept.num + 1]]].sum() > pixels


def test_fewer_eligible_cells_than_asked_for_means_fewer():
    assert picked(select_per_image([(0, np.array([[-np.inf, 0.5, -np.inf]], np.float32))], 4)) == [(0, 1)]


def test_ties_go_to_the_lower_region():
    """torch.topk returned [3, 4, 1, 0, 2] on five equal values."""
    assert picked(select_per_image([(0, np.zeros((1, 5), np.float32))], 3)) == [(0, 0), (0, 1), (0, 2)]


def test_nothing_gives_an_empty_selection():
    assert select_per_image([], 4).num == select_global([], 4).num == Cells.concatenate([]).num == 0


@pytest.mark.parametrize("count", [1, 100, 5_000])
def test_global_selection_keeps_few_candidates(count, monkeypatch):
    import querying.selection.top_regions as module

    seen = []
    original = module._best
    monkeypatch.setattr(module, "_best", lambda cells, n: seen.append(cells.num) or original(cells, n))
    rng = np.random.default_rng(0)
    select_global(((i * 50, rng.random((50, 20), dtype=np.float32)) for i in range(40)), count)
    assert max(seen) <= 2 * count + 50 * 20


@given(SCORES, st.integers(1, 7), st.booleans())
@settings(deadline=None)
def test_the_scores_are_unchanged_afterwards_and_may_be_read_only(rows, k, writable):
    """Rows with fewer eligible cells than k mask the same cell again."""
    table = np.array(rows, np.float32)
    table.flags.writeable = writable
    first, again = select_per_image([(0, table)], k), select_per_image([(0, table)], k)
    assert np.array_equal(table, np.array(rows, np.float32))
    assert picked(first) == picked(again)
    assert first.position_S.dtype == np.int64
    assert first.region_S.dtype == np.int32
    assert first.score_S.dtype == np.float32


def test_cells_of_an_image_come_best_first():
    cells = select_per_image([(7, np.array([[0.5, -np.inf, 1.0, 0.75]], np.float32))], 4)
    assert picked(cells) == [(7, 2), (7, 3), (7, 0)]
    assert cells.score_S.tolist() == [1.0, 0.75, 0.5]


def test_a_later_tie_with_the_running_threshold_loses_to_an_earlier_image():
    shards = [(i, np.full((1, 4), 0.5, np.float32)) for i in range(6)]
    assert picked(select_global(shards, 3)) == picked(select_global(shards[::-1], 3)) == [(0, 0), (0, 1), (0, 2)]


FLOATS = st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, -np.inf, np.inf, 1.5])


@given(st.lists(FLOATS, min_size=1, max_size=60), st.integers(1, 5), st.data())
@settings(deadline=None)
def test_global_equals_a_lexsort_of_everything_for_any_floats_and_any_order_of_shards(values, regions, data):
    table = np.array(values[: len(values) // regions * regions] or values[:1] * regions, np.float32)
    table = table.reshape(-1, regions)
    cuts = [*data.draw(st.lists(st.integers(0, len(table)), max_size=6)), 0, len(table)]
    bounds = sorted(set(cuts))
    shards = [(first, table[first:last]) for first, last in itertools.pairwise(bounds)]
    shards = data.draw(st.permutations(shards))
    count = data.draw(st.integers(0, table.size + 2))
    image, region = np.divmod(np.arange(table.size), regions)
    order = np.lexsort((region, image, -table.ravel()))
    order = order[table.ravel()[order] > -np.inf][:count]
    cells = select_global(iter(shards), count)
    assert np.array_equal(cells.position_S, image[order])
    assert np.array_equal(cells.region_S, region[order])
    assert np.array_equal(cells.score_S, table.ravel()[order])
    assert (cells.position_S.dtype, cells.region_S.dtype, cells.score_S.dtype) == (np.int64, np.int32, np.float32)


@pytest.mark.parametrize("levels", [3, 2**20])
def test_global_equals_a_lexsort_where_candidates_are_dropped_many_times(levels):
    rng = np.random.default_rng(0)
    table = (rng.integers(-levels, levels, (4_000, 12)) / levels).astype(np.float32)
    image, region = np.divmod(np.arange(table.size), 12)
    order = np.lexsort((region, image, -table.ravel()))[:500]
    for shuffled in (False, True):
        starts = np.arange(0, 4_000, 37)
        if shuffled:
            rng.shuffle(starts)
        cells = select_global([(int(first), table[first : first + 37]) for first in starts], 500)
        assert np.array_equal(cells.position_S, image[order])
        assert np.array_equal(cells.region_S, region[order])


def test_positions_beyond_32_bits_are_kept():
    """100 million images of 192 cells are more cells than 32 bits count."""
    first = 99_999_999
    cells = select_global([(0, np.zeros((1, 192), np.float32)), (first, np.full((1, 192), 0.5, np.float32))], 2)
    assert picked(cells) == [(first, 0), (first, 1)]
