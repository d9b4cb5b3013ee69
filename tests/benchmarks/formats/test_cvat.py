import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from benchmarks.formats.answers_in import read_answers
from benchmarks.formats.cvat import _voc_colours
from benchmarks.formats.dropped import EMPTY
from benchmarks.formats.export import export
from benchmarks.formats.labels import colours, label_ids, mark
from querying.base.errors import UserError
from tests.benchmarks.formats.packages import PALETTE, SIZE, blocks, make_package

CLASSES = ("road", "car & truck", "<b>tree</b>", 'sky "x"')


def png_bytes(pixels, **more):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, more.pop("format", "png"), **more)
    return out.getvalue()


def labelmap(package, *, order=1):
    of = colours(package)
    lines = [f"{name}:{','.join(map(str, of[k]))}::" for name, k in label_ids(package).items() if name != "background"]
    lines = ["# label:color_rgb:parts:actions", *sorted(["background:0,0,0::", *lines])[::order]]
    return "\n".join(lines).encode() + b"\n"


def made(package, path, masks, names=None, **changes):
    """What CVAT exports for masks by image (254 = nothing painted); `changes` replace or (None) remove members.
    `names`: of the files in the task, by image, where they are not the usual ones."""
    table = np.zeros((256, 3), np.uint8)
    for label, colour in colours(package).items():
        table[label] = colour
    members = {"labelmap.txt": labelmap(package)}
    stems = names or {one.image_id: f"{mark(package)}-{one.file[:-4]}" for one in package.images}
    members["ImageSets/Segmentation/default.txt"] = "\n".join(stems[name] for name in masks).encode()
    for name, mask_HW in masks.items():
        members[f"SegmentationClass/{stems[name]}.png"] = png_bytes(table[mask_HW])
        painted_HW = (mask_HW != 254).astype(np.int64)
        members[f"SegmentationObject/{stems[name]}.png"] = png_bytes(_voc_colours(painted_HW))
    members |= changes
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            if data is not None:
                file.writestr(name, data)
    return path


def read(package, path, **more):
    with read_answers(package, path, **more) as answers:
        assert answers.kind == "cvat"
        return list(answers.found), answers.dropped


def test_what_is_exported_comes_back(tmp_path):
    package = make_package(tmp_path / "p")
    export(package, tmp_path / "out", "cvat")
    found, _ = read(package, tmp_path / "out" / "annotations.zip")
    assert [(one.image_id, one.annotator, one.seconds, one.updated) for one in found] == [
        ("a1", "", None, ""), ("b 3#%", "", None, "")
    ]  # fmt: skip
    for answer, shift in zip(found, (0, 1), strict=True):
        np.testing.assert_array_equal(answer.label_HW, blocks(SIZE, shift))
        np.testing.assert_array_equal(answer.painted_HW, answer.label_HW != 255)
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [one["name"] for one in labels] == [*CLASSES, "not sure"]
    images = sorted(path.name for path in (tmp_path / "out" / "images").iterdir())
    assert images == sorted(f"{mark(package)}-{one.file}" for one in package.images)
    assert sorted(path.name for path in (tmp_path / "out" / "frames").iterdir()) == images


def test_an_object_is_a_connected_part_of_a_class(tmp_path):
    mask_HW = np.full(SIZE, 255, np.uint8)
    mask_HW[0, :3], mask_HW[0, 5:8], mask_HW[4:6, 4:6] = 0, 0, 1
    package = make_package(tmp_path / "p", {"a": mask_HW})
    export(package, tmp_path / "out", "cvat")
    with zipfile.ZipFile(tmp_path / "out" / "annotations.zip") as file:
        name = next(name for name in file.namelist() if name.startswith("SegmentationObject/"))
        objects = np.array(Image.open(io.BytesIO(file.read(name))))
    assert [tuple(objects[place].tolist()) for place in ((0, 0), (0, 5), (4, 4), (0, 4))] == [
        (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 0)
    ]  # fmt: skip


def test_of_more_parts_than_there_are_colours_the_smallest_share_one_of_their_class(tmp_path):
    """datumaro 0.5.0, which CVAT's reader is like: "Undeclared color (0, 0, 16)" for the 256th object."""
    known = {tuple(colour) for colour in _voc_colours(np.arange(256)[None])[0].tolist()}
    mask_HW = np.full((40, 60), 255, np.uint8)
    mask_HW[::2, ::2] = np.arange(600).reshape(20, 30) % 3
    mask_HW[:3, :3], mask_HW[37:, 57:] = 0, 1
    package = make_package(tmp_path / "p", {"a": mask_HW}, size=(40, 60))
    export(package, tmp_path / "out", "cvat")
    with zipfile.ZipFile(tmp_path / "out" / "annotations.zip") as file:
        name = next(name for name in file.namelist() if name.startswith("SegmentationObject/"))
        objects = np.array(Image.open(io.BytesIO(file.read(name))))
    of = {}
    for colour, label in zip(map(tuple, objects.reshape(-1, 3).tolist()), mask_HW.ravel().tolist(), strict=True):
        of.setdefault(colour, set()).add(label)
    assert set(of) <= known
    assert len(of) > 250
    assert all(len(labels) == 1 for labels in of.values())
    assert of[0, 0, 0] == {255}
    for corner in (objects[0, 0], objects[39, 59]):  # the largest parts are objects of their own
        here_HW = (objects == corner).all(axis=2)
        assert here_HW.sum() >= 9
        assert ndimage.label(here_HW, np.ones((3, 3)))[1] == 1
    found, _ = read(package, tmp_path / "out" / "annotations.zip")
    np.testing.assert_array_equal(found[0].label_HW, mask_HW)


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, SIZE, elements=st.sampled_from([0, 1, 2, 3, 254, 255])), st.sampled_from([1, -1]))
def test_any_mask_comes_back_whatever_the_order_of_the_label_map(tmp_path_factory, wanted_HW, order):
    root = tmp_path_factory.mktemp("cvat")
    package = make_package(root)
    path = made(package, root / "x.zip", {"c/ü": wanted_HW}, **{"labelmap.txt": labelmap(package, order=order)})
    found, dropped = read(package, path)
    if (wanted_HW == 254).all():
        assert (found, dropped[EMPTY]) == ([], 1)
    else:
        np.testing.assert_array_equal(found[0].painted_HW, wanted_HW != 254)
        np.testing.assert_array_equal(found[0].label_HW, np.where(wanted_HW == 254, 255, wanted_HW))


def test_the_same_file_again_has_the_same_ids_and_another_answer_another(tmp_path):
    package = make_package(tmp_path / "p")
    masks = [{"a1": blocks(), "c/ü": blocks()}, {"c/ü": blocks()}, {"c/ü": blocks(SIZE, 1)}]
    ids = [
        {one.image_id: one.unique_id for one in read(package, made(package, tmp_path / f"{n}.zip", of))[0]}
        for n, of in enumerate(masks)
    ]
    assert ids[0]["c/ü"] == ids[1]["c/ü"] != ids[2]["c/ü"]
    assert ids[0]["a1"] != ids[0]["c/ü"]


def test_palette_masks_whose_indices_follow_the_label_map_are_read_alike_and_others_refused(tmp_path):
    package = make_package(tmp_path / "p")
    lines = [line.split(":") for line in labelmap(package).decode().splitlines()[1:]]
    own = [tuple(map(int, colour.split(","))) for _, colour, *_ in lines]
    label_HW = blocks()
    table = np.array([own.index(colour) for colour in (*PALETTE, (0, 0, 0))], np.uint8)
    image = Image.fromarray(table[np.minimum(label_HW, 4)]).convert("P")
    name = f"SegmentationClass/{mark(package)}-a1.png"
    for palette, good in ((own, True), (own[::-1], False), ([(9, 9, 9)] * 6, False)):
        image.putpalette(np.array(palette, np.uint8).tobytes())
        out = io.BytesIO()
        image.save(out, "png")
        masks = {"a1": np.where(label_HW == 255, 254, label_HW).astype(np.uint8)}
        path = made(package, tmp_path / "x.zip", masks, **{name: out.getvalue()})
        if good:
            np.testing.assert_array_equal(read(package, path)[0][0].label_HW, label_HW)
        else:
            with pytest.raises(UserError, match=r"its palette's index \d is not the colour of the label map's line"):
                read(package, path)


def test_background_as_a_class_needs_a_word_on_what_black_is(tmp_path):
    package = make_package(tmp_path / "p", classes=("background", "car"), palette=((0, 0, 0), (9, 9, 9)))
    mask_HW = np.full(SIZE, 254, np.uint8)
    mask_HW[:3] = 1
    path = made(package, tmp_path / "x.zip", {"a1": mask_HW})
    with pytest.raises(UserError, match=r"--blank background .*--blank void"):
        read(package, path)
    [answer], _ = read(package, path, blank="background")
    assert answer.painted_HW.all()
    assert answer.label_HW[:, 0].tolist() == [1] * 3 + [0] * 9
    [answer], _ = read(package, path, blank="void")
    assert answer.painted_HW[:, 0].tolist() == [True] * 3 + [False] * 9
    export(package, tmp_path / "out", "cvat")  # its own black is no obstacle


@pytest.mark.parametrize(("names", "palette", "message"), [
    (("road: wet", "car"), ((1, 1, 1), (2, 2, 2)), r"class 'road: wet': .*can not hold ':'"),
    (("#1", "car"), ((1, 1, 1), (2, 2, 2)), "class '#1': "),
    ((" road", "car"), ((1, 1, 1), (2, 2, 2)), "class ' road': .*spaces"),
    (("road", "car"), ((1, 1, 1), (0, 0, 0)), "class 'car': is black, which is CVAT's background"),
    (("road", "car"), ((1, 1, 1), (1, 1, 1)), "class 'car': is of the colour of 'road': 1,1,1"),
])  # fmt: skip
def test_classes_that_the_format_can_not_tell_apart_are_refused_and_nothing_is_written(
    tmp_path, names, palette, message
):
    package = make_package(tmp_path / "p", {"a": None, "b": None}, classes=names, palette=palette)
    with pytest.raises(UserError, match=message):
        export(package, tmp_path / "out", "cvat")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p"]


GREY = png_bytes(np.zeros(SIZE, np.uint8))
BLACK, SMALL = png_bytes(np.zeros((*SIZE, 3), np.uint8)), png_bytes(np.zeros((8, 8, 3), np.uint8))
STRANGE_HWC = np.zeros((*SIZE, 3), np.uint8)
STRANGE_HWC[2, 5] = 1, 2, 3
LINES = {
    "no background": ("road:128,64,128::\n", "has no line background:0,0,0::"),
    "empty": ("", "has no line background"),
    "colon in a name": ("background:0,0,0::\nroad: wet:1,2,3::\n", r"line 2: 'road: wet:1,2,3::' is not name:r,g,b"),
    "no colour": ("background:0,0,0::\nroad:::\n", "line 2: 'road:::' is not name"),
    "colour of 256": ("background:0,0,0::\nroad:256,0,0::\n", "line 2: .* is not name"),
    "black class": ("background:0,0,0::\nroad:0,0,0::\n", "line 2: .*black and 'background' belong together"),
    "coloured background": ("background:1,0,0::\n", "line 1: .*belong together"),
    "one colour twice": ("background:0,0,0::\nroad:1,1,1::\ncar & truck:1,1,1::\n", "line 3: .* of 'road', too"),
    "one name twice": ("background:0,0,0::\nroad:1,1,1::\nroad:1,1,2::\n", "line 3: .* of 'road', too"),
    "unknown name": ("background:0,0,0::\nRoad:1,1,1::\n", "line 2: label 'Road' .*did you mean 'road'"),
    "10^4 lines": ("background:0,0,0::\n" * 10_000, "10000 lines, more than 400"),
    "1 MB": ("#" + " ".join(map(str, range(200_000))), "more than 1048576 bytes"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_label_map_that_is_not_right_is_refused_by_its_line(tmp_path, name):
    text, message = LINES[name]
    package = make_package(tmp_path / "p")
    path = made(package, tmp_path / "x.zip", {"a1": blocks()}, **{"labelmap.txt": text.encode()})
    with pytest.raises(UserError, match=message) as raised:
        read(package, path)
    assert str(raised.value).startswith(f"{path}/labelmap.txt: ")


def members(package):
    one, two = (f"{folder}/{mark(package)}-a1.png" for folder in ("SegmentationClass", "SegmentationObject"))
    return {
        "undeclared colour": ({one: png_bytes(STRANGE_HWC)}, "1 pixels, the first at x 5, y 2, have the colour 1,2,3"),
        "object is black": ({two: BLACK}, "no object there: .*does not begin with background"),
        "class is black": ({one: BLACK}, "has an object there"),
        "no object": ({two: None}, "SegmentationObject/.*a1.png: is missing"),
        "no class": ({one: None}, "SegmentationClass/.*a1.png: is missing"),
        "another size": ({one: SMALL}, "8 x 8 pixels, but the image 'a1' is 16 x 12: use the images"),
        "grey": ({one: GREY}, "is not an RGB or palette PNG of 8 bits"),
        "alpha": ({one: png_bytes(np.zeros((*SIZE, 4), np.uint8))}, "is not an RGB or palette PNG"),
        "JPEG": ({one: png_bytes(np.zeros((*SIZE, 3), np.uint8), format="jpeg")}, "is not an RGB or palette PNG"),
        "no image": ({one: b"hello"}, "neither a PNG nor"),
        "cut": ({one: BLACK[:-30]}, "damaged or not an image"),
        "large": ({one: BLACK + bytes(200_000)}, "more than 67072 bytes"),
        "not asked for": ({"Annotations/a.xml": b""}, r"Annotations/a\.xml: is not asked for"),
        "with images": ({"JPEGImages/a.jpg": b""}, "'Save images' off"),
        "another image": ({"SegmentationClass/zz.png": BLACK}, "zz.png: is no image of this package"),
        "another query": ({"SegmentationClass/0123abcd-a1.png": BLACK}, "is of another query .*older cycle"),
        "two masks": (
            {"SegmentationClass/a1.png": BLACK, "SegmentationObject/a1.png": BLACK}, "the image 'a1' has two masks"
        ),
    }  # fmt: skip


NAMES = ["undeclared colour", "object is black", "class is black", "no object", "no class", "another size", "grey",
         "alpha", "JPEG", "no image", "cut", "large", "not asked for", "with images", "another image", "another query",
         "two masks"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_that_is_not_right_is_refused_by_its_member(tmp_path, name):
    package = make_package(tmp_path / "p")
    assert set(members(package)) == set(NAMES)
    changes, message = members(package)[name]
    mask_HW = blocks()
    path = made(package, tmp_path / "x.zip", {"a1": mask_HW}, **changes)
    with pytest.raises(UserError, match=message) as raised:
        read(package, path)
    assert str(raised.value).startswith(f"{path}/")


def test_names_without_the_mark_are_taken_and_folders_of_lists_passed_over(tmp_path):
    package = make_package(tmp_path / "p")
    table = np.array([*PALETTE], np.uint8)
    changes = {
        "SegmentationClass/a1.png": png_bytes(table[np.minimum(blocks(), 3)]),
        "SegmentationObject/a1.png": png_bytes(np.full((*SIZE, 3), 128, np.uint8)),
        "ImageSets/Segmentation/Train.txt": b"a1\n",
    }
    [answer], _ = read(package, made(package, tmp_path / "x.zip", {}, **changes))
    np.testing.assert_array_equal(answer.label_HW, np.minimum(blocks(), 3))
