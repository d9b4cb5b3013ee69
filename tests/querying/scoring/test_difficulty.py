"""DEAL's acquisitions against NumPy's histogram and closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from querying.base.errors import UserError
from querying.labels.regions import RegionGrid
from querying.scoring.difficulty import DifficultyMaps, histogram_entropy
from querying.scoring.scorer import ShardScorer
from querying.settings import QuerySettings

ONE_CELL = torch.zeros(6, 8, dtype=torch.int64)


def noise(count, size=(6, 8), seed=0):
    return torch.from_numpy(np.random.default_rng(seed).beta(1, 4, (count, *size)))


def numpy_entropy(values, low, high, levels):
    count, _ = np.histogram(values, bins=levels, range=(low, high))
    share = count[count > 0] / count.sum()
    return -(share * np.log(share)).sum()


@pytest.mark.parametrize("levels", [2, 8, 10])
def test_the_entropy_of_a_whole_image_is_that_of_numpys_histogram(levels):
    d = noise(3)
    expected = [numpy_entropy(one, one.min(), one.max(), levels) for one in d.numpy()]
    np.testing.assert_allclose(histogram_entropy(d, ONE_CELL, levels)[:, 0], expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_the_entropy_of_a_cell_is_over_its_own_pixels_and_the_images_levels(height, width, data):
    grid = RegionGrid(height, width, data.draw(st.integers(1, min(height, width))))
    levels, seed = data.draw(st.integers(2, 10)), data.draw(st.integers(0, 99))
    d = noise(1, (height, width), seed)[0]
    found = histogram_entropy(d[None], torch.from_numpy(grid.regions()), levels)[0]
    low, high = (d.min().item(), d.max().item()) if d.min() < d.max() else (d.min().item(), d.min().item() + 1)
    expected = [numpy_entropy(d[grid.box(r)].numpy(), low, high, levels) for r in range(grid.num_regions)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert 0 <= found.min() <= found.max() <= math.log(levels) + 1e-12


def test_closed_forms():
    """Cells: one level; two levels in halves; all levels alike."""
    d = torch.full((1, 8, 24), 0.1, dtype=torch.float64)
    d[0, :4, 8:16] = 0.9
    d[0, :, 16:] = (torch.arange(8) + 0.5) / 8
    d[0, 0, 16], d[0, 0, 23] = 0.0, 1.0  # the range
    found = histogram_entropy(d, torch.from_numpy(RegionGrid(8, 24, 8).regions()), 8)
    np.testing.assert_allclose(found[0], [0, math.log(2), math.log(8)], atol=1e-12)
    assert histogram_entropy(torch.full((1, 6, 8), 0.3), ONE_CELL, 8).tolist() == [[0.0]]


def test_the_entropy_does_not_change_with_scale_place_or_batch():
    d, unit = noise(4), torch.from_numpy(RegionGrid(6, 8, 3).regions())
    whole = histogram_entropy(d, unit, 8)
    assert torch.equal(histogram_entropy(d / 2, unit, 8), whole)
    assert torch.equal(histogram_entropy(d[[2, 0, 3, 1]], unit, 8), whole[[2, 0, 3, 1]])
    assert torch.equal(torch.cat([histogram_entropy(d[i : i + 1], unit, 8) for i in range(4)]), whole)
    assert histogram_entropy(torch.full((1, 6, 8), torch.nan), unit, 8).isnan().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_every_pixel_is_in_the_region_whose_box_holds_it(height, width, data):
    grid = RegionGrid(height, width, data.draw(st.integers(1, min(height, width))))
    regions = grid.regions()
    for region in range(grid.num_regions):
        assert (regions[grid.box(region)] == region).all()
    np.testing.assert_array_equal(np.bincount(regions.ravel()), grid.areas())


class WithBranch:
    """Colours as logits; red is the logit of an error, at half the size."""

    def __call__(self, images, scale):
        size = [round(side * scale) for side in images.shape[2:]]
        return torch.nn.functional.interpolate(images.float() / 20 - 2, size, mode="bilinear", align_corners=False)

    def difficulty(self, logits):
        return torch.nn.functional.interpolate(
            logits[:, :1], [side // 2 for side in logits.shape[2:]], mode="bilinear", align_corners=False
        )


def scorer(out, grid, load=WithBranch, **changes):
    given = dict(acquisition="deal_ds", scales=(1.0,), exclude_border=False, batch_size=2, threads=1)
    return ShardScorer(load, grid, out, QuerySettings(**{**given, **changes}), seed=0, cycle=0)


def colours(count, size=(8, 12)):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 90, (count, 3, *size), dtype=np.uint8))


def difficulty(image, scales=(1.0,)):
    """A second derivation of the pixels' difficulty, (H, W) float64."""
    maps = []
    for scale in scales:
        small = WithBranch().difficulty(WithBranch()(image[None], scale)).double()
        maps.append(torch.nn.functional.interpolate(small, image.shape[1:], mode="bilinear", align_corners=False))
    return 1 / (1 + np.exp(-(sum(maps) / len(maps))[0, 0].numpy()))


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("acquisition", ["deal_ds", "deal_de"])
def test_a_cells_score_is_its_mean_difficulty_or_the_entropy_of_its_levels(tmp_path, acquisition, scales):
    images, grid = colours(2), RegionGrid(8, 12, 5)
    one = scorer(tmp_path, grid, acquisition=acquisition, scales=scales, levels=6)
    regions, pseudo = one.score(["a", "b"], images, {})
    for image, row in zip(images, regions["score"].to_pylist(), strict=True):
        d = difficulty(image, scales)
        cells = [d[grid.box(region)] for region in range(grid.num_regions)]
        if acquisition == "deal_ds":
            expected = [cell.mean() for cell in cells]
            assert np.average(row, weights=grid.areas()) == pytest.approx(d.mean(), rel=1e-6)
        else:
            expected = [numpy_entropy(cell, d.min(), d.max(), 6) for cell in cells]
        np.testing.assert_allclose(row, expected, rtol=1e-4)
    plain = scorer(tmp_path, grid, acquisition="entropy", scales=scales).score(["a", "b"], images, {})[1]
    assert pseudo.equals(plain)


@pytest.mark.parametrize("acquisition", ["deal_ds", "deal_de"])
def test_neither_batch_nor_order_changes_a_score(tmp_path, acquisition):
    images, one = colours(4), scorer(tmp_path, RegionGrid(8, 12, 4), acquisition=acquisition)

    def scores(order):
        rows, _ = one.score([str(i) for i in order], images[order], {})
        return dict(zip(rows["image_id"].to_pylist(), rows["score"].to_pylist(), strict=True))

    whole = scores([0, 1, 2, 3])
    assert scores([3, 1, 0, 2]) == whole
    assert {**scores([2]), **scores([0, 3]), **scores([1])} == whole


def test_for_a_whole_image_the_map_holds_the_images_entropy_everywhere():
    image = colours(1)
    maps = DifficultyMaps("deal_de", WithBranch(), torch.zeros(8, 12, dtype=torch.int64), levels=8)
    [found] = maps.maps(["a"], image, [WithBranch()(image, 1.0)])
    d = difficulty(image[0])
    assert found.shape == (1, 8, 12)
    np.testing.assert_allclose(found, numpy_entropy(d, d.min(), d.max(), 8), rtol=1e-5)


def broken():
    class Broken(WithBranch):
        def __call__(self, images, scale):
            return super().__call__(images, scale) * torch.nan

    return Broken()


@pytest.mark.parametrize("acquisition", ["deal_ds", "deal_de"])
def test_a_broken_network_or_one_without_branch_stops_the_query(tmp_path, acquisition):
    with pytest.raises(FloatingPointError, match="image a: the network's output is not finite"):
        scorer(tmp_path, RegionGrid(8, 12, 4), broken, acquisition=acquisition).score(["a"], colours(1), {})
    for without in (lambda: lambda images, scale: images, type("P", (), {"difficulty": None})):
        with pytest.raises(UserError, match=f"query.acquisition={acquisition}: the network has no difficulty branch"):
            scorer(tmp_path, RegionGrid(8, 12, 4), without, acquisition=acquisition)
