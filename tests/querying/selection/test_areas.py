"""Areas of cells in pools of several image sizes, against boxes that are counted pixel by pixel."""

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from querying.labels.regions import RegionGrid
from querying.selection.areas import PoolAreas
from querying.selection.diverse import select_class_balanced

GRID = RegionGrid(11, 13, 4)
SIZES = st.lists(st.tuples(st.integers(1, 11), st.integers(1, 13)), min_size=1, max_size=5)


def counted(size):
    """Pixels of each region, one by one."""
    pixels = [0] * GRID.num_regions
    for row in range(size[0]):
        for column in range(size[1]):
            pixels[row // 4 * 4 + column // 4] += 1  # 13 pixels are 4 columns of cells
    return pixels


@given(SIZES, st.data())
@settings(deadline=None)
def test_areas_are_those_of_each_image_however_the_shards_are_filled(sizes, data):
    rows = data.draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes)))
    areas, size_of = PoolAreas(GRID, sizes), []
    for turn in range(2):  # read again, nothing is said twice
        first = 0
        for shard, images in enumerate(rows):
            areas.place(first, images, shard)
            first += images
            size_of += [] if turn else [sizes[shard]] * images
    for position, size in enumerate(size_of):
        assert areas.row(position).tolist() == counted(size)
    cells = [(position, region) for position in range(len(size_of)) for region in range(GRID.num_regions)]
    cells = data.draw(st.permutations(cells)) if cells else []
    if cells:
        position_S, region_S = np.array(cells, np.int64).T
        wanted = [counted(size_of[position])[region] for position, region in cells]
        assert areas.of(position_S, region_S.astype(np.int32)).tolist() == wanted


def test_an_empty_first_shard_has_the_areas_of_the_grid_and_one_size_needs_no_places():
    areas = PoolAreas(GRID, [(4, 4)])
    areas.place(0, 0, 0)
    assert areas.row(0).tolist() == counted((11, 13))
    alike = PoolAreas(GRID)
    assert alike.of(np.array([5, 0]), np.array([3, 11])).tolist() == [counted((11, 13))[r] for r in (3, 11)]


def test_cells_without_a_pixel_are_of_no_class_when_classes_are_balanced():
    score = np.array([[1.0, 0.9, 0.8, -np.inf, -np.inf]], np.float32)
    classes = np.array([[0, 1, 1, 255, 255]], np.uint8)
    with_them = select_class_balanced(lambda: [(0, score)], lambda: [classes], 3)
    without = select_class_balanced(lambda: [(0, score[:, :3])], lambda: [classes[:, :3]], 3)
    assert with_them.region_S.tolist() == without.region_S.tolist()
    assert with_them.score_S.tolist() == pytest.approx(without.score_S.tolist())
