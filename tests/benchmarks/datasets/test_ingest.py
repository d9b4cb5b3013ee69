import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.ingest import ingest
from querying.base.errors import InfrastructureError, UserError
from querying.dataset.shards import DataIndex, read_images, read_truth, verify

HEIGHT, WIDTH = 12, 16
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def rgb(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ids(number: int, labels: list[int], height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(number).choice(np.array(labels, np.uint8), (height, width))


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def images_and_masks(index: DataIndex, split: str) -> list[tuple[str, np.ndarray, np.ndarray | None]]:
    rows = []
    for shard in index.shards(split):
        both = zip(read_images(index.root, shard), read_truth(index.root, shard), strict=True)
        for (name, image_HWC), (mask_name, mask_HW) in both:
            assert name == mask_name
            rows.append((name, image_HWC, mask_HW))
    return rows


def camvid_tree(src: Path) -> Path:
    for split, first, count in (("train", 0, 5), ("val", 10, 2), ("test", 20, 3)):
        for number in range(first, first + count):
            save(src / split / f"s_{number:03d}.png", rgb(number))
            save(src / f"{split}annot" / f"s_{number:03d}.png", ids(number, list(range(12))))
    return src


def test_camvid_becomes_shards_with_void_at_255_and_nothing_else_changed(tmp_path: Path) -> None:
    src = camvid_tree(tmp_path / "raw")
    calls: list[tuple[int, int]] = []
    index = ingest(
        "camvid", src, tmp_path / "deep/down/out", size=None, shard_size=2, progress=lambda *a: calls.append(a)
    )
    assert {split: index.num_images(split) for split in index.splits} == {"train": 5, "val": 2, "test": 3}
    assert [shard.rows for shard in index.shards("train")] == [2, 2, 1]
    assert calls == [(done, 10) for done in range(1, 11)]
    rows = images_and_masks(index, "train")
    assert [name for name, _, _ in rows] == [f"s_{number:03d}" for number in range(5)]
    for number, (_, image_HWC, mask_HW) in enumerate(rows):
        raw_HW = ids(number, list(range(12)))
        np.testing.assert_array_equal(image_HWC, rgb(number))
        np.testing.assert_array_equal(mask_HW, np.where(raw_HW == 11, 255, raw_HW))
    assert (index.height, index.width, index.num_classes, index.classes[9]) == (HEIGHT, WIDTH, 11, "pedestrian")
    assert list(verify(index)) == []
    assert [path.name for path in (tmp_path / "deep/down").iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("prefix", "encoding"),
    [("", "utf-8"), ("/SegNet/CamVid/", "utf-8"), ("", "utf-8-sig")],  # as Windows editors save
)
def test_lists_decide_which_camvid_images_are_taken_and_in_which_order(
    tmp_path: Path, prefix: str, encoding: str
) -> None:
    src = camvid_tree(tmp_path / "raw")
    names = ["s_003", "s_000", "s_004"]
    lines = "".join(f"{prefix}train/{n}.png {prefix}trainannot/{n}.png\n" for n in names)
    (src / "train.txt").write_text(lines, encoding=encoding)
    index = ingest("camvid", src, tmp_path / "out", size=None)
    assert [name for name, _, _ in images_and_masks(index, "train")] == names


@pytest.mark.parametrize("encoding", ["ppm", "png", "jpeg"])
def test_the_encoding_changes_the_bytes_and_not_the_masks(tmp_path: Path, encoding: str) -> None:
    src = camvid_tree(tmp_path / "raw")
    index = ingest("camvid", src, tmp_path / "out", size=(8, 8), encoding=encoding)
    plain = ingest("camvid", src, tmp_path / "plain", size=(8, 8))
    for (_, image_HWC, mask_HW), (_, plain_HWC, plain_HW) in zip(
        images_and_masks(index, "test"), images_and_masks(plain, "test"), strict=True
    ):
        assert image_HWC.shape == (8, 8, 3)
        np.testing.assert_array_equal(mask_HW, plain_HW)  # type: ignore[arg-type]
        if encoding != "jpeg":
            np.testing.assert_array_equal(image_HWC, plain_HWC)
    assert index.encoding == encoding


IMAGE, MASK = "train/s_002.png", "trainannot/s_002.png"
BAD_INPUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing mask": (lambda src: (src / MASK).unlink(), rf"{MASK}: .*{IMAGE} does not exist"),
    "missing image": (lambda src: (src / IMAGE).unlink(), rf"{IMAGE}: .*{MASK} does not exist"),
    "missing folder": (lambda src: shutil.rmtree(src / "valannot"), r"valannot: no such folder"),
    "empty split": (lambda src: [path.unlink() for path in src.glob("test*/*")], r"test split has no images"),
    "truncated image": (lambda src: cut(src / IMAGE), rf"{IMAGE}: damaged"),
    "truncated mask": (lambda src: cut(src / MASK), rf"{MASK}: damaged"),
    "empty file": (lambda src: (src / IMAGE).write_bytes(b""), rf"{IMAGE}: empty"),
    "html": (lambda src: (src / IMAGE).write_text("<html>404</html>"), rf"{IMAGE}: neither"),
    "size": (lambda src: save(src / MASK, ids(2, [0], 12, 15)), rf"{MASK}: 15 x 12.*{IMAGE} is 16 x 12"),
    "unknown id": (lambda src: save(src / MASK, ids(2, [12])), rf"{MASK}: .*12 \(192 pixels\)"),
    "duplicate id": (
        lambda src: [save(src / "test/s_002.png", rgb(99)), save(src / "testannot/s_002.png", ids(9, [0]))],
        rf"test/s_002\.png: its id 's_002' is also that of .*{IMAGE}",
    ),
    "leakage": (
        lambda src: shutil.copy(src / IMAGE, src / "val/s_010.png"),
        rf"val/s_010\.png: the val image is, byte for byte, .*{IMAGE} of train",
    ),
    "tiny": (
        lambda src: [save(src / IMAGE, rgb(2, 1, 1)), save(src / MASK, ids(2, [0], 1, 1))],
        rf"{IMAGE}: 1x1 pixels; both sides",
    ),
    "bad list": (lambda src: (src / "train.txt").write_text("just-one-name\n"), r"train\.txt: line 1 "),
    "listed but missing": (
        lambda src: (src / "train.txt").write_text(f"{IMAGE} {MASK}\ntrain/x.png trainannot/x.png"),
        r"train/x\.png: does not exist.*train\.txt.*line 2",
    ),
}


@pytest.mark.parametrize("how", BAD_INPUTS)
def test_bad_input_is_named_and_leaves_nothing_behind(tmp_path: Path, how: str) -> None:
    src = camvid_tree(tmp_path / "raw")
    break_it, message = BAD_INPUTS[how]
    break_it(src)
    with pytest.raises(UserError, match=message):
        ingest("camvid", src, tmp_path / "out", size=None)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_the_same_bytes_in_two_splits_are_taken_when_asked_for_and_the_first_pair_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    src = camvid_tree(tmp_path / "raw")
    shutil.copy(src / "train/s_002.png", src / "val/s_010.png")
    shutil.copy(src / "train/s_003.png", src / "test/s_021.png")
    shutil.copy(src / "train/s_003.png", src / "train/s_004.png")  # within a split it is no leak
    with pytest.raises(UserError, match=r"val/s_010\.png: .*train/s_002\.png of train; --allow-duplicates"):
        ingest("camvid", src, tmp_path / "out", size=None)
    index = ingest("camvid", src, tmp_path / "out", size=None, allow_duplicates=True)
    assert index.num_images("val") == 2
    assert "val/s_010.png: the val image is, byte for byte, " in caplog.text
    assert "of train (and 1 more)" in caplog.text


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_fits_its_upright_mask(tmp_path: Path, orientation: int) -> None:
    """Pixels of image and mask that lie on each other in a viewer do so in the shards, whatever EXIF says."""
    src = camvid_tree(tmp_path / "raw")
    upright_HW = ids(5, list(range(11)))
    undo = {5: 5, 6: 8, 7: 7, 8: 6}.get(orientation, orientation)
    raw_HW = np.asarray(Image.fromarray(upright_HW).transpose(TURNS[undo])) if orientation > 1 else upright_HW
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.repeat(raw_HW[..., None], 3, 2)).save(src / "train/s_002.png", exif=exif)
    save(src / "trainannot/s_002.png", upright_HW)
    rows = images_and_masks(ingest("camvid", src, tmp_path / "out", size=None), "train")
    np.testing.assert_array_equal(rows[2][1][..., 0], rows[2][2])  # type: ignore[arg-type]


def test_the_same_call_again_does_nothing_and_any_other_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    src, dst = camvid_tree(tmp_path / "raw"), tmp_path / "out"
    first = ingest("camvid", src, dst, size=None)
    written = {path: path.stat().st_mtime_ns for path in dst.rglob("*")}
    again = ingest("camvid", src.rename(tmp_path / "moved"), dst, size=None)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in dst.rglob("*")} == written
    assert "out is already this data set" in caplog.text
    for options in ({"size": (8, 8)}, {"size": None, "encoding": "png"}, {"size": None, "shard_size": 3}):
        with pytest.raises(UserError, match=r"out: exists and is another data set"):
            ingest("camvid", tmp_path / "moved", dst, **options)  # type: ignore[arg-type]
    save(tmp_path / "moved/trainannot/s_000.png", ids(77, [1, 2]))
    with pytest.raises(UserError, match=r"out: exists and is another data set"):
        ingest("camvid", tmp_path / "moved", dst, size=None)
    assert DataIndex.load(dst) == first


def test_a_destination_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/precious.txt").write_text("mine")
    with pytest.raises(UserError, match=r"out: exists and is not a complete data set"):
        ingest("toy", None, tmp_path / "out", size=(16, 16), counts=(1, 1, 1))
    assert (tmp_path / "out/precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("error", "raised"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "No space left"), InfrastructureError)],
)
def test_an_interrupt_or_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, error: BaseException, raised: type[BaseException]
) -> None:
    src = camvid_tree(tmp_path / "raw")

    def fail(done: int, total: int) -> None:
        if done == 6:
            assert len(list(tmp_path.iterdir())) == 2  # the raw images and what is being built, under another name
            assert not (tmp_path / "out").exists()
            raise error

    with pytest.raises(raised):
        ingest("camvid", src, tmp_path / "out", size=None, shard_size=2, progress=fail)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_too_little_disk_space_is_said_before_the_first_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    src = camvid_tree(tmp_path / "raw")
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * HEIGHT * WIDTH * 3 - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InfrastructureError, match="free"):
        ingest("camvid", src, tmp_path / "out", size=None)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("camvit", {}, "'camvit': there are camvid, "),
        ("camvid", {"encoding": "webp"}, "'webp': there are ppm"),
        ("camvid", {"shard_size": 0}, "shard size 0"),
        ("camvid", {"size": (4, 100)}, "size 4x100"),
        ("camvid", {}, "raw: no such folder"),
        ("toy", {}, "raw: .*takes no input"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, kind: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ingest(kind, tmp_path / "raw", tmp_path / "out", **{"size": None} | options)  # type: ignore[arg-type]


def test_a_name_that_can_not_be_printed_is_refused(tmp_path: Path) -> None:
    src = camvid_tree(tmp_path / "raw")
    for folder in ("train", "trainannot"):
        (src / folder / "s_001.png").rename(src / folder / "s\n1.png")
    with pytest.raises(UserError, match=r"'s\\n1'"):
        ingest("camvid", src, tmp_path / "out", size=None)


@pytest.mark.skipif("S4AL_CAMVID" not in os.environ, reason="S4AL_CAMVID (folder of CamVid) is not set")
def test_real_camvid_at_half_size_has_only_its_classes_and_void(tmp_path: Path) -> None:
    real, src = Path(os.environ["S4AL_CAMVID"]), tmp_path / "raw"
    for split in ("train", "val", "test"):
        for name in sorted(path.name for path in (real / split).iterdir())[:6]:
            for folder in (split, f"{split}annot"):
                (src / folder).mkdir(parents=True, exist_ok=True)
                (src / folder / name).symlink_to(real / folder / name)
    index = ingest("camvid", src, tmp_path / "out", size=(180, 240))
    rows = [row for split in index.splits for row in images_and_masks(index, split)]
    assert {image_HWC.shape for _, image_HWC, _ in rows} == {(180, 240, 3)}
    assert {int(label) for _, _, mask_HW in rows for label in np.unique(mask_HW)} <= {*range(11), 255}  # type: ignore[arg-type]
    raw_NHW = np.stack([np.asarray(Image.open(path)) for path in (src / "trainannot").iterdir()])
    expected_K = np.bincount(raw_NHW.ravel(), minlength=12)[:11] / raw_NHW.size
    share_K = np.sum([shard.class_pixels for shard in index.shards("train")], axis=0) / (6 * 180 * 240)
    np.testing.assert_allclose(share_K, expected_K, atol=3e-3)


def test_a_folder_that_another_process_builds_in_is_left_alone(tmp_path: Path) -> None:
    """In containers process ids repeat, so a name of ours may be another's, too."""
    other = tmp_path / f"toy.tmp-{os.getpid()}" / "x"
    other.parent.mkdir()
    other.write_text("theirs")
    index = ingest("toy", None, tmp_path / "toy", size=(48, 64), counts=(1, 1, 1))
    assert index.num_images("train") == 1
    assert other.read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy", other.parent.name]
    assert (tmp_path / "toy").stat().st_mode == other.parent.stat().st_mode  # readable for others, as any folder


def test_a_destination_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can not be written: .*file is not a folder"):
        ingest("toy", None, tmp_path / "file/toy", size=(48, 64), counts=(1, 1, 1))


@pytest.mark.parametrize("code", [errno.ENOTEMPTY, errno.EEXIST])  # POSIX has both; ours says the first
@pytest.mark.parametrize("seed", [0, 1])
def test_of_two_at_once_one_writes_and_the_other_takes_it_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, code: int
) -> None:
    """Another process publishes the same folder while this one still writes its own."""
    dst, other, replace = tmp_path / "toy", tmp_path / "other", os.replace
    ingest("toy", None, other, size=(48, 64), counts=(3, 1, 1), seed=seed)

    def overtaken(source: Path, target: Path) -> None:
        if Path(target) == dst.resolve():
            replace(other, target)
            raise OSError(code, os.strerror(code))
        replace(source, target)

    monkeypatch.setattr(os, "replace", overtaken)
    if seed:
        with pytest.raises(UserError, match="toy: exists and is another data set"):
            ingest("toy", None, dst, size=(48, 64), counts=(3, 1, 1), seed=0)
    else:
        index = ingest("toy", None, dst, size=(48, 64), counts=(3, 1, 1), seed=0)
        assert index.num_images("train") == 3
    assert [path.name for path in tmp_path.iterdir()] == ["toy"]
