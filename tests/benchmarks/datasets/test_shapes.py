"""Masks that are shapes in text files: what they draw, and what is refused."""

import base64
import copy
import io
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from benchmarks.datasets.ingest import ingest
from benchmarks.datasets.shapes import coco, labelme, yolo
from querying.base.errors import UserError
from querying.dataset.shards import read_truth

SIZE = 24, 32
WRITTEN = Path(__file__).parents[2] / "fixtures" / "labelme"
SQUARE = [[4, 5], [20, 5], [20, 15], [4, 15]]


def label_of(what, where):
    names = {"road": 0, "car": 1, 0: 0, 1: 1}
    if what not in names:
        raise UserError(f"{where}: no class {what}")
    return names[what]


def polygon(points, size=SIZE):
    image = Image.new("L", size[::-1])
    ImageDraw.Draw(image).polygon([tuple(map(float, point)) for point in points], fill=1, outline=1)
    return np.array(image, bool)


# LabelMe.


def labelme_file(path, *shapes, size=SIZE):
    path.write_text(json.dumps({"version": "5.0", "shapes": shapes, "imageHeight": size[0], "imageWidth": size[1]}))
    return path


def shape(label, points, kind="polygon", **more):
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}, **more}


def test_labelme_draws_polygons_rectangles_circles_and_masks_one_over_the_other(tmp_path):
    part_HW = np.array([[1, 0], [0, 1]], np.uint8) * 255
    out = io.BytesIO()
    Image.fromarray(part_HW > 0).save(out, "png")
    mask = base64.b64encode(out.getvalue()).decode()
    path = labelme_file(
        tmp_path / "a.json",
        shape("road", SQUARE),
        shape("car", [[22, 10], [10, 2]], "rectangle"),
        shape("road", [[26, 18], [28, 18]], "circle"),
        shape("car", [[0, 20], [1, 21]], "mask", mask=mask),
    )
    expected_HW = np.full(SIZE, 255, np.uint8)
    expected_HW[polygon(SQUARE)] = 0
    expected_HW[2:11, 10:23] = 1
    label_HW = labelme.draw(path, SIZE, label_of, 255)
    assert label_HW[18, 26] == label_HW[18, 28] == label_HW[16, 26] == 0
    assert label_HW[18, 29] == label_HW[15, 26] == 255
    assert [label_HW[20, 0], label_HW[21, 1], label_HW[20, 1], label_HW[21, 0]] == [1, 1, 255, 255]
    label_HW[14:, 22:], label_HW[20:, :3] = 255, 255
    np.testing.assert_array_equal(label_HW, expected_HW)
    assert set(labelme.draw(path, SIZE, label_of, 1).ravel()) == {0, 1}


LABELME = {
    "no shapes": ({"shapes": None}, "has no list of shapes"),
    "another size": ({"imageHeight": 25}, "was drawn on 32 x 25 pixels, but the image is 32 x 24"),
    "no size": ({"imageWidth": None}, "was drawn on None x 24"),
    "shape of another kind": ({"shapes": [7]}, "shape 0: is no mapping"),
    "no class": ({"shapes": [shape("tree", SQUARE)]}, "shape 0: no class tree"),
    "line": ({"shapes": [shape("road", SQUARE, "linestrip")]}, "shape 0: is of kind 'linestrip', which has no area"),
    "two points": ({"shapes": [shape("road", SQUARE[:2])]}, "shape 0: 2 points, where 3 to 100000"),
    "one point of a circle": ({"shapes": [shape("road", SQUARE[:1], "circle")]}, "shape 0: 1 points"),
    "texts": ({"shapes": [shape("road", [["a", 1]] * 3)]}, "shape 0: a point is"),
    "far away": ({"shapes": [shape("road", [[1e300, 1]] * 3)]}, "shape 0: a point is"),
    "mask without bytes": ({"shapes": [shape("road", SQUARE[:2], "mask")]}, "shape 0: has no mask in base64"),
    "mask of no base64": ({"shapes": [shape("road", SQUARE[:2], "mask", mask="!")]}, "its mask is not base64"),
    "mask of no image": ({"shapes": [shape("road", SQUARE[:2], "mask", mask="QUJD")]}, "shape 0: .*neither a PNG"),
}


@pytest.mark.parametrize("name", LABELME)
def test_what_is_wrong_in_a_file_of_labelme_is_named(tmp_path, name):
    change, message = LABELME[name]
    path = labelme_file(tmp_path / "a.json", shape("road", SQUARE))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UserError, match=message) as raised:
        labelme.draw(path, SIZE, label_of, 255)
    assert str(raised.value).startswith(f"{path}: ")


@pytest.mark.parametrize(("text", "message"), [
    (b"[1]", "is no mapping"), (b"{", "is not valid JSON"), (b'{"a": 1, "a": 2}', "the key 'a' is there twice"),
    (b'{"a": NaN}', "NaN is not a finite number"), (b"\xff\xfe", "is not UTF-8"), (b"[" * 10**6, "is not valid JSON"),
])  # fmt: skip
def test_a_text_that_is_no_json_is_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(UserError, match=rf"a\.json: (is not valid JSON: )?{message}"):
        labelme.draw(tmp_path / "a.json", SIZE, label_of, 255)


# YOLO.


def test_yolo_draws_polygons_of_parts_of_the_side(tmp_path):
    parts = " ".join(f"{x / SIZE[1]} {y / SIZE[0]}" for x, y in SQUARE)
    (tmp_path / "a.txt").write_text(f"0 {parts}\n\n1 0.5 0.5 1 0.5 1 1\n")
    expected_HW = np.full(SIZE, 255, np.uint8)
    expected_HW[polygon(SQUARE)] = 0
    expected_HW[polygon([[16, 12], [32, 12], [32, 24]])] = 1
    np.testing.assert_array_equal(yolo.draw(tmp_path / "a.txt", SIZE, label_of, 255), expected_HW)
    (tmp_path / "a.txt").write_text("")
    assert set(yolo.draw(tmp_path / "a.txt", SIZE, label_of, 1).ravel()) == {1}


@pytest.mark.parametrize(("line", "message"), [
    ("0 0.5 0.5 0.2 0.2", "a box .*is no mask"), ("0 0 0 1 1", "a box"), ("0 0 0 1 0", "a box"),
    ("0 0 0 1 1 0", "6 numbers, where a class and"), ("0 0 0 1 1 0 1 0", "8 numbers"), ("x 0 0 1 0 1 1", "'x' is no"),
    ("-1 0 0 1 0 1 1", "'-1' is no number"), ("7 0 0 1 0 1 1", "no class 7"),
    ("0 0 0 1 0 1 nan", "'nan', where a part"),
    ("0 0 0 1 0 1 31", "'31', where a part"), ("0 0 0 1 0 1 1e999", "'1e999', where"), ("0 0 0 1 0 1 a", "'a', where"),
])  # fmt: skip
def test_what_is_wrong_in_a_line_of_yolo_is_named(tmp_path, line, message):
    (tmp_path / "a.txt").write_text(f"0 0 0 1 0 1 1\n{line}\n")
    with pytest.raises(UserError, match=rf"a\.txt: line 2: .*{message}|a\.txt: line 2: {message}"):
        yolo.draw(tmp_path / "a.txt", SIZE, label_of, 255)


# COCO.


def coco_file(path, *annotations):
    images = [{"id": 5, "file_name": "in/a.jpg", "height": SIZE[0], "width": SIZE[1]}]
    categories = [{"id": 1, "name": "road"}, {"id": 9, "name": "car"}]
    data = {"info": {}, "images": images, "annotations": list(annotations), "categories": categories}
    path.write_text(json.dumps(data))
    return path


def annotated(segmentation, category=1, number=3):
    return {"id": number, "image_id": 5, "category_id": category, "segmentation": segmentation, "iscrowd": 0}


@settings(max_examples=100, deadline=None)
@given(arrays(bool, SIZE), st.booleans())
def test_coco_run_lengths_are_read_as_its_own_tool_reads_them(tmp_path_factory, mask_HW, packed):
    tool = pytest.importorskip("pycocotools.mask")
    flat = mask_HW.T.ravel()
    ends = np.flatnonzero(np.diff(np.concatenate(([False], flat, [not flat[-1]]))))
    counts = np.diff(np.concatenate(([0], ends))).tolist()
    rle = {"size": [*SIZE], "counts": counts}
    if packed:
        rle = {**rle, "counts": tool.encode(np.asfortranarray(mask_HW.astype(np.uint8)))["counts"].decode()}
    path = coco_file(tmp_path_factory.mktemp("coco") / "c.json", annotated(rle, 9))
    label_HW = coco.read(path).draw("in/a", SIZE, label_of, 255)
    np.testing.assert_array_equal(label_HW, np.where(mask_HW, 1, 255))


def test_coco_polygons_are_those_of_its_own_tool_and_the_later_annotation_wins(tmp_path):
    tool = pytest.importorskip("pycocotools.mask")
    parts = [[4.2, 5.1, 20.7, 5, 20, 15.9, 4, 15], [25, 1, 30, 1, 30, 9]]
    path = coco_file(tmp_path / "c.json", annotated(parts), annotated([[10, 2, 22, 2, 22, 10, 10, 10]], 9, 4))
    expected_HW = np.full(SIZE, 255, np.uint8)
    expected_HW[decoded(tool, parts)] = 0
    expected_HW[decoded(tool, [[10, 2, 22, 2, 22, 10, 10, 10]])] = 1
    np.testing.assert_array_equal(coco.read(path).draw("in/a", SIZE, label_of, 255), expected_HW)


def decoded(tool, polygons):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its use of NumPy
        return tool.decode(tool.merge(tool.frPyObjects(polygons, *SIZE))) > 0


RLE = {"size": [*SIZE], "counts": [0, SIZE[0] * SIZE[1]]}
SEGMENTATIONS = {
    "none": (None, "annotation 3: has no segmentation"),
    "empty": ([], "annotation 3: has no segmentation"),
    "two points": ([[1, 2, 3, 4]], "a polygon is no list x, y"),
    "odd": ([[1, 2, 3, 4, 5, 6, 7]], "a polygon is no list x, y"),
    "texts": ([["1", 2, 3, 4, 5, 6]], "a polygon is no list x, y"),
    "far away": ([[1e300, 2, 3, 4, 5, 6]], "a polygon is no list x, y"),
    "another size": ({**RLE, "size": [10**6, 10**6]}, r"its run lengths are for \[1000000, 1000000\]"),
    "no size": ({"counts": [1]}, "its run lengths are for None"),
    "too few": ({**RLE, "counts": [0, 5]}, "its counts do not add up"),
    "too many": ({**RLE, "counts": [0, 2**40]}, "its counts do not add up"),
    "negative": ({**RLE, "counts": [-1, 769]}, "its counts do not add up"),
    "floats": ({**RLE, "counts": [0.0, 768.0]}, "its counts are no list of whole numbers"),
    "zzzzzzzz": ({**RLE, "counts": "zzzzzzzz"}, "its counts are damaged"),
    "cut": ({**RLE, "counts": "P"}, "its counts are cut off"),
    "long": ({**RLE, "counts": "0" * 10_000}, "its counts have 10000 characters"),
    "strange": ({**RLE, "counts": "\u20ac"}, "its counts are damaged at"),
    "mapping": ({**RLE, "counts": {}}, "its counts are no list"),
}


@pytest.mark.parametrize("name", SEGMENTATIONS)
def test_what_is_wrong_in_a_segmentation_of_coco_is_named_before_it_is_decoded(tmp_path, name):
    segmentation, message = SEGMENTATIONS[name]
    path = coco_file(tmp_path / "c.json", annotated(segmentation))
    with pytest.raises(UserError, match=message) as raised:
        coco.read(path).draw("in/a", SIZE, label_of, 255)
    assert str(raised.value).startswith(f"{path}: annotation 3: ")


FILES = {
    "no images": (lambda d: d.pop("images"), "has no list of images"),
    "images of texts": (lambda d: d.update(images=["a"]), "has no list of images"),
    "image twice": (lambda d: d["images"].append(d["images"][0]), r"image 5 \(in/a\) is there twice"),
    "image without a name": (lambda d: d["images"][0].pop("file_name"), "has no number or no file_name"),
    "category twice": (lambda d: d["categories"].append({"id": 1, "name": "x"}), "category .*that of another"),
    "another image": (lambda d: d["annotations"][0].update(image_id=7), "annotation 0: image_id 7 is no image's"),
    "another category": (lambda d: d["annotations"][0].update(category_id=[1]), r"category_id \[1\] is none"),
    "another size": (lambda d: d["images"][0].update(width=9), "was drawn on 9 x 24 pixels"),
}


@pytest.mark.parametrize("name", FILES)
def test_what_is_wrong_in_a_file_of_coco_is_named(tmp_path, name):
    change, message = FILES[name]
    path = coco_file(tmp_path / "c.json", annotated(RLE))
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message):
        coco.read(path).draw("in/a", SIZE, label_of, 255)


# As a data set.


def photographs(root, count=10):
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(root / "images" / f"i{number}.png")
    (root / "classes.txt").write_text("road\ncar\n")
    return {"classes_file": root / "classes.txt"}


def truth(index):
    """Labels by image, None where there is no mask."""
    return {
        name: label for shards in index.splits.values() for one in shards for name, label in read_truth(index.root, one)
    }


def polygons(root, kind):
    for number in range(10):
        if kind == "yolo":
            (root / "labels").mkdir(exist_ok=True)
            parts = " ".join(f"{x / SIZE[1]} {y / SIZE[0]}" for x, y in SQUARE)
            (root / "labels" / f"i{number}.txt").write_text(f"{number % 2} {parts}\n")
        else:
            labelme_file(root / "images" / f"i{number}.json", shape(("road", "car")[number % 2], SQUARE))


@pytest.mark.parametrize(("kind", "where"), [("yolo", "labels"), ("labelme", "images")])
def test_a_folder_with_shapes_is_a_data_set(tmp_path, kind, where):
    options = photographs(tmp_path / "src")
    polygons(tmp_path / "src", kind)
    index = ingest("folder", tmp_path / "src", tmp_path / "out", size=None, shapes=where, **options)
    found = truth(index)
    assert len(found) == 10
    for name, label_HW in found.items():
        np.testing.assert_array_equal(label_HW, np.where(polygon(SQUARE), int(name[1:]) % 2, 255))


def test_what_labelme_6_3_1_itself_has_written_is_read_as_it_draws_it(tmp_path):
    """Files of its own `LabelFile.save`, and what its own `shapes_to_label` draws of them: fixtures/labelme."""
    options, names = photographs(tmp_path / "src"), ("shapes", "with-image")
    for number in range(10):
        shutil.copy(WRITTEN / f"{names[number % 2]}.json", tmp_path / "src" / "images" / f"i{number}.json")
    index = ingest("folder", tmp_path / "src", tmp_path / "out", size=None, shapes="images", **options)
    drawn = [np.asarray(Image.open(WRITTEN / f"{name}-label.png")) for name in names]
    assert [np.unique(label_HW).tolist() for label_HW in drawn] == [[0, 1, 255], [1, 255]]
    found = truth(index)
    assert len(found) == 10
    for name, label_HW in found.items():
        np.testing.assert_array_equal(label_HW, drawn[int(name[1:]) % 2])


def test_background_is_a_class_where_the_class_file_has_it_and_a_coco_file_may_leave_images_out(tmp_path):
    options = photographs(tmp_path / "src")
    (tmp_path / "src" / "classes.txt").write_text("background\nroad\n")
    images = [{"id": n, "file_name": f"i{n}.png", "height": SIZE[0], "width": SIZE[1]} for n in range(8)]
    rle = {"size": [*SIZE], "counts": [10, 20, SIZE[0] * SIZE[1] - 30]}
    shapes = [{"id": n, "image_id": n, "category_id": 1, "segmentation": rle} for n in range(8)]
    data = {"images": images, "annotations": shapes, "categories": [{"id": 1, "name": "road"}]}
    (tmp_path / "src" / "c.json").write_text(json.dumps(data))
    index = ingest("folder", tmp_path / "src", tmp_path / "out", size=None, shapes="c.json", **options)
    found = truth(index)
    labelled = {name: label_HW for name, label_HW in found.items() if label_HW is not None}
    assert sorted(labelled) == [f"i{n}" for n in range(8)]
    for label_HW in labelled.values():
        assert np.flatnonzero(label_HW.T.ravel()).tolist() == list(range(10, 30))


def test_shapes_that_do_not_fit_the_images_or_the_classes_are_refused(tmp_path):
    options = photographs(tmp_path / "src")
    src = tmp_path / "src"
    take = dict(size=None, **options)
    with pytest.raises(UserError, match=r"--shapes labels: .*no such file or folder"):
        ingest("folder", src, tmp_path / "out", shapes="labels", **take)
    polygons(src, "yolo")
    (src / "labels" / "zz.txt").write_text("")
    with pytest.raises(UserError, match=r"shapes without an image: 1 image: zz"):
        ingest("folder", src, tmp_path / "out", shapes="labels", **take)
    (src / "labels" / "zz.txt").unlink()
    (src / "labels" / "i3.json").write_text("{}")
    with pytest.raises(UserError, match=r"has both .json and .txt files"):
        ingest("folder", src, tmp_path / "out", shapes="labels", **take)
    (src / "labels" / "i3.json").unlink()
    (src / "labels" / "i3.txt").write_text("5 0 0 1 0 1 1\n")
    with pytest.raises(UserError, match=r"i3\.txt: line 1: '5' is no class; classes of classes\.txt: road, car"):
        ingest("folder", src, tmp_path / "out", shapes="labels", **take)
    with pytest.raises(UserError, match=r"i0\.png|no mask of any image"):
        ingest("folder", src, tmp_path / "out", **take)
    assert not (tmp_path / "out").exists()


def test_reading_changes_nothing(tmp_path):
    path = coco_file(tmp_path / "c.json", annotated(copy.deepcopy(RLE)))
    before = path.read_bytes()
    coco.read(path).draw("in/a", SIZE, label_of, 255)
    assert path.read_bytes() == before
