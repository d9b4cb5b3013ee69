"""Labels as people have them: taken as what they are, or refused with the remedy; never another class, never silent."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.ingest import ingest, survey
from benchmarks.datasets.sources.folder import load
from querying.base.errors import UserError
from tests.benchmarks.datasets.test_datasets import masks_of, rgb, save

SIDE = 12


def tree(root, mask_of, count=10, name="{}.png", **more):
    """`count` images and masks; `mask_of(number)` gives pixels or a PIL image."""
    for number in range(count):
        save(root / "images" / f"i{number}.png", rgb(number, SIDE, SIDE))
        path = root / "masks" / name.format(f"i{number}")
        mask = mask_of(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        (mask if isinstance(mask, Image.Image) else Image.fromarray(mask)).save(path)
    return root


def classes(root, text):
    (root / "classes.txt").write_text(text)
    return root / "classes.txt"


def halves(number, left, right):
    """Left of column 3 + number % 5 one value, right of it another."""
    mask_HW = np.full((SIDE, SIDE), right, np.uint8)
    mask_HW[:, : 3 + number % 5] = left
    return mask_HW


def labels(root, text, **options):
    """Labels of every mask, in the order of the images, however the set is split."""
    options = {"size": None, "val_fraction": 0, "test_fraction": 0} | options
    index = ingest("folder", root, root.parent / "out", classes_file=classes(root, text), **options)
    return index, masks_of(index)


def test_masks_of_0_and_255_are_refused_with_the_remedy_and_taken_when_it_is_given(tmp_path):
    root = tree(tmp_path / "raw", lambda n: halves(n, 0, 255))
    with pytest.raises(
        UserError, match=r"only 'back' is in the 10 masks .*255 stands for 'not labelled'.*--map 255=cell"
    ):
        labels(root, "back\ncell\n")
    assert not (tmp_path / "out").exists()
    index, found = labels(root, "back\ncell\n", maps=["255=cell"])
    for number in range(10):
        np.testing.assert_array_equal(found[f"i{number}"], halves(number, 0, 1))
    assert index.source["map"] == ["255=cell"]


@pytest.mark.parametrize(
    ("text", "black", "white"), [("back 0 0 0\ncell 255 255 255\n", 0, 1), ("cell 255 255 255\nback 0 0 0\n", 1, 0),
                                 ("0 back\n255 cell\n", 0, 1)]
)  # fmt: skip
def test_a_class_file_that_says_what_255_is_is_believed(tmp_path, caplog, text, black, white):
    _, found = labels(tree(tmp_path / "raw", lambda n: halves(n, 0, 255)), text)
    for number in range(10):
        np.testing.assert_array_equal(found[f"i{number}"], halves(number, black, white))
    assert ("10 grey masks: " in caplog.text) == ("0 0 0" in text)  # read by their colours, which is said


def test_grey_levels_of_three_grey_classes_are_read_by_colour(tmp_path):
    levels = np.array([0, 128, 255], np.uint8)
    _, found = labels(tree(tmp_path / "raw", lambda n: levels[halves(n, n % 3, (n + 1) % 3)]),
                      "a 0 0 0\nb 128 128 128\nc 255 255 255\n")  # fmt: skip
    np.testing.assert_array_equal(found["i4"], halves(4, 1, 2))


def test_ids_with_255_as_void_stay_ids_where_a_class_is_white(tmp_path):
    root = tree(tmp_path / "raw", lambda n: halves(n, 0, 255 if n % 2 else 1))
    _, found = labels(root, "a 0 0 0\nb 255 255 255\n")
    np.testing.assert_array_equal(found["i2"], halves(2, 0, 1))
    np.testing.assert_array_equal(found["i3"], halves(3, 0, 255))


@pytest.mark.parametrize("values", ["auto", "ids", "colours"])
def test_a_one_bit_mask_that_could_mean_two_things_is_asked_for(tmp_path, values):
    root = tree(tmp_path / "raw", lambda n: Image.fromarray(halves(n, 0, 255)).convert("1"))
    text = "cell 255 255 255\nback 0 0 0\n"
    if values == "auto":
        with pytest.raises(
            UserError, match=r"value \d .*as an id it is .*, as the colour .*--values ids or --values col"
        ):
            labels(root, text)
        return
    _, found = labels(root, text, values=values)
    np.testing.assert_array_equal(found["i1"], halves(1, 0, 1) if values == "ids" else halves(1, 1, 0))


def palette_mask(number, colours):
    image = Image.fromarray(halves(number, 0, 1)).convert("P")
    image.putpalette([part for colour in colours for part in colour])
    image.putdata(halves(number, 0, 1).ravel().tolist())
    return image


def test_a_palette_that_says_other_classes_than_its_indices_is_asked_for(tmp_path):
    root = tree(tmp_path / "raw", lambda n: palette_mask(n, [(0, 255, 0), (255, 0, 0)]))
    text = "red 255 0 0\ngreen 0 255 0\n"
    with pytest.raises(UserError, match="--values ids or --values colours"):
        labels(root, text)
    _, found = labels(root, text, values="colours")
    np.testing.assert_array_equal(found["i3"], halves(3, 1, 0))


def test_a_palette_of_other_colours_is_read_by_its_indices(tmp_path):
    root = tree(tmp_path / "raw", lambda n: palette_mask(n, [(9, 9, 9), (7, 7, 7)]))
    _, found = labels(root, "red 255 0 0\ngreen 0 255 0\n")
    np.testing.assert_array_equal(found["i3"], halves(3, 0, 1))


def test_values_beyond_the_classes_are_named_with_counts_and_can_be_ignored_or_mapped(tmp_path):
    root = tree(tmp_path / "raw", lambda n: np.where(halves(n, 0, 1) & (n % 2), 11, halves(n, 0, 1)).astype("u1"))
    with pytest.raises(
        UserError, match=r"i1\.png: value 11 \(\d+ pixels\): belongs to no class \(5 masks: .*--ignore 11"
    ):
        labels(root, "sky\nroad\n")
    _, found = labels(root, "sky\nroad\n", ignore=["11"])
    np.testing.assert_array_equal(found["i1"], halves(1, 0, 255))
    root.parent.joinpath("out").rename(tmp_path / "first")
    _, found = labels(root, "sky\nroad\n", maps=["11=road"])
    np.testing.assert_array_equal(found["i1"], halves(1, 0, 1))


def test_a_class_called_void_is_asked_for_and_left_out_or_kept_as_said(tmp_path, caplog):
    root = tree(tmp_path / "raw", lambda n: halves(n, n % 2, 2))
    text = "void\nsky\nroad\n"
    with pytest.raises(UserError, match=r"is 'void' a class to learn.*--ignore void .*--ignore none"):
        labels(root, text)
    index, found = labels(root, text, ignore=["void"])
    assert index.classes == ("sky", "road")
    np.testing.assert_array_equal(found["i0"], halves(0, 255, 1))
    np.testing.assert_array_equal(found["i1"], halves(1, 0, 1))
    assert "not labelled, so neither learned nor measured: void" in caplog.text
    (tmp_path / "out").rename(tmp_path / "first")
    index, found = labels(root, text, ignore=["none"])
    assert index.classes == ("void", "sky", "road")
    np.testing.assert_array_equal(found["i0"], halves(0, 0, 2))
    with pytest.raises(UserError, match=r"out: exists and is another data set"):
        labels(root, text, ignore=["0"])


@pytest.mark.parametrize("ignore", ["void", "0", "0,0,0"])
def test_rgb_masks_with_black_as_void(tmp_path, ignore):
    colours = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)], np.uint8)
    root = tree(tmp_path / "raw", lambda n: colours[halves(n, n % 2, 2)])
    if ignore == "0,0,0":  # a colour that the class file has not
        text = "road 128 64 128\ncar 0 0 142\n"
        with pytest.raises(UserError, match=r"colour 0,0,0 \(\d+ pixels\).*--ignore 0,0,0"):
            labels(root, text)
    else:
        text = "void 0 0 0\nroad 128 64 128\ncar 0 0 142\n"
    index, found = labels(root, text, ignore=[ignore])
    assert index.classes == ("road", "car")
    np.testing.assert_array_equal(found["i2"], halves(2, 255, 1))


def test_rgb_masks_without_colours_list_what_was_found(tmp_path):
    colours = np.array([(0, 0, 0), (128, 64, 128)], np.uint8)
    root = tree(tmp_path / "raw", lambda n: colours[halves(n, 0, 1)])
    with pytest.raises(
        UserError, match=r"a colour mask \(10 masks: .*gives no colours; found: 128 64 128 \(\d+ %\), 0 0 0"
    ):
        labels(root, "road\ncar\n")


def test_a_photograph_is_no_mask(tmp_path):
    root = tree(tmp_path / "raw", lambda n: np.random.default_rng(n).integers(0, 256, (40, 40, 3), dtype="u1"), count=1)
    with pytest.raises(UserError, match=r"1\d\d\d different colours"):
        labels(root, "road 1 2 3\ncar 4 5 6\n")


def test_masks_without_any_label_and_classes_without_pixels_are_said(tmp_path, caplog):
    root = tree(tmp_path / "raw", lambda n: halves(n, *((255, 255) if n < 3 else (0, 1))))
    labels(root, "sky\nroad\ncar\n")
    assert "no pixel in any mask: car (1 of 3 classes)" in caplog.text
    assert "3 images (the mask has no labelled pixel): " in caplog.text
    root = tree(tmp_path / "void", lambda n: halves(n, 255, 255))
    with pytest.raises(UserError, match=r"no class is in the 10 masks \(100\.0% of their pixels are not labelled"):
        labels(root, "sky\nroad\n")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"ignore": ["raod"]}, r"--ignore 'raod': no class, id 0 to 255 or colour r,g,b; did you mean road\?"),
        ({"ignore": ["256"]}, "--ignore '256'"),
        ({"maps": ["255"]}, r"--map '255': expected VALUE=CLASS"),
        ({"maps": ["255=cat"]}, r"--map '255=cat': no class 'cat'"),
        ({"ignore": ["road", "car"]}, "1 classes are left when road, car are ignored"),
    ],
)
def test_a_wrong_option_is_named_with_the_nearest_class(tmp_path, option, message):
    root = tree(tmp_path / "raw", lambda n: halves(n, 0, 1), count=2)
    with pytest.raises(UserError, match=message):
        load(root, None, classes_file=classes(root, "sky\nroad\ncar\n"), **option)


def turned(path, orientation, shape=(SIDE, 16)):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(rgb(77, *shape)).save(path, exif=exif)


@pytest.mark.parametrize("exif", ["auto", "apply", "ignore"])
def test_a_photograph_that_exif_turns_by_180_degrees_is_asked_for(tmp_path, caplog, exif):
    root = tree(tmp_path / "raw", lambda n: halves(n, 0, 1))
    turned(root / "images/i4.png", 3, (SIDE, SIDE))
    options = {"size": None, "classes_file": classes(root, "a\nb\n"), "exif": exif}
    if exif == "auto":
        with pytest.raises(UserError, match=r"1 image: .*i4\.png: EXIF says to turn .*--exif apply.*--exif ignore"):
            survey("folder", root, **options)
        return
    raw, found = survey("folder", root, **options)
    (line,) = [line for line in found.said if "EXIF" in line]
    assert line.startswith("1 image: ")
    (sample,) = [s for split in raw.splits.values() for s in split if s.image_id == "i4"]
    stored = rgb(77, SIDE, SIDE)
    np.testing.assert_array_equal(sample.read()[0], stored[::-1, ::-1] if exif == "apply" else stored)
    assert raw.parameters.get("exif") == (exif if exif == "ignore" else None)


@pytest.mark.parametrize("drawn_on", ["upright", "stored"])
def test_the_masks_size_tells_on_which_side_up_it_was_drawn(tmp_path, drawn_on):
    """Orientation 6: stored 12 x 16, upright 16 x 12."""
    root = tmp_path / "raw"
    shape = (16, SIDE) if drawn_on == "upright" else (SIDE, 16)
    for number in range(10):
        save(root / f"images/i{number}.png", rgb(number, *shape))
        save(root / f"masks/i{number}.png", np.arange(shape[0] * shape[1]).reshape(shape).astype("u1") % 2)
    turned(root / "images/i4.png", 6)
    raw, found = survey("folder", root, size=None, classes_file=classes(root, "a\nb\n"))
    (sample,) = [s for split in raw.splits.values() for s in split if s.image_id == "i4"]
    image_HWC, labels_HW = sample.read()
    np.testing.assert_array_equal(
        image_HWC, np.rot90(rgb(77, SIDE, 16), -1) if drawn_on == "upright" else rgb(77, SIDE, 16)
    )
    assert labels_HW.shape == shape
    (line,) = [line for line in found.said if "EXIF" in line]
    assert ("turned upright as EXIF says" in line) == (drawn_on == "upright")


def test_what_is_reinterpreted_or_stretched_is_said_with_counts(tmp_path):
    root = tree(tmp_path / "raw", lambda n: halves(n, 0, 1))
    for number in (1, 2):
        Image.fromarray(rgb(number, SIDE, SIDE)).convert("RGBA").save(root / f"images/i{number}.png")
    save(root / "images/i3.png", rgb(3, SIDE, 2 * SIDE))
    save(root / "masks/i3.png", np.tile(halves(3, 0, 1), 2))
    call = {"classes_file": classes(root, "a\nb\n")}
    _, found = survey("folder", root, size=None, **call)
    assert "images of 2 sizes, kept as they are (--size HxW makes all one): 9 of 12x12, 1 of 12x24" in found.said
    _, found = survey("folder", root, size=(24, 24), **call)
    said = "\n".join(found.said)
    assert "2 images: " in said
    assert "with an alpha channel, which is dropped" in said
    assert "stretched: 1 of 10 images have another shape than --size 24x24, most " in said
    assert "i3.png (12x24, by 100%)" in said
