"""A package whose images have three sizes, out and in through every format."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from benchmarks.formats.answers_in import read_answers
from benchmarks.formats.canvas import polygon
from benchmarks.formats.export import export
from benchmarks.formats.pictures import MAGENTA
from orchestrator.annotation.answers import cells_of
from orchestrator.annotation.package import read_note
from querying.base.errors import UserError
from querying.base.files import read_json, write_json
from querying.dataset.codecs import decode_label
from querying.labels.regions import RegionGrid
from tests.benchmarks.formats.packages import CLASSES, annotation, blocks, brush, make_package, task, written
from tests.benchmarks.formats.painted import ANSWER
from tests.benchmarks.formats.test_cvat import made
from tests.benchmarks.formats.test_labelstudio import url

SIZES = {"wide": (12, 16), "b 3#%": (16, 12), "c/\u00fc": (9, 11)}
"""None is the largest in both; regions of 5 pixels divide none."""
LARGEST = 16, 16


def three(root, *, whole=False, pre=True, classes=("road", "car", "tree", "sky")):
    of = {name: blocks(size) if pre else None for name, size in SIZES.items()}
    return make_package(root, of, sizes=[*SIZES.values()], whole=whole, classes=classes)


def taken(package, path, **more):
    with read_answers(package, path, **more) as answers:
        return {one.image_id: one for one in answers.found}


def mask_of(size):
    return arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, 3, 255]))


def test_each_image_that_has_another_size_than_the_largest_says_it_and_no_other(tmp_path):
    package = three(tmp_path / "three")
    assert {one.image_id: one.size for one in package.images} == SIZES
    note = read_json(package.root / "package.json")
    assert (note["format"], note["height"], note["width"]) == (2, *LARGEST)
    grid = RegionGrid(*LARGEST, 5)
    for one in package.images:
        assert [box[0] for box in one.boxes] == [0, int(grid.on(one.size).cells()[-1])]
        assert one.boxes[1][3:] == one.size, "the last cell ends where the image does"
        assert np.array(Image.open(package.image(one))).shape == (*one.size, 3)
    one_size = read_json(make_package(tmp_path / "one").root / "package.json")
    assert one_size["format"] == 1
    assert {*one_size["images"][0]} == {"image_id", "file", "sha256", "boxes", "rank", "uncertainty"}


def test_a_package_as_earlier_versions_wrote_it_has_one_size(tmp_path):
    package = make_package(tmp_path)
    assert {one.size for one in package.images} == {(12, 16)}
    note = read_json(tmp_path / "package.json")
    note["images"][0] |= {"height": 9, "width": 11}
    write_json(tmp_path / "package.json", note | {"format": 2})
    assert [one.size for one in read_note(tmp_path).images] == [(9, 11), (12, 16), (12, 16)]


@pytest.mark.parametrize("pre", [False, True])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("format_", ANSWER)
@given(st.tuples(*map(mask_of, SIZES.values())))
@settings(max_examples=8, deadline=None)
def test_what_is_painted_comes_back_and_its_cells_are_those_of_the_truth(tmp_path_factory, format_, whole, pre, wanted):
    root = tmp_path_factory.mktemp("sizes")
    package = three(root / "p", whole=whole, pre=pre)
    masks = dict(zip(SIZES, wanted, strict=True))
    export(package, root / "out", format_)
    file = ANSWER[format_](package, root / "out", masks, 1)
    with read_answers(package, file) as answers:
        rows = list(cells_of(package, answers.found, "ask", "anna", file))
    asked = {(one.image_id, box[0]): (one, box[1:]) for one in package.images for box in one.boxes}
    assert {row.cell for row in rows} == set(asked)
    for row in rows:
        _, (top, left, bottom, right) = asked[row.cell]
        assert (row.state, row.pixels, row.blank) == ("answered", (bottom - top) * (right - left), 0)
        np.testing.assert_array_equal(decode_label(row.label), masks[row.image_id][top:bottom, left:right])


@pytest.mark.parametrize("format_", ["brush", "bitmask", "cvat", "folder"])
def test_what_is_exported_and_left_as_it_is_comes_back(tmp_path, format_):
    package = three(tmp_path / "p", classes=CLASSES)
    tag = {"tag": format_} if format_ in ("brush", "bitmask") else {}
    export(package, tmp_path / "out", "labelstudio" if tag else format_, **tag)
    if tag:
        [tasks] = (tmp_path / "out").rglob("tasks.json")
        done = [
            {**one, "id": place, "annotations": [annotation(one["predictions"][0]["result"], place)], "drafts": []}
            for place, one in enumerate(json.loads(tasks.read_text()))
        ]
        path = written(tmp_path / "x.json", done)
    elif format_ == "cvat":
        path = tmp_path / "out" / "annotations.zip"
    else:
        path = tmp_path / "out"
        for pre in (path / "pre").iterdir():
            shutil.copy(pre, path / "masks")
    found = taken(package, path)
    assert set(found) == set(SIZES)
    for image_id, answer in found.items():
        np.testing.assert_array_equal(answer.label_HW, blocks(SIZES[image_id]))
        np.testing.assert_array_equal(answer.painted_HW, answer.label_HW != 255)


def test_frames_are_where_the_cells_are(tmp_path):
    package = three(tmp_path / "p")
    export(package, tmp_path / "ls", "labelstudio")
    [path] = (tmp_path / "ls").rglob("tasks.json")
    for one, shown in zip(package.images, json.loads(path.read_text()), strict=True):
        frames = [made for made in shown["predictions"][0]["result"] if made["type"] == "rectanglelabels"]
        for box, frame in zip(one.boxes, frames, strict=True):
            height, width = frame["original_height"], frame["original_width"]
            assert (height, width) == one.size
            x, y, across, down = (frame["value"][key] / 100 for key in ("x", "y", "width", "height"))
            corners = y * height, x * width, (y + down) * height, (x + across) * width
            assert corners == pytest.approx(box[1:])
    for format_ in ("cvat", "folder"):
        export(package, tmp_path / format_, format_)
        for one in package.images:
            [path] = (tmp_path / format_ / "frames").glob(f"*{one.file}")
            framed, plain = np.array(Image.open(path)), np.array(Image.open(package.image(one)))
            assert framed.shape == plain.shape == (*one.size, 3)
            inside, edge = np.zeros(one.size, bool), np.zeros(one.size, bool)
            for _, top, left, bottom, right in one.boxes:
                edge[top:bottom, left:right] = True
                inside[top + 1 : bottom - 1, left + 1 : right - 1] = True
            edge &= ~inside
            assert (framed[edge] == MAGENTA).all()
            np.testing.assert_array_equal(framed[~edge], plain[~edge])


def test_a_polygon_is_in_percent_of_its_own_image(tmp_path):
    package = three(tmp_path / "p")
    points = [[10, 10], [90, 10], [90, 80], [10, 80]]
    value = {"points": points, "closed": True, "polygonlabels": ["road"]}
    tasks = []
    for number, (image_id, size) in enumerate(SIZES.items()):
        one = {**brush(package, "road", np.zeros(size, bool)), "type": "polygonlabels", "value": value}
        tasks.append(task(package, image_id, annotation([one], number), number=number))
    found = taken(package, written(tmp_path / "x.json", tasks))
    for image_id, (height, width) in SIZES.items():
        wanted_HW = polygon([(x * width / 100, y * height / 100) for x, y in points], height, width)
        np.testing.assert_array_equal(found[image_id].painted_HW, wanted_HW)
        assert wanted_HW.any()


def in_label_studio(package, image_id, size, root):
    return written(
        root / "x.json", [task(package, image_id, annotation([brush(package, "road", np.ones(size, bool))]))]
    )


def in_label_studio_as_bitmask(package, image_id, size, root):
    """The file says the right size, its picture has another."""
    rgba = np.full((*size, 4), 255, np.uint8)
    one = brush(package, "road", np.ones(SIZES[image_id], bool))
    one["type"], one["value"] = "bitmasklabels", {"imageDataURL": url(rgba), "bitmasklabels": ["road"]}
    return written(root / "x.json", [task(package, image_id, annotation([one]))])


def in_cvat(package, image_id, size, root):
    return made(package, root / "x.zip", {image_id: np.zeros(size, np.uint8)})


def in_a_folder(package, image_id, size, root):
    (root / "masks").mkdir()
    [file] = [one.file for one in package.images if one.image_id == image_id]
    Image.fromarray(np.zeros(size, np.uint8)).save(root / "masks" / file)
    return root


@pytest.mark.parametrize("given_", [LARGEST, *SIZES.values()], ids=str)
@pytest.mark.parametrize("image_id", SIZES)
@pytest.mark.parametrize("how", [in_label_studio, in_label_studio_as_bitmask, in_cvat, in_a_folder])
def test_an_answer_of_the_largest_size_or_of_another_image_is_refused_with_the_image_and_both_sizes(
    tmp_path, how, image_id, given_
):
    package, size = three(tmp_path / "p"), SIZES[image_id]
    (tmp_path / "in").mkdir()
    path = how(package, image_id, given_, tmp_path / "in")
    if given_ == size:
        assert set(taken(package, path)) == {image_id}
        return
    with pytest.raises(UserError) as raised:
        taken(package, path)
    text = f"{given_[1]} x {given_[0]} pixels, but the image {image_id!r} is {size[1]} x {size[0]}: use the images"
    assert text in str(raised.value)
    assert str(raised.value).startswith(f"{tmp_path / 'in'}")
    assert len(str(raised.value).splitlines()) == 1
