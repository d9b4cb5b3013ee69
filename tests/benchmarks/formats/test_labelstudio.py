"""Label Studio 1.23.2, as it was seen to write; the recorded answers were painted by hand in a browser."""

import base64
import copy
import io
import json
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from benchmarks.formats.answers_in import read_answers
from benchmarks.formats.canvas import Canvas, polygon
from benchmarks.formats.dropped import DRAFTS, EMPTY, NOT_OURS, OWN_FRAMES, SKIPPED, UNANSWERED
from benchmarks.formats.export import export
from benchmarks.formats.labels import label_ids
from benchmarks.formats.rle import decode, encode
from orchestrator.annotation.package import About, Asked, read_note, write_package
from querying.base.errors import UserError
from querying.dataset.codecs import encode_label
from tests.benchmarks.datasets.test_images import png
from tests.benchmarks.formats.packages import (
    CLASSES,
    PALETTE,
    SIZE,
    annotation,
    blocks,
    brush,
    make_package,
    task,
    written,
)

RECORDED = Path(__file__).parents[2] / "fixtures" / "labelstudio"
NAMES = ("road", "car & truck", "<b>tree</b>", "sky")


def read(package, path, **more):
    with read_answers(package, path, **more) as answers:
        found = list(answers.found)
        assert answers.kind == "labelstudio"
        return found, answers.dropped


# The recorded answers: what the browser stored, and what was painted.


def recorded(name, root):
    """The package of which the recorded task was made, its pre-annotation, and the file that an export would be."""
    data = json.loads((RECORDED / f"{name}.json").read_text())
    pre_HW = np.full((180, 240), 255, np.uint8)
    for result in data["task"]["predictions"][0]["result"]:
        if result["type"] == "brushlabels":
            pre_HW[decode(result["value"]["rle"], 180, 240)] = int(result["id"].rpartition("c")[2])
    own = data["task"]["data"]
    others = [f"before{number}" for number in range(own["rank"])]
    asked = [
        Asked(image_id, np.zeros((180, 240, 3), np.uint8), [(0, 60, 0, 120, 60)], encode_label(pre_HW))
        for image_id in (*others, own["image_id"])
    ]
    root.mkdir()
    about = About("x", 1, None, "d", NAMES, PALETTE, 180, 240, 60)
    write_package(root, about, asked, {one.image_id: 0.5 for one in asked})
    package = read_note(root)
    answer = annotation(data["result"], lead_time=data["lead_time"])
    path = written(root / "export.json", [task(package, own["image_id"], answer)])
    return package, pre_HW, data["result"], path


def painted(name, pre_HW, results):
    """The mask that was painted, by what is known of how it was, and the pixels of the stroke."""
    expected_HW = pre_HW.copy()
    if name == "new-stroke":  # a tree over what was there
        stroke_HW = decode(results[-1]["value"]["rle"], 180, 240)
        expected_HW[stroke_HW] = 2
    elif name == "extended-first-region":  # the road, selected again and painted over the sky
        stroke_HW = decode(results[0]["value"]["rle"], 180, 240) & (pre_HW != 0)
        expected_HW[stroke_HW] = 0
    elif name == "erased-and-repainted":  # of the road; then the sky, over a part of what was erased, and over road
        expected_HW[(pre_HW == 0) & ~decode(results[0]["value"]["rle"], 180, 240)] = 255
        assert (expected_HW != pre_HW).sum() == 120
        stroke_HW = decode(results[-1]["value"]["rle"], 180, 240)
        expected_HW[stroke_HW] = 3
    else:
        points = [(x * 2.4, y * 1.8) for x, y in results[7]["value"]["points"]]
        stroke_HW = polygon(points, 180, 240)
        expected_HW[stroke_HW] = 1
    return expected_HW, int(stroke_HW.sum())


STROKES = {"new-stroke": 222, "extended-first-region": 265, "polygon-and-own-frame": 752, "erased-and-repainted": 97}
SECONDS = {"new-stroke": 13.836, "extended-first-region": 17.823, "polygon-and-own-frame": 22.025,
           "erased-and-repainted": 22.992}  # fmt: skip


@pytest.mark.parametrize("name", STROKES)
def test_a_recorded_answer_gives_the_mask_that_was_painted(tmp_path, name):
    package, pre_HW, results, path = recorded(name, tmp_path / "p")
    [answer], dropped = read(package, path)
    expected_HW, pixels = painted(name, pre_HW, results)
    assert pixels == STROKES[name]
    np.testing.assert_array_equal(answer.label_HW, expected_HW)
    np.testing.assert_array_equal(answer.painted_HW, expected_HW != 255)
    assert (answer.annotator, answer.ambiguous, answer.unique_id) == ("1", 0, "uuid-1")
    assert answer.seconds == SECONDS[name]
    assert set(+dropped) <= {OWN_FRAMES}
    frames = {result["id"] for result in results if result["type"] == "rectanglelabels"}
    assert dropped[OWN_FRAMES] == len(frames - {f"t{package.images[-1].rank}q0"})  # the one frame of this package
    assert any(result["origin"] != "prediction" for result in results)


def test_later_wins_would_lose_the_stroke_that_extended_the_first_region(tmp_path, monkeypatch):
    """That rule, put in the place of ours, gives the mask of the prediction: 0 of 265 pixels are changed."""

    def later_wins(canvas, label, now_HW, before_HW=None):
        add(canvas, label, now_HW, None)

    add = Canvas.add
    package, pre_HW, results, path = recorded("extended-first-region", tmp_path / "p")
    monkeypatch.setattr(Canvas, "add", later_wins)
    [answer], _ = read(package, path)
    np.testing.assert_array_equal(answer.label_HW, pre_HW)
    assert (answer.label_HW != painted("extended-first-region", pre_HW, results)[0]).sum() == 265


# Strokes onto a pre-annotation.


def test_what_is_added_wins_over_what_was_left_and_what_is_erased_is_blank(tmp_path):
    package, pre_HW = make_package(tmp_path), blocks()
    road_HW, sky_HW = pre_HW == 0, pre_HW == 3
    road_HW[-3:, -3:] = True  # over the sky, whose result is the later one
    road_HW[0, 0] = False  # erased
    results = [
        brush(package, CLASSES[0], road_HW, "t0c0"),
        *(brush(package, CLASSES[k], pre_HW == k, f"t0c{k}") for k in (1, 2)),
        brush(package, CLASSES[3], sky_HW, "t0c3"),
    ]
    [answer], _ = read(package, written(tmp_path / "x.json", [task(package, "a1", annotation(results))]))
    expected_HW = pre_HW.copy()
    expected_HW[-3:, -3:], expected_HW[0, 0] = 0, 255
    np.testing.assert_array_equal(answer.label_HW, expected_HW)
    np.testing.assert_array_equal(answer.painted_HW, expected_HW != 255)
    assert answer.ambiguous == 0


def test_of_two_strokes_by_hand_the_later_counts_and_their_pixels_are_counted(tmp_path):
    package = make_package(tmp_path)
    first_HW, second_HW = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
    first_HW[:4], second_HW[2:6] = True, True
    results = [brush(package, "road", first_HW), brush(package, "not sure", second_HW, "other")]
    [answer], _ = read(package, written(tmp_path / "x.json", [task(package, "c/ü", annotation(results))]))
    assert answer.label_HW[:, 0].tolist() == [0, 0, *[255] * 10]
    assert answer.painted_HW[:, 0].tolist() == [True] * 6 + [False] * 6
    assert answer.ambiguous == 2 * SIZE[1]


def test_a_pre_annotation_that_was_given_another_label_was_painted_by_hand(tmp_path):
    """Its id says road, its label sky: no pixel of it is as it was left, so it wins over another that was."""
    package, pre_HW = make_package(tmp_path), blocks()
    both = [brush(package, CLASSES[3], pre_HW < 2, "t0c0"), brush(package, CLASSES[1], pre_HW == 1, "t0c1")]
    [answer], _ = read(package, written(tmp_path / "x.json", [task(package, "a1", annotation(both))]))
    assert set(answer.label_HW[pre_HW < 2]) == {3}


@pytest.mark.parametrize("tag", ["brush", "bitmask"])
def test_what_is_exported_and_left_as_it_is_comes_back(tmp_path, tag):
    package = make_package(tmp_path / "p")
    export(package, tmp_path / "out", "labelstudio", tag=tag)
    [tasks] = (tmp_path / "out").rglob("tasks.json")
    done = [
        {**one, "id": place, "annotations": [annotation(one["predictions"][0]["result"], place)], "drafts": []}
        for place, one in enumerate(json.loads(tasks.read_text()))
    ]
    found, dropped = read(package, written(tmp_path / "x.json", done[::-1]))
    assert [answer.image_id for answer in found] == ["b 3#%", "a1"]
    for answer, shift in zip(found, (1, 0), strict=True):
        np.testing.assert_array_equal(answer.label_HW, blocks(SIZE, shift))
        np.testing.assert_array_equal(answer.painted_HW, answer.label_HW != 255)
    assert dropped[EMPTY] == 1  # the image without a pre-annotation
    assert dropped[OWN_FRAMES] == 0


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, SIZE, elements=st.sampled_from([0, 1, 2, 3, 254, 255])), st.data())
def test_any_mask_comes_back_from_brush_bitmask_and_strokes_in_any_order(tmp_path_factory, wanted_HW, data):
    """254 stands for blank, 255 for "not sure"."""
    root = tmp_path_factory.mktemp("ls")
    package = make_package(root)
    results = []
    for name, label in label_ids(package).items():
        one = brush(package, name, wanted_HW == label, f"r{label}")
        if data.draw(st.booleans()):
            rgba = np.zeros((*SIZE, 4), np.uint8)
            rgba[wanted_HW == label, 3] = data.draw(st.integers(128, 255))
            one["type"], one["value"] = "bitmasklabels", {"imageDataURL": url(rgba), "bitmasklabels": [name]}
        results.append(one)
    order = data.draw(st.permutations(results))
    path = written(root / "x.json", [task(package, "c/ü", annotation(order))])
    found, dropped = read(package, path)
    if (wanted_HW == 254).all():
        assert not found
        assert dropped[EMPTY] == 1
    else:
        np.testing.assert_array_equal(found[0].painted_HW, wanted_HW != 254)
        np.testing.assert_array_equal(found[0].label_HW, np.where(wanted_HW == 254, 255, wanted_HW))


def url(pixels, format_="png", **more):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format_, **more)
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


def test_a_polygon_is_filled_as_pil_fills_it_and_cut_at_the_image(tmp_path):
    package = make_package(tmp_path)
    points = [[0, 0], [150, 0], [150, 50], [0, 50]]
    value = {"points": points, "closed": True, "polygonlabels": ["road"]}
    one = {**brush(package, "road", np.zeros(SIZE, bool)), "type": "polygonlabels", "value": value}
    [answer], _ = read(package, written(tmp_path / "x.json", [task(package, "a1", annotation([one]))]))
    np.testing.assert_array_equal(answer.painted_HW, polygon([(0, 0), (24, 0), (24, 6), (0, 6)], *SIZE))
    assert answer.painted_HW[:6].all()
    assert not answer.painted_HW[7:].any()


# Tasks and annotations.


def test_drafts_skipped_cancelled_and_unanswered_tasks_are_counted_and_two_annotators_both_answer(tmp_path):
    package = make_package(tmp_path)
    full = [brush(package, "road", np.ones(SIZE, bool))]
    first = annotation(full, 1, completed_by={"id": 7, "email": "ann@x.org"})
    second = annotation(full, 2, completed_by=2, lead_time=None)
    skipped = annotation([], 3, was_cancelled=True)
    draft = {"id": 5, "user": "x", "result": full, "annotation": None}
    tasks = [
        task(package, "a1", first, skipped, second),
        {**task(package, "b 3#%"), "drafts": [draft]},
        task(package, "c/ü", annotation([], 4)),
        {"id": 9, "data": {"image": "own.png"}, "annotations": [annotation(full, 5)]},
    ]
    found, dropped = read(package, written(tmp_path / "x.json", tasks))
    assert [(one.image_id, one.annotator, one.seconds) for one in found] == [
        ("a1", "ann@x.org", 12.5),
        ("a1", "2", None),
    ]
    assert +dropped == {NOT_OURS: 1, UNANSWERED: 1, SKIPPED: 1, DRAFTS: 1, EMPTY: 1}


def test_the_same_task_imported_twice_gives_two_answers_that_can_be_told_apart(tmp_path):
    package = make_package(tmp_path)
    full = [brush(package, "road", np.ones(SIZE, bool))]
    tasks = [task(package, "a1", annotation(full, n), number=n) for n in (1, 2)]
    found, _ = read(package, written(tmp_path / "x.json", tasks))
    assert [one.unique_id for one in found] == ["uuid-1", "uuid-2"]
    again, _ = read(package, tmp_path / "x.json")
    assert [one.unique_id for one in again] == ["uuid-1", "uuid-2"]


@pytest.mark.parametrize(("given_", "expected"), [
    (12, 12.0), (0, 0.0), (None, None), (-1, None), (1e300, None), ("12", None), (True, None), ([], None),
])  # fmt: skip
def test_a_time_that_can_not_be_true_is_not_known(tmp_path, given_, expected):
    package = make_package(tmp_path)
    full = [brush(package, "road", np.ones(SIZE, bool))]
    path = written(tmp_path / "x.json", [task(package, "a1", annotation(full, lead_time=given_))])
    assert read(package, path)[0][0].seconds == expected


@pytest.mark.parametrize(("given_", "expected"), [
    (3, "3"), ({"id": 3}, "3"), ({"email": "a@b", "id": 3}, "a@b"), (None, ""), ({}, ""), ([], ""), (-1, ""),
    ({"email": "a\nb"}, ""), ({"email": {}}, ""),
])  # fmt: skip
def test_who_answered_is_the_address_or_the_number_or_not_known(tmp_path, given_, expected):
    package = make_package(tmp_path)
    full = [brush(package, "road", np.ones(SIZE, bool))]
    path = written(tmp_path / "x.json", [task(package, "a1", annotation(full, completed_by=given_))])
    assert read(package, path)[0][0].annotator == expected


@pytest.mark.parametrize(("given_", "expected"), [
    ("2026-12-01T11:00:00.5Z", "2026-12-01T11:00:00.500000+00:00"),
    ("2026-12-01T12:00:00+01:00", "2026-12-01T11:00:00.000000+00:00"),
    ("yesterday", "2026-12-01T10:00:00.000000+00:00"), (7, "2026-12-01T10:00:00.000000+00:00"),
])  # fmt: skip
def test_times_are_of_one_form_in_utc(tmp_path, given_, expected):
    package = make_package(tmp_path)
    full = [brush(package, "road", np.ones(SIZE, bool))]
    path = written(tmp_path / "x.json", [task(package, "a1", annotation(full, updated_at=given_))])
    assert read(package, path)[0][0].updated == expected


def test_without_a_unique_id_what_stands_in_the_annotation_is_one(tmp_path):
    package = make_package(tmp_path)
    tasks = [
        task(package, "a1", annotation([brush(package, "road", np.arange(192).reshape(SIZE) < n)], unique_id=None))
        for n in (5, 5, 6)
    ]
    found, _ = read(package, written(tmp_path / "x.json", tasks))
    first, same, other = (one.unique_id for one in found)
    assert first == same != other


# What is refused, each in one line that names the task.

BIG_TEXT = b"iTXt" + b"key\0\0\0\0\0" + b"x" * 3_000_000


def handmade(width, height, depth, rows, *extra):
    return f"data:image/png;base64,{base64.b64encode(png(width, height, depth, 6, rows, *extra)).decode()}"


def changed(key, value):
    return lambda result: result.__setitem__(key, value)


def valued(**value):
    return lambda result: result["value"].update(value)


def shaped(kind, **value):
    def change(result):
        result["type"], result["value"] = kind, {**value, kind: ["road"]}

    return change


def polygonal(points, **more):
    return shaped("polygonlabels", points=points, closed=True, **more)


RESULTS = {
    "rle count": (valued(rle=[255] * 60), r"its rle is damaged: its count is 4294967295"),
    "rle text": (valued(rle="AAA"), "its rle is damaged: it is no list"),
    "rle missing": (valued(rle=None), "its rle is damaged"),
    "rle of another size": (valued(rle=encode(np.ones((4, 6), bool))), "its rle is damaged: its count is 96"),
    "another format": (valued(format="png"), "a brush of format 'png'"),
    "width": (changed("original_width", 17), "painted on 17 x 12 pixels, but the image 'a1' is 16 x 12: use"),
    "no size": (changed("original_height", None), "painted on 16 x None pixels"),
    "size as float": (changed("original_width", 16.0), "painted on 16.0 x 12"),
    "rotated": (changed("image_rotation", 90), "rotated by 90"),
    "unknown label": (valued(brushlabels=["rood"]), "label 'rood' is no class .*did you mean 'road'"),
    "label in another case": (valued(brushlabels=["ROAD"]), "label 'ROAD' is no class .*did you mean 'road'"),
    "label like HTML": (valued(brushlabels=["tree"]), "label 'tree' is no class"),
    "label that is no text": (valued(brushlabels=[{"a": 1}]), "is no class"),
    "label with an escape": (valued(brushlabels=["\x1b[31mroad\n"]), r"label '\\x1b\[31mroad\\n'"),
    "two labels": (valued(brushlabels=["road", "sky"]), "has .* as its label, where one was expected"),
    "no label": (valued(brushlabels=None), "has None as its label"),
    "ellipse": (shaped("ellipselabels", x=1), "kind 'ellipselabels', which is not read"),
    "keypoint": (shaped("keypointlabels", x=1), "kind 'keypointlabels'"),
    "video": (shaped("videorectangle", sequence=[]), "kind 'videorectangle'"),
    "brush without labels": (shaped("brush", rle=[]), "kind 'brush'"),
    "rectangle of a class": (shaped("rectanglelabels", x=1), "kind 'rectanglelabels'"),
    "kind of no text": (changed("type", ["brushlabels"]), "kind .*which is not read"),
    "no value": (changed("value", None), "has no value"),
    "polygon of two points": (polygonal([[0, 0], [1, 1]]), "polygon of 2 points"),
    "polygon of no points": (polygonal(None), "polygon of None"),
    "polygon of 10^5 + 1 points": (polygonal([[1, 1]] * 100_001), "polygon of 100001 points|has over 262144 parts"),
    "polygon of texts": (polygonal([["1", "2"]] * 3), "a polygon's point is"),
    "polygon far outside": (polygonal([[0, 0], [1e300, 1], [2, 2]]), "a polygon's point is"),
    "polygon of three coordinates": (polygonal([[0, 0, 0]] * 3), "a polygon's point is"),
    "open polygon": (shaped("polygonlabels", points=[[0, 0]] * 3, closed=False), "polygon that is not closed"),
    "no data URL": (shaped("bitmasklabels", imageDataURL="http://x/y.png"), "imageDataURL does not begin with"),
    "data URL of no text": (shaped("bitmasklabels", imageDataURL=7), "imageDataURL does not begin with"),
    "no base64": (shaped("bitmasklabels", imageDataURL="data:image/png;base64,!!"), "is not base64"),
    "no PNG": (shaped("bitmasklabels", imageDataURL="data:image/png;base64,QUJD"), "neither a PNG"),
    "JPEG": (shaped("bitmasklabels", imageDataURL=url(np.zeros((*SIZE, 3), np.uint8), "jpeg")), "is not a PNG with 8"),
    "grey PNG": (shaped("bitmasklabels", imageDataURL=url(np.zeros(SIZE, np.uint8))), "is not a PNG with 8 bits"),
    "16 bit PNG": (
        shaped("bitmasklabels", imageDataURL=handmade(16, 12, 16, b"")),
        "is not a PNG with 8 bits",
    ),
    "PNG of another size": (
        shaped("bitmasklabels", imageDataURL=url(np.zeros((16, 12, 4), np.uint8))),
        "its PNG has 12 x 16 pixels",
    ),
    "PNG bomb": (
        shaped("bitmasklabels", imageDataURL=handmade(60_000, 60_000, 8, bytes(9))),
        "60000 x 60000 pixels are more than 64",
    ),
    "PNG with too much text": (
        shaped("bitmasklabels", imageDataURL=handmade(16, 12, 8, b"", BIG_TEXT)),
        "its PNG has 4000.* characters",
    ),
    "cut PNG": (shaped("bitmasklabels", imageDataURL=url(np.zeros((*SIZE, 4), np.uint8))[:-40]), "damaged or not an"),
}  # fmt: skip


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_that_can_not_be_what_was_painted_is_refused_by_name(tmp_path, name):
    change, message = RESULTS[name]
    package = make_package(tmp_path)
    result = brush(package, "road", np.ones(SIZE, bool))
    change(result)
    path = written(tmp_path / "x.json", [task(package, "a1", annotation([result]), number=41)])
    with pytest.raises(UserError, match=message) as raised:
        read(package, path)
    line = str(raised.value)
    assert line.startswith(f"{path}: task 41") or "has over" in line
    assert len(line.splitlines()) == 1
    assert len(line) < len(str(path)) * 2 + 400


def at(*path, value):
    def change(tasks):
        inner = tasks
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return change


TASKS = {
    "no mapping": (at(0, value=[1]), "task number 0: has no data; export the project as JSON"),
    "JSON-MIN": (at(0, value={"id": 1, "image": "x.png", "mask": []}), "task 1: has no data; .*not JSON-MIN"),
    "data of another kind": (at(0, "data", value="x"), "task 1: has no data"),
    "what was exported": (at(0, "annotations", value=None), "has no list of annotations; .*not the tasks.json"),
    "another query": (at(0, "data", "query_id", value="sha256:" + "0" * 64), "is of another query .*older cycle"),
    "query of another kind": (at(0, "data", "query_id", value={"a": 1}), "data.query_id is {'a': 1}"),
    "query of nothing": (at(0, "data", "query_id", value=None), "data.query_id is None"),
    "another image": (at(0, "data", "image_id", value="zz"), "data.image_id 'zz' is no image"),
    "image of another kind": (at(0, "data", "image_id", value=["a1"]), "data.image_id .* is no image"),
    "annotation of another kind": (at(0, "annotations", 0, value="x"), "annotation 0: is 'x', not a mapping"),
    "no results": (at(0, "annotations", 0, "result", value={}), "annotation 0: has no list of results"),
    "result of another kind": (at(0, "annotations", 0, "result", 0, value=7), "result 0: is 7, not a mapping"),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_that_is_not_as_exported_is_refused_by_name(tmp_path, name):
    change, message = TASKS[name]
    package = make_package(tmp_path)
    tasks = [task(package, "a1", annotation([brush(package, "road", np.ones(SIZE, bool))]))]
    change(tasks)
    path = written(tmp_path / "x.json", tasks)
    with pytest.raises(UserError, match=message) as raised:
        read(package, path)
    assert str(raised.value).startswith(f"{path}: task ")


def test_a_stroke_can_hold_millions_of_runs_that_are_as_short_as_they_can_be(tmp_path):
    """The slowest list that is accepted: it takes its time, but no more than its length."""
    from tests.benchmarks.formats.test_rle import bits_of

    rle = bits_of([(0, 1, 255)] * (4 * 96 * 128), 4 * 96 * 128)
    assert decode(rle, 96, 128).all()


# What is written.


def test_tasks_are_as_label_studio_shows_them(tmp_path):
    package = make_package(tmp_path / "p")
    export(package, tmp_path / "out", "labelstudio")
    [path] = (tmp_path / "out" / "label-studio-data").rglob("tasks.json")
    name = path.parent.name
    tasks = json.loads(path.read_text())
    assert [one["data"]["image_id"] for one in tasks] == ["a1", "b 3#%", "c/ü"]
    for one, asked in zip(tasks, package.images, strict=True):
        data, [prediction] = one["data"], one["predictions"]
        head, _, below = data["image"].partition("?d=")
        assert head == "/data/local-files/"
        assert (path.parents[1] / unquote(below)).read_bytes() == package.image(asked).read_bytes()
        assert below.startswith(f"{name}/images/")
        assert data["query_id"] == package.query_id
        assert prediction["model_version"] == "runs/x/cycle-1"
        assert prediction["score"] == pytest.approx(1 - data["uncertainty"])
        frames = [result for result in prediction["result"] if result["from_name"] == "query"]
        assert [frame["readonly"] for frame in frames] == [True, True]
        box = {"x": 50.0, "y": 50.0, "width": 50.0, "height": 50.0, "rotation": 0, "rectanglelabels": ["label here"]}
        assert frames[1]["value"] == box
        assert frames[1]["id"] == f"t{asked.rank}q3"
        for result in prediction["result"]:
            assert (result["original_width"], result["original_height"], result["image_rotation"]) == (16, 12, 0)
            assert result["to_name"] == "image"
    regions = [result for result in tasks[0]["predictions"][0]["result"] if result["from_name"] == "mask"]
    assert [(one["id"], one["value"]["brushlabels"]) for one in regions] == [
        (f"t0c{k}", [name]) for k, name in enumerate(CLASSES)
    ]


@pytest.mark.parametrize(("tag", "kind"), [("brush", "BrushLabels"), ("bitmask", "BitmaskLabels")])
def test_the_configuration_has_every_class_and_not_sure_whatever_they_are_called(tmp_path, tag, kind):
    names = ("a\u00e9 & 'b'", '"<script>"', "{{x}}", "=cmd()", "not sure", "label here")
    colours = [(k, 0, 0) for k in range(5)] + [(160, 160, 160)]
    package = make_package(tmp_path / "p", classes=names, palette=colours)
    export(package, tmp_path / "out", "labelstudio", tag=tag)
    tree = ElementTree.fromstring((tmp_path / "out" / "label_config.xml").read_text(encoding="utf-8"))
    labels = tree.find(kind)
    assert [label.get("value") for label in labels] == [*names, "not sure *"]
    shown = [label.get("background") for label in labels]
    assert len(set(shown)) == len(shown)
    assert tree.find("Image").get("smoothing") == (None if tag == "brush" else "false")
    frames = tree.find("RectangleLabels")
    assert (frames.get("opacity"), frames.get("strokeWidth"), frames.get("name")) == ("0", "3", "query")


def test_whole_images_have_no_frames_and_a_package_without_scores_has_none(tmp_path):
    package = make_package(tmp_path / "p", {"a": None, "b": None}, whole=True)
    export(package, tmp_path / "out", "labelstudio")
    [path] = (tmp_path / "out").rglob("tasks.json")
    assert [one["predictions"] for one in json.loads(path.read_text())] == [[], []]
    assert "Colour the whole image" in (tmp_path / "out" / "label_config.xml").read_text()


def test_answers_do_not_change_what_they_are_read_from(tmp_path):
    package = make_package(tmp_path)
    tasks = [task(package, "a1", annotation([brush(package, "road", np.ones(SIZE, bool))]))]
    before = copy.deepcopy(tasks)
    path = written(tmp_path / "x.json", tasks)
    read(package, path)
    assert json.loads(path.read_text()) == before
