import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from querying.base.errors import UserError
from querying.labels.regions import WHOLE, RegionGrid

GRIDS = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12)).filter(lambda g: g[2] <= min(g[:2]))


@given(GRIDS)
@settings(deadline=None)
def test_every_pixel_belongs_to_exactly_one_region_of_the_stated_area(shape):
    grid = RegionGrid(*shape)
    seen = np.zeros(shape[:2], int)
    for region in range(grid.num_regions):
        seen[grid.box(region)] += 1
        assert seen[grid.box(region)].size == grid.areas()[region]
    assert (seen == 1).all()


@given(GRIDS, st.integers(0, 2**31))
@settings(deadline=None)
def test_means_equal_a_float64_loop_over_boxes(shape, seed):
    grid = RegionGrid(*shape)
    score = np.random.default_rng(seed).random((2, *shape[:2])).astype(np.float32)
    expected = [[s[grid.box(r)].astype(np.float64).mean() for r in range(grid.num_regions)] for s in score]
    np.testing.assert_allclose(grid.mean(torch.from_numpy(score)).numpy(), expected, rtol=1e-5)


def test_cells_of_a_size_that_does_not_divide_the_image_are_square_but_for_the_last():
    """Adaptive pooling would give 7-pixel cells here; ours are 4, 4, 2 wide."""
    grid = RegionGrid(4, 10, 4)
    assert grid.shape == (1, 3)
    assert grid.areas().tolist() == [16, 16, 8]
    assert grid.box(2) == (slice(0, 4), slice(8, 10))


@pytest.mark.parametrize(
    ("height", "width", "size", "cells", "left"), [(360, 480, 30, 192, 140), (688, 688, 43, 256, 196)]
)
def test_the_papers_grids(height, width, size, cells, left):
    grid = RegionGrid(height, width, size)
    assert grid.num_regions == cells
    assert (~grid.border()).sum() == left


def test_a_region_larger_than_the_image_is_refused():
    with pytest.raises(UserError, match=r"region_size=31 does not fit into an image of 30x40"):
        RegionGrid(30, 40, 31)


@given(GRIDS, st.integers(1, 12), st.data())
@settings(deadline=None)
def test_regions_of_another_grid_that_share_a_pixel_are_found(shape, size, data):
    grid, other = RegionGrid(*shape), RegionGrid(*shape[:2], min(size, *shape[:2]))
    regions = data.draw(st.lists(st.integers(0, other.num_regions - 1), max_size=5, unique=True))
    mask = np.zeros(shape[:2], bool)
    for region in regions:
        mask[other.box(region)] = True
    expected = [region for region in range(grid.num_regions) if mask[grid.box(region)].any()]
    assert sorted(grid.touching(regions, other)) == expected


def test_a_whole_image_is_a_region_too():
    grid = RegionGrid(7, 5, 1)
    assert np.ones((7, 5))[grid.box(WHOLE)].sum() == 35
    assert RegionGrid(7, 5, 3).touching([WHOLE], grid) == [0, 1, 2, 3, 4, 5]


@given(GRIDS, st.data())
@settings(deadline=None)
def test_a_smaller_image_has_its_part_of_the_grid_under_the_same_numbers(shape, data):
    whole = RegionGrid(*shape)
    size = data.draw(st.tuples(st.integers(1, shape[0]), st.integers(1, shape[1])))
    grid = whole.on(size)
    numbers = whole.regions()[: size[0], : size[1]]
    assert np.array_equal(grid.regions(), numbers)
    assert grid.cells().tolist() == np.unique(numbers).tolist()
    assert grid.num_cells == len(np.unique(numbers))
    assert grid.num_regions == whole.num_regions
    assert grid.areas().tolist() == np.bincount(numbers.ravel(), minlength=whole.num_regions).tolist()
    for region in range(whole.num_regions):
        assert np.array_equal(grid.mask([region]), numbers == region)
    edge = {numbers[0, 0], *numbers[0], *numbers[-1], *numbers[:, 0], *numbers[:, -1]}
    open_R = set(grid.cells().tolist()) - edge
    assert set(np.flatnonzero(~grid.border()).tolist()) == open_R
    score = np.random.default_rng(0).random((1, *size)).astype(np.float32)
    means = [
        score[0][numbers == r].astype(np.float64).mean() if (numbers == r).any() else 0
        for r in range(len(grid.areas()))
    ]
    np.testing.assert_allclose(grid.mean(torch.from_numpy(score)).numpy()[0], means, rtol=1e-5)
    assert grid.on(shape[:2]) == whole


def test_an_image_larger_than_the_grid_has_none():
    with pytest.raises(ValueError, match="40x10 pixels is larger than 30x30"):
        RegionGrid(30, 30, 10).on((40, 10))
