import numpy as np
import pytest

from benchmarks.datasets.ingest import ingest
from benchmarks.datasets.sources import toy
from querying.base.errors import UserError
from querying.dataset.shards import DataIndex, read_images


def scenes(count: int, **options: object) -> tuple[np.ndarray, np.ndarray]:
    raw = toy.load(None, options.pop("size", None), counts=(count, 1, 1), **options)  # type: ignore[arg-type]
    rows = [sample.read() for sample in raw.splits["train"]]
    return np.stack([image for image, _ in rows]), np.stack([mask for _, mask in rows if mask is not None])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(tmp_path) -> None:  # type: ignore[no-untyped-def]
    def digest(name: str, seed: int) -> tuple[str, list[str]]:
        index = ingest("toy", None, tmp_path / name, size=(24, 32), counts=(5, 2, 2), seed=seed, shard_size=4)
        return index.digest, [shard.images_sha256 for shard in index.shards("train")]

    first, again, other = digest("a", 0), digest("b", 0), digest("c", 1)
    assert first == again
    assert not {*first[1]} & {*other[1]}
    assert DataIndex.load(tmp_path / "a").num_images("val") == 2


def test_the_shards_hold_the_pictures_in_order_however_many_are_drawn_at_once(tmp_path) -> None:  # type: ignore[no-untyped-def]
    index = ingest("toy", None, tmp_path / "out", size=(16, 16), counts=(40, 1, 1), shard_size=16)
    rows = [row for shard in index.shards("train") for row in read_images(index.root, shard)]
    samples = toy.load(None, (16, 16), counts=(40, 1, 1)).splits["train"]
    assert [name for name, _ in rows] == [sample.image_id for sample in samples]
    for (_, image_HWC), sample in zip(rows, samples, strict=True):
        np.testing.assert_array_equal(image_HWC, sample.read()[0])


def test_a_picture_depends_on_its_number_and_not_on_how_many_there_are() -> None:
    few, many = toy.load(None, (24, 32), counts=(2, 1, 1)), toy.load(None, (24, 32), counts=(9, 3, 1))
    np.testing.assert_array_equal(few.splits["train"][1].read()[0], many.splits["train"][1].read()[0])
    pictures = [sample.read()[0].tobytes() for samples in many.splits.values() for sample in samples]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("num_classes", [6, 11])
@pytest.mark.parametrize("size", [(16, 16), (33, 50), (120, 90)])
def test_any_size_and_number_of_classes_gives_labels_in_range(size: tuple[int, int], num_classes: int) -> None:
    image_BHWC, mask_BHW = scenes(6, size=size, num_classes=num_classes)
    assert image_BHWC.shape == (6, *size, 3)
    assert image_BHWC.dtype == mask_BHW.dtype == np.uint8
    assert {*np.unique(mask_BHW).tolist()} <= {*range(num_classes), 255}


def test_common_classes_are_everywhere_rare_ones_seldom_and_a_little_is_void() -> None:
    _, mask_BHW = scenes(40, num_classes=11)
    present_BK = np.array([[(mask_HW == k).any() for k in range(11)] for mask_HW in mask_BHW])
    assert present_BK[:, :4].all()
    rare_K = present_BK[:, [6, 8, 9, 10]].mean(axis=0)  # person, sign, fence, bicycle
    assert (rare_K > 0.2).all()
    assert (rare_K < 0.85).all()
    assert 0.015 < (mask_BHW == 255).mean() < 0.05


def test_scenes_are_streets_sky_above_and_road_below() -> None:
    _, mask_BHW = scenes(20)
    rows = np.arange(mask_BHW.shape[1])[None, :, None]
    height = {k: float(rows.repeat(20, 0).repeat(mask_BHW.shape[2], 2)[mask_BHW == k].mean()) for k in (0, 1, 2)}
    assert height[0] < height[1] < height[2]


def test_the_light_differs_from_picture_to_picture() -> None:
    image_BHWC, _ = scenes(20)
    assert image_BHWC.mean(axis=(1, 2, 3)).std() > 10


@pytest.mark.parametrize(
    ("options", "message"), [({"num_classes": 5}, "num_classes 5"), ({"counts": (4, 0, 1)}, r"counts \(4, 0, 1\)")]
)
def test_impossible_parameters_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        toy.load(None, None, **options)  # type: ignore[arg-type]
