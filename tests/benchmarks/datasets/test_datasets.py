import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.classes import class_file
from benchmarks.datasets.ingest import ingest
from benchmarks.datasets.sources import cityscapes, folder
from querying.base.errors import UserError
from querying.dataset.shards import DataIndex, image_ids, read_images, read_truth

HEIGHT, WIDTH = 12, 16


def rgb(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ids(number: int, labels: list[int], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(number).choice(np.array(labels, np.uint8), (height, width))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def names_of(index: DataIndex, split: str) -> list[str]:
    return [name for shard in index.shards(split) for name in image_ids(index.root, shard)]


def masks_of(index: DataIndex) -> dict[str, np.ndarray | None]:
    shards = [shard for split in index.splits for shard in index.shards(split)]
    return {name: mask_HW for shard in shards for name, mask_HW in read_truth(index.root, shard)}


def cityscapes_tree(src: Path, kind: str) -> Path:
    number = 0
    for split, cities in (("train", {"aachen": 7, "bremen": 4}), ("val", {"frankfurt": 3})):
        for city, count in cities.items():
            for frame in range(count):
                name = f"{city}_000000_{frame:06d}"
                label_id_HW = ids(number, [*range(34), 255])
                mask_HW = label_id_HW
                if kind == "labelTrainIds":
                    table = np.full(256, 255, np.uint8)
                    for train_id, label_id in enumerate(cityscapes._LABEL_IDS):
                        table[label_id] = train_id
                    mask_HW = table[label_id_HW]
                save(src / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", rgb(number))
                save(src / "gtFine" / split / city / f"{name}_gtFine_{kind}.png", mask_HW)
                number += 1
    return src


def folder_tree(src: Path, masked: int = 10, total: int = 14) -> Path:
    for number in range(total):
        name = f"{'ba'[number % 2]}/i{number}.png"
        save(src / "images" / name, rgb(number))
        if number < masked:
            save(src / "masks" / name, ids(number, [0, 1, 2, 255]))
    (src / "classes.txt").write_text("grass\nwall paper\n\nroof\n")
    return src


@pytest.mark.parametrize("protocol", ["al", "ssl"])
def test_cityscapes_label_ids_and_train_ids_give_the_same_data_set(tmp_path: Path, protocol: str) -> None:
    made = [
        ingest(
            "cityscapes", cityscapes_tree(tmp_path / kind, kind), tmp_path / f"{kind}.out", size=None, protocol=protocol
        )
        for kind in ("labelIds", "labelTrainIds")
    ]
    one, other = (masks_of(index) for index in made)
    assert one.keys() == other.keys()
    for name, mask_HW in one.items():
        np.testing.assert_array_equal(mask_HW, other[name])  # type: ignore[arg-type]
    size = (688, 688) if protocol == "al" else (HEIGHT, WIDTH)
    assert {(index.height, index.width) for index in made} == {size}
    assert made[0].classes[11] == "person"


def test_cityscapes_label_ids_are_mapped_by_the_official_table(tmp_path: Path) -> None:
    official = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11, 25: 12, 26: 13}
    official |= {27: 14, 28: 15, 31: 16, 32: 17, 33: 18}
    src = cityscapes_tree(tmp_path / "raw", "labelIds")
    index = ingest("cityscapes", src, tmp_path / "out", size=None, protocol="ssl")
    raw_HW = ids(0, [*range(34), 255])
    expected_HW = [[official.get(int(label), 255) for label in row] for row in raw_HW]
    np.testing.assert_array_equal(masks_of(index)["aachen_000000_000000"], expected_HW)  # type: ignore[arg-type]


def test_cityscapes_prefers_train_ids_where_both_are_there(tmp_path: Path) -> None:
    src = cityscapes_tree(tmp_path / "raw", "labelIds")
    name = "gtFine/val/frankfurt/frankfurt_000000_000001_gtFine"
    save(src / f"{name}_labelTrainIds.png", np.full((HEIGHT, WIDTH), 18, np.uint8))
    index = ingest("cityscapes", src, tmp_path / "out", size=None, protocol="ssl")
    assert np.unique(masks_of(index)["frankfurt_000000_000001"]).tolist() == [18]  # type: ignore[arg-type]


def test_the_al_protocol_tests_on_the_official_val_and_holds_out_train_images(tmp_path: Path) -> None:
    src = cityscapes_tree(tmp_path / "raw", "labelIds")
    index = ingest("cityscapes", src, tmp_path / "out", size=(16, 16), seed=3)
    assert names_of(index, "test") == [f"frankfurt_000000_{frame:06d}" for frame in range(3)]
    train, val = names_of(index, "train"), names_of(index, "val")
    assert len(train) == 10
    assert len(val) == 1
    assert len({*train, *val}) == 11
    assert index.source["seed"] == 3


def test_of_2975_images_300_are_held_out_city_by_city_whatever_the_order() -> None:
    sizes = {"aachen": 174, "bochum": 96, "hanover": 196, "ulm": 95, "zurich": 122, "rest": 2292}
    names = [f"{city}_0_{frame}" for city, count in sizes.items() for frame in range(count)]
    held_out = cityscapes._held_out(names, 0)
    assert len(held_out) == 300
    # shares 17.55 9.68 19.76 9.58 12.30 231.13: the three images that rounding down leaves go to the largest remainders
    counts = Counter(name.split("_")[0] for name in held_out)
    assert counts == {"aachen": 17, "bochum": 10, "hanover": 20, "ulm": 10, "zurich": 12, "rest": 231}
    assert cityscapes._held_out(names[::-1], 0) == held_out
    assert cityscapes._held_out(names, 1) != held_out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("mask", r"frankfurt_000000_000001_gtFine_labelIds\.png: does not exist"),
        ("id", r"frankfurt_000000_000001_gtFine_labelIds\.png: .*34 \(192 pixels\)"),
        ("folder", r"gtFine/train: no such folder"),
    ],
)
def test_what_is_wrong_with_cityscapes_is_named(tmp_path: Path, change: str, message: str) -> None:
    src = cityscapes_tree(tmp_path / "raw", "labelIds")
    path = src / "gtFine/val/frankfurt/frankfurt_000000_000001_gtFine_labelIds.png"
    if change == "mask":
        path.unlink()
    elif change == "id":
        save(path, np.full((HEIGHT, WIDTH), 34, np.uint8))
    else:
        (src / "gtFine/train").rename(src / "gtFine/trian")
    with pytest.raises(UserError, match=message):
        ingest("cityscapes", src, tmp_path / "out", size=None)
    with pytest.raises(UserError, match="'sal'"):
        ingest("cityscapes", src, tmp_path / "out", size=None, protocol="sal")
    assert not (tmp_path / "out").exists()


def test_a_folder_is_split_by_its_masks_and_unmasked_images_are_all_for_training(tmp_path: Path) -> None:
    src = folder_tree(tmp_path / "raw", masked=10, total=14)
    index = ingest("folder", src, tmp_path / "out", size=None, classes_file=src / "classes.txt")
    assert {split: index.num_images(split) for split in index.splits} == {"train": 11, "val": 1, "test": 2}
    assert index.classes == ("grass", "wall paper", "roof")
    assert len(set(index.palette)) == 3
    assert {f"{'ba'[number % 2]}__i{number}" for number in range(14)} == masks_of(index).keys()
    for name, mask_HW in masks_of(index).items():
        number = int(name[4:])
        np.testing.assert_array_equal(mask_HW, ids(number, [0, 1, 2, 255]) if number < 10 else None)  # type: ignore[arg-type]
    images = {n: i for split in index.splits for s in index.shards(split) for n, i in read_images(index.root, s)}
    np.testing.assert_array_equal(images["b__i6"], rgb(6))
    other = ingest("folder", src, tmp_path / "o2", size=None, classes_file=src / "classes.txt", seed=5)
    assert names_of(other, "test") != names_of(index, "test")


def test_a_folder_without_masks_is_all_pool_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    src = folder_tree(tmp_path / "raw", masked=0, total=3)
    call = {"size": None, "classes_file": src / "classes.txt"}
    with pytest.raises(
        UserError, match=rf"{src}/masks.*: no mask of any image is there \(3 images.*i1\.png.*--no-masks"
    ):
        ingest("folder", src, tmp_path / "out", **call)
    assert not (tmp_path / "out").exists()
    index = ingest("folder", src, tmp_path / "out", no_masks=True, **call)
    assert {split: index.num_images(split) for split in index.splits} == {"train": 3}
    assert index.shards("train")[0].masked == 0
    assert "without a mask, so pool only: 3 train images" in caplog.text
    folder_tree(src, masked=10)
    caplog.clear()
    ingest("folder", src, tmp_path / "o2", **call)
    assert "without a mask, so pool only: 4 train images" in caplog.text


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["images/9.png", "masks/b/i0.png"])
def test_a_named_pipe_among_the_images_is_named(tmp_path: Path, name: str) -> None:
    src = folder_tree(tmp_path / "raw")
    (src / name).unlink(missing_ok=True)
    os.mkfifo(src / name)
    with pytest.raises(UserError, match=f"{name}: is not a regular file"):
        ingest("folder", src, tmp_path / "out", size=None, classes_file=src / "classes.txt")
    assert not (tmp_path / "out").exists()


def test_split_folders_are_taken_as_they_are_and_need_masks_in_val(tmp_path: Path) -> None:
    src = folder_tree(tmp_path / "raw/train", masked=2, total=4)
    folder_tree(tmp_path / "raw/val", masked=1, total=1)
    (tmp_path / "raw/val/images/b/i0.png").rename(tmp_path / "raw/val/images/b/v.png")
    (tmp_path / "raw/val/masks/b/i0.png").rename(tmp_path / "raw/val/masks/b/v.png")
    save(tmp_path / "raw/val/images/b/v.png", rgb(70))
    index = ingest("folder", tmp_path / "raw", tmp_path / "out", size=None, classes_file=src / "classes.txt")
    assert {split: index.num_images(split) for split in index.splits} == {"train": 4, "val": 1}
    save(tmp_path / "raw/val/images/extra.png", rgb(80))
    with pytest.raises(UserError, match=r"val/images/extra\.png: no mask"):
        ingest("folder", tmp_path / "raw", tmp_path / "o2", size=None, classes_file=src / "classes.txt")


def test_colour_masks_are_read_when_every_class_has_a_colour(tmp_path: Path) -> None:
    src = folder_tree(tmp_path / "raw", masked=4, total=4)
    colours = np.array([(9, 8, 7), (0, 255, 0), (1, 1, 1)], np.uint8)
    save(src / "masks/b/i0.png", colours[ids(0, [0, 1, 2])])
    with pytest.raises(UserError, match=r"masks/b/i0\.png: a colour mask"):
        ingest("folder", src, tmp_path / "out", size=None, classes_file=src / "classes.txt")
    (src / "classes.txt").write_text("grass 9 8 7\nwall paper 0 255 0\nroof  1 1 1\n")
    index = ingest("folder", src, tmp_path / "out", size=None, classes_file=src / "classes.txt")
    assert index.palette == ((9, 8, 7), (0, 255, 0), (1, 1, 1))
    np.testing.assert_array_equal(masks_of(index)["b__i0"], ids(0, [0, 1, 2]))  # type: ignore[arg-type]


def test_what_is_wrong_with_a_folder_is_named(tmp_path: Path) -> None:
    src = folder_tree(tmp_path / "raw", masked=2, total=4)
    classes = src / "classes.txt"
    with pytest.raises(UserError, match=r"masks: 2 masks are too few"):
        ingest("folder", src, tmp_path / "out", size=None, classes_file=classes)
    save(src / "masks/b/i4.png", ids(0, [0]))
    with pytest.raises(UserError, match=r"masks/b/i4\.png: there is no image"):
        ingest("folder", src, tmp_path / "out", size=None, classes_file=classes)
    (src / "masks/b/i4.png").rename(src / "masks/b/i2.jpg")
    with pytest.raises(UserError, match=r"masks/b/i2\.jpg: must be one of \.png"):
        ingest("folder", src, tmp_path / "out", size=None, classes_file=classes)
    (src / "masks/b/i2.jpg").unlink()
    save(src / "images/b/i2.jpg", rgb(0))
    with pytest.raises(UserError, match=r"images/b/i2\.png: .*i2\.jpg has the same name"):
        ingest("folder", src, tmp_path / "out", size=None, classes_file=classes)
    assert not (tmp_path / "out").exists()


def test_a_jpeg_that_ends_too_early_is_found_while_writing_and_leaves_nothing_behind(tmp_path: Path) -> None:
    src = folder_tree(tmp_path / "raw")
    (src / "images/a/i5.png").unlink()
    photo = src / "images/a/i5.jpg"
    save(photo, rgb(5, 64, 64).repeat(2, 0).repeat(2, 1))
    save(src / "masks/a/i5.png", ids(5, [0], 128, 128))
    photo.write_bytes(photo.read_bytes()[:-900])
    with pytest.raises(UserError, match=r"images/a/i5\.jpg: damaged"):
        ingest("folder", src, tmp_path / "out", size=(8, 8), classes_file=src / "classes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\n", "1 classes; 2 to 255"),
        ("a\nb\na\n", "line 3: class 'a' is there twice"),
        ("a 1 2 3\nb\n", "1 of 2 classes have a colour"),
        ("a 1 2 3\nb 1 2 256\n", "line 2: colour 1 2 256"),
        (f"a 1 2 3\nb 1 2 {'9' * 5000}\n", "line 2: colour 1 2 9999 is above 255"),
        ("a 1 2 3\nb 01 002 0003\n", "line 2: colour 1 2 3"),
        ("a 1 2 3\nb 1 2 3\n", "line 2: colour 1 2 3"),
    ],
)
def test_a_wrong_list_of_classes_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=rf"classes\.txt: {message}"):
        folder.read_classes(tmp_path / "classes.txt")


def test_made_up_palettes_have_no_colour_twice() -> None:
    for count in (2, 19, 100):
        assert len(set(class_file._distinct_colours(count))) == count
