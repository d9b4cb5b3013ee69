"""Folders as people have them: which are images, masks and splits, and which mask belongs to which image."""

import zlib

import numpy as np
import pytest
from PIL import Image

from benchmarks.commands.ingest import ingest_command
from benchmarks.datasets.doctor import split_warnings
from benchmarks.datasets.files.layout import Part, find_layout
from benchmarks.datasets.files.pairs import find_pairs
from benchmarks.datasets.ingest import ingest
from benchmarks.datasets.sources.folder import load
from querying.base.errors import UserError
from tests.benchmarks.datasets.test_datasets import rgb, save

MASK = np.arange(144, dtype=np.uint8).reshape(12, 12) % 2


def grow(src, images, masks, names=("a", "b"), suffix=""):
    """Pairs of files; images of all folders are different."""
    for name in names:
        save(src / images / f"{name}.png", rgb(zlib.crc32(f"{images}/{name}".encode()), 12, 12))
        save(src / masks / f"{name}{suffix}.png", MASK)


def parts(layout, src):
    return {
        split: (str(part.images.relative_to(src)), part.masks and str(part.masks.relative_to(src)))
        for split, part in layout.parts.items()
    }


LAYOUTS = {
    "flat": ({"": ("images", "masks")}, {}),
    "VOC": ({"": ("JPEGImages", "SegmentationClass")}, {}),
    "splits outside": ({"train": ("train/images", "train/masks"), "val": ("valid/images", "valid/masks")}, {}),
    "splits inside": (
        {"train": ("images/training", "annotations/training"),
         "val": ("images/validation", "annotations/validation")}, {}),
    "splits inside, named differently": (
        {"train": ("img/train", "labels/training"), "test": ("img/test", "labels/test")}, {}),
    "beside": ({"train": ("train", "train_labels"), "val": ("val", "val_labels"), "test": ("test", "test_labels")}, {}),
    "given": ({"": ("photos", "ground")}, {"images": "photos", "masks": "ground"}),
    "given by split": (
        {"train": ("train/rgb", "gt/train"), "test": ("test/rgb", "gt/test")},
        {"images": "{split}/rgb", "masks": "gt/{split}"}),
    "given above the splits": (
        {"train": ("rgb/train", "gt/train"), "val": ("rgb/valid", "gt/val")}, {"images": "rgb", "masks": "gt"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_common_layouts_are_recognised_and_said(tmp_path, kind):
    expected, options = LAYOUTS[kind]
    for images, masks in expected.values():
        grow(tmp_path, images, masks)
    found = find_layout(tmp_path, **options)
    assert parts(found, tmp_path) == expected
    for images, _ in expected.values():
        assert images in found.said[0]


def test_a_user_s_test_images_never_become_training_images(tmp_path):
    for number, split in enumerate(("train", "val", "test")):
        grow(tmp_path / "raw", f"images/{split}", f"masks/{split}", [f"{split}{n}" for n in range(2 + number)])
    (tmp_path / "raw/classes.txt").write_text("a\nb\n")
    index = ingest("folder", tmp_path / "raw", tmp_path / "out", size=None, classes_file=tmp_path / "raw/classes.txt")
    assert {split: index.num_images(split) for split in index.splits} == {"train": 2, "val": 3, "test": 4}
    assert [line.split(":")[0] for line in split_warnings(index)] == ["split val", "split test"]
    assert "split val: 3 images with a mask: mIoU measured on so few" in "".join(split_warnings(index))


@pytest.mark.parametrize(
    ("grown", "message"),
    [
        ([("images/train", "masks/train"), ("images/cellar", "masks/cellar")],
         r"images: are the folders train the splits\? 2 images \(beside them\): .*--splits folders .*--splits draw"),
        ([("images/test", "masks/test")], r"are the folders test the splits\? there is no .*images/train"),
        ([("images", "masks"), ("train/images", "train/masks")], r"images could be in .*images and .*train/images"),
        ([("val/images", "val/masks")], "no train folder with images"),
        ([("train/images", "x"), ("training/images", "x")], "both could be train"),
        ([("imgs", "masks"), ("image", "masks")], r"image or imgs\? --images"),
        ([("images", "labels"), ("images", "annotations")], r"annotations or labels\? --masks"),
        ([("photos", "m")], r"images: no such folder; expected images/ and masks/ .*has m/, photos/; --images FOLDER"),
    ],
)  # fmt: skip
def test_what_could_be_two_layouts_is_asked_for(tmp_path, grown, message):
    for images, masks in grown:
        grow(tmp_path, images, masks)
    with pytest.raises(UserError, match=message):
        find_layout(tmp_path)


def test_splits_can_be_drawn_or_taken_where_that_was_asked_for(tmp_path):
    grow(tmp_path, "images/train", "masks/train")
    grow(tmp_path, "images/cellar", "masks/cellar")
    assert list(find_layout(tmp_path, splits="draw").parts) == [""]
    assert list(find_layout(tmp_path, splits="folders").parts) == ["train"]


def test_lists_of_splits_and_folders_that_are_not_read_are_not_passed_over(tmp_path):
    grow(tmp_path, "images", "masks")
    grow(tmp_path, "holdout/pictures", "holdout/truth")
    assert any("not read: 4 images (in " in line and "holdout" in line for line in find_layout(tmp_path).said)
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    with pytest.raises(UserError, match=r"val\.txt: a list of a split, which is not read: .*--splits draw"):
        find_layout(tmp_path)


@pytest.mark.parametrize("suffix", ["_mask", "_L", "_gtFine_labelIds", ".jpg", " copy"])
def test_a_suffix_that_all_masks_have_is_found_and_said(tmp_path, suffix):
    grow(tmp_path, "images", "masks", suffix=suffix)
    found = find_pairs(Part(tmp_path / "images", tmp_path / "masks"))
    assert {stem: mask.name for stem, (_, mask) in found.of.items()} == {n: f"{n}{suffix}.png" for n in "ab"}
    assert any(f"masks are called NAME{suffix}, as " in line for line in found.said)


def test_masks_of_two_kinds_in_one_folder_need_a_suffix_and_the_others_are_counted(tmp_path):
    part = Part(tmp_path / "images", tmp_path / "masks")
    for suffix in ("_color", "_labelIds"):
        grow(tmp_path, "images", "masks", suffix=suffix)
    with pytest.raises(UserError, match=r"a_color\.png: there is no image .*--mask-suffix"):
        find_pairs(part)
    found = find_pairs(part, mask_suffix="_labelIds")
    assert [mask.name for _, mask in found.of.values()] == ["a_labelIds.png", "b_labelIds.png"]
    assert any("left out: 2 files (no _labelIds in the name): " in line for line in found.said)
    grow(tmp_path, "images", "masks")
    for path in (tmp_path / "masks").glob("*_color.png"):
        path.unlink()
    with pytest.raises(UserError, match=r"2 of 4 masks have names that end with _labelIds: say which masks count"):
        find_pairs(part)


def test_images_and_masks_in_one_folder_are_told_apart_by_the_suffix(tmp_path):
    grow(tmp_path, "all", "all", suffix="_mask")
    part = Part(tmp_path / "all", tmp_path / "all")
    with pytest.raises(UserError, match="images and masks in one folder need --mask-suffix"):
        find_pairs(part)
    found = find_pairs(part, mask_suffix="_mask")
    assert {stem: (image.name, mask.name) for stem, (image, mask) in found.of.items()} == {
        "a": ("a.png", "a_mask.png"), "b": ("b.png", "b_mask.png"),
    }  # fmt: skip


def test_names_that_macos_writes_otherwise_are_one_name_and_case_is_not(tmp_path):
    grow(tmp_path, "images", "masks", ["cafe\u0301"])
    (tmp_path / "masks/cafe\u0301.png").rename(tmp_path / "masks/caf\u00e9.png")
    part = Part(tmp_path / "images", tmp_path / "masks")
    assert [mask is not None for _, mask in find_pairs(part).of.values()] == [True]
    save(tmp_path / "images/caf\u00e9.png", rgb(5))
    with pytest.raises(UserError, match="has the same name without suffix"):
        find_pairs(part)
    (tmp_path / "images/caf\u00e9.png").rename(tmp_path / "images/B.PNG")
    save(tmp_path / "masks/b.png", MASK)
    with pytest.raises(UserError, match=r"b\.png: there is no image .*B\.PNG differs in case"):
        find_pairs(part)


def test_an_image_format_that_is_not_read_is_refused_with_the_count(tmp_path):
    grow(tmp_path, "images", "masks")
    for name in ("x.heic", "y.webp"):
        (tmp_path / "images" / name).write_bytes(b"?")
    with pytest.raises(UserError, match=r"x\.heic \(and 1 more\): must be one of \.png, .*convert, move or remove"):
        find_pairs(Part(tmp_path / "images", tmp_path / "masks"))


def test_linked_folders_and_uncommon_suffixes_are_images_too(tmp_path):
    src = tmp_path / "raw"
    grow(tmp_path / "disk", "p", "m", [f"x{n}" for n in range(8)])
    src.mkdir()
    (src / "images").mkdir()
    (src / "images/linked").symlink_to(tmp_path / "disk/p")
    (src / "masks").mkdir()
    (src / "masks/linked").symlink_to(tmp_path / "disk/m")
    Image.fromarray(rgb(99, 12, 12)).save(src / "images/z.jfif", "jpeg")
    Image.fromarray(MASK).save(src / "masks/z.tif", compression="tiff_lzw")
    (tmp_path / "c.txt").write_text("a\nb\n")
    raw = load(src, None, classes_file=tmp_path / "c.txt")
    samples = [sample for split in raw.splits.values() for sample in split]
    assert sorted(s.image_id for s in samples) == [*(f"linked__x{n}" for n in range(8)), "z"]
    assert all(sample.mask for sample in samples)


def command(src, *paths, **options):
    usual = {"classes": None, "seed": 0, "protocol": "al", "num_classes": 8, "images": None}
    ingest_command("folder", [src, *paths], None, 32, "ppm", **usual | options)


def test_a_dry_run_prints_the_decision_draws_it_and_writes_nothing_else(tmp_path, capsys):
    src = tmp_path / "raw"
    grow(src, "images", "masks", [f"i{n}" for n in range(10)], suffix="_L")
    (src / "classes.txt").write_text("# mine\nleft\nright\n")
    command(src, tmp_path / "out", classes=src / "classes.txt", dry_run=True, sheet=tmp_path / "look.png")
    said = capsys.readouterr().out
    assert "classes.txt: list of names, 1 comment line left out" in said
    assert "masks are called NAME_L" in said
    assert "7 train, 1 val, 2 test" in said
    assert "look.png: 10 images" in said
    assert "without --dry-run: 10 images of 12x12, 2 classes" in said
    (row,) = [line.split() for line in said.splitlines() if line.startswith("│ left")]
    assert row[-6::2] == ["50.00"] * 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["look.png", "raw"]
    sheet = np.asarray(Image.open(tmp_path / "look.png"))
    pixels = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert len(pixels) > 100  # photographs
    with pytest.raises(UserError, match=r"--sheet .*x\.png: lies in "):
        command(src, classes=src / "classes.txt", dry_run=True, sheet=src / "x.png")


def test_the_sheet_shows_a_mask_beside_its_image_in_the_colours_of_the_classes(tmp_path):
    src = tmp_path / "raw"
    for number in range(4):
        save(src / f"images/i{number}.png", np.full((64, 64, 3), number, np.uint8))
        save(src / f"masks/i{number}.png", np.repeat([[0] * 32 + [1] * 32], 64, 0).astype(np.uint8))
    (tmp_path / "c.txt").write_text("a 200 0 0\nb 0 200 0\n")
    command(src, classes=tmp_path / "c.txt", dry_run=True, sheet=tmp_path / "s.png")
    sheet = np.asarray(Image.open(tmp_path / "s.png")).astype(int)
    reds = [(sheet[..., k] > 120) & (sheet[..., 1 - k] < 10) & (sheet[..., 2] < 10) for k in (0, 1)]
    columns = [np.flatnonzero(red.any(axis=0)) for red in reds]
    for colour in reds:
        assert abs(colour.sum() - 4 * 232 * 116) < 0.05 * 4 * 232 * 116  # half of each of four overlays
    assert columns[0].min() < columns[1].min()  # class a lies left of class b


def test_without_a_class_file_one_is_proposed_from_what_the_masks_hold(tmp_path, capsys):
    src = tmp_path / "raw"
    colours = np.array([(0, 0, 0), (128, 64, 128)], np.uint8)
    save(src / "images/a.png", rgb(1, 12, 12))
    save(src / "masks/a.png", colours[np.minimum(MASK, np.arange(12) // 4)])
    with pytest.raises(UserError, match=r"needs --classes FILE .*printed above is one"):
        command(src, tmp_path / "out")
    text = capsys.readouterr().out
    assert "class_0 0 0 0\n" in text
    assert "class_1 128 64 128\n" in text
    (tmp_path / "c.txt").write_text(text)
    assert load(src, None, classes_file=tmp_path / "c.txt", val_fraction=0, test_fraction=0).classes == (
        "class_0",
        "class_1",
    )


@pytest.mark.parametrize(("values", "names"), [((0, 255), ("0", "255")), ((1, 3, 255), ("1", "3"))])
def test_a_proposal_for_values_has_255_as_a_class_only_where_there_would_be_one(tmp_path, capsys, values, names):
    save(tmp_path / "images/a.png", rgb(1, 12, 12))
    save(tmp_path / "masks/a.png", np.array(values, np.uint8)[np.arange(144).reshape(12, 12) % len(values)])
    with pytest.raises(UserError, match=r"printed above is one"):
        command(tmp_path, tmp_path / "out")
    (tmp_path / "c.txt").write_text(capsys.readouterr().out)
    found = load(tmp_path, None, classes_file=tmp_path / "c.txt", val_fraction=0, test_fraction=0)
    assert found.classes == tuple(f"class_{name}" for name in names)


def test_a_folder_without_images_is_named(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "c.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"no image in .*images$"):
        load(tmp_path, None, classes_file=tmp_path / "c.txt")


def test_an_option_of_another_kind_is_refused(tmp_path):
    with pytest.raises(UserError, match="--mask-suffix: only for s4al ingest folder, not for camvid"):
        ingest_command("camvid", [tmp_path, tmp_path / "x"], None, 32, "ppm", mask_suffix="_L", images=None)
