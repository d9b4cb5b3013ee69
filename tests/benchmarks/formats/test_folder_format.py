import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from benchmarks.formats.answers_in import read_answers
from benchmarks.formats.dropped import EMPTY
from benchmarks.formats.export import export
from benchmarks.formats.pictures import MAGENTA
from querying.base.errors import UserError
from tests.benchmarks.datasets.test_images import png
from tests.benchmarks.formats.packages import PALETTE, SIZE, blocks, make_package


def read(package, path, **more):
    with read_answers(package, path, **more) as answers:
        assert answers.kind == "folder"
        return list(answers.found), answers.dropped


def exported(package, root):
    export(package, root, "folder")
    return root


def saved(path, mask_HW, kind):
    """A mask of ids 0 to 3 in one of the encodings that are read."""
    if kind in ("L", "I;16"):
        Image.fromarray(mask_HW.astype(np.uint16 if kind == "I;16" else np.uint8)).save(path)
    elif kind in ("P", "P ours"):
        image = Image.fromarray(mask_HW).convert("L")
        image.putpalette([7, 7, 7, 200, 0, 0, 0, 200, 0, 0, 0, 200] if kind == "P" else np.ravel(PALETTE).tolist())
        image.save(path)
    elif kind == "RGB":
        Image.fromarray(np.array(PALETTE, np.uint8)[mask_HW]).save(path)
    else:
        depth = int(kind[-1])
        colours = (b"PLTE" + bytes(range(12)),) if kind.startswith("palette") else ()
        bits = ("".join(f"{value:0{depth}b}" for value in row) for row in mask_HW)
        rows = b"".join(b"\0" + int(row, 2).to_bytes(depth * SIZE[1] // 8, "big") for row in bits)
        path.write_bytes(png(SIZE[1], SIZE[0], depth, 3 if colours else 0, rows, *colours))


KINDS = ["L", "P", "P ours", "I;16", "RGB", "grey2", "grey4", "palette2", "palette4", "tif", "bmp", "pgm"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_in_any_of_twelve_encodings_gives_what_was_painted(tmp_path, kind):
    package = make_package(tmp_path / "p")
    root = exported(package, tmp_path / "out")
    mask_HW = np.minimum(blocks(), 3)
    suffix = kind if kind in ("tif", "bmp", "pgm") else "png"
    saved(root / "masks" / f"a1.{suffix}", mask_HW, "L" if suffix == kind else kind)
    [answer], _ = read(package, root)
    assert (answer.image_id, answer.annotator) == ("a1", "")
    np.testing.assert_array_equal(answer.label_HW, mask_HW)
    assert answer.painted_HW.all()


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, SIZE, elements=st.sampled_from([0, 1, 2, 3, 254, 255])), st.booleans(), st.booleans())
def test_any_mask_comes_back_by_id_or_colour_from_a_folder_or_an_archive(tmp_path_factory, wanted_HW, colour, packed_):
    root = tmp_path_factory.mktemp("folder")
    package = make_package(root / "p")
    (root / "masks").mkdir()
    table = np.zeros((256, 3), np.uint8)
    table[:4], table[255] = PALETTE, 160
    pixels = table[wanted_HW] if colour else wanted_HW
    name = package.images[2].file
    Image.fromarray(pixels).save(root / "masks" / name)
    if packed_:
        with zipfile.ZipFile(root / "x.zip", "w") as file:
            file.write(root / "masks" / name, f"masks/{name}")
    found, dropped = read(package, root / "x.zip" if packed_ else root)
    if (wanted_HW == 254).all():
        assert (found, dropped[EMPTY]) == ([], 1)
    else:
        np.testing.assert_array_equal(found[0].painted_HW, wanted_HW != 254)
        np.testing.assert_array_equal(found[0].label_HW, np.where(wanted_HW == 254, 255, wanted_HW))


def test_the_pre_annotation_copied_to_the_masks_is_an_answer_and_the_whole_export_packed_another_way_to_give_it(
    tmp_path,
):
    package = make_package(tmp_path / "p")
    root = exported(package, tmp_path / "out")
    for path in (root / "pre").iterdir():
        shutil.copy(path, root / "masks")
    shutil.make_archive(str(tmp_path / "whole"), "zip", root)
    by_folder, by_zip = (read(package, path)[0] for path in (root, tmp_path / "whole.zip"))
    for found in (by_folder, by_zip):
        for answer, shift in zip(found, (0, 1), strict=True):
            np.testing.assert_array_equal(answer.label_HW, blocks(SIZE, shift))
            np.testing.assert_array_equal(answer.painted_HW, answer.label_HW != 255)
    assert [one.unique_id for one in by_folder] == [one.unique_id for one in by_zip]


def test_frames_are_drawn_beside_the_images_and_values_and_colours_are_listed(tmp_path):
    package = make_package(tmp_path / "p")
    root = exported(package, tmp_path / "out")
    frame = np.array(Image.open(root / "frames" / "a1.png"))
    image = np.array(Image.open(root / "images" / "a1.png"))
    assert (frame[0, :8] == MAGENTA).all()
    assert (frame[6, 8:] == MAGENTA).all()
    np.testing.assert_array_equal(frame[1:5, 1:7], image[1:5, 1:7])
    np.testing.assert_array_equal(frame[:6, 8:], image[:6, 8:])
    rows = json.loads((root / "classes.json").read_text())
    assert rows[0] == {"value": 0, "name": "road", "color": "#804080"}
    assert rows[-1] == {"value": 255, "name": "not sure", "color": "#a0a0a0"}
    assert not list((root / "masks").iterdir())


def test_255_classes_leave_no_value_for_blank(tmp_path):
    names, palette = [f"c{k}" for k in range(255)], [(k, 0, 0) for k in range(255)]
    mask_HW = np.full(SIZE, 254, np.uint8)
    package = make_package(tmp_path / "p", {"a": None, "b": None}, classes=names, palette=palette)
    root = exported(package, tmp_path / "out")
    Image.fromarray(mask_HW).save(root / "masks" / "a.png")
    Image.fromarray(np.array([*palette, (160, 160, 160)], np.uint8)[mask_HW]).save(root / "masks" / "b.png")
    for answer in read(package, root)[0]:
        assert answer.painted_HW.all()
        assert set(answer.label_HW.ravel()) == {254}


def image_of(pixels, format_="png", **more):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format_, **more)
    return out.getvalue()


def reordered():
    """A palette mask that an editor has renumbered: its index 0 has the colour of class 2."""
    image = Image.fromarray(np.zeros(SIZE, np.uint8)).convert("L")
    image.putpalette(np.ravel(PALETTE[2:]).tolist())
    out = io.BytesIO()
    image.save(out, "png")
    return out.getvalue()


GREY = np.zeros(SIZE, np.uint8)
MASKS = {
    "another size": (
        "a1.png",
        image_of(np.zeros((16, 12), np.uint8)),
        "12 x 16 pixels, but the image 'a1' is 16 x 12",
    ),
    "JPEG": ("a1.jpg", image_of(GREY, "jpeg"), "a mask must be PNG: JPEG changes labels"),
    "JPEG called PNG": ("a1.png", image_of(GREY, "jpeg"), "a mask must be PNG: JPEG changes labels"),
    "unknown colour": ("a1.png", image_of(np.full((*SIZE, 3), 7, np.uint8)), r"colour \(7, 7, 7\) \(192 pixels\)"),
    "unknown id": ("a1.png", image_of(GREY + 9), r"label ids that the data set does not have: 9 \(192 pixels\)"),
    "16 bit id": ("a1.png", image_of(np.full(SIZE, 999, np.uint16)), "label 999 of a 16-bit mask"),
    "alpha": ("a1.png", image_of(np.zeros((*SIZE, 4), np.uint8)), "mask with an alpha channel"),
    "renumbered": ("a1.png", reordered(), r"its index 0 has the colour of '<b>tree</b>', which is 2"),
    "another image": ("zz.png", image_of(GREY), "is no image of this package"),
    "another kind": ("a1.xcf", b"gimp", "a mask must be one of .png"),
    "no image": ("a1.png", b"hello", "neither a PNG"),
    "empty": ("a1.png", b"", "empty file"),
    "large": ("a1.png", image_of(GREY) + bytes(100_000), "bytes, too many for what it should be"),
}


@pytest.mark.parametrize("packed_", [False, True])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_that_is_not_right_is_refused_by_name(tmp_path, name, packed_):
    file, content, message = MASKS[name]
    package = make_package(tmp_path / "p")
    root = tmp_path / "in"
    (root / "masks").mkdir(parents=True)
    (root / "masks" / file).write_bytes(content)
    if packed_:
        root = tmp_path / "x.zip"
        with zipfile.ZipFile(root, "w") as archive:
            archive.writestr(f"masks/{file}", content)
    with pytest.raises(UserError, match=message) as raised:
        read(package, root)
    assert str(raised.value).startswith(f"{root}/masks/{file}: ")
    assert len(str(raised.value).splitlines()) == 1


def test_links_pipes_two_masks_of_an_image_and_another_query_are_refused(tmp_path):
    package = make_package(tmp_path / "p")
    root = exported(package, tmp_path / "out")
    (root / "masks" / "a1.png").symlink_to(root / "images" / "a1.png")
    with pytest.raises(UserError, match=r"masks/a1\.png: is a link"):
        read(package, root)
    (root / "masks" / "a1.png").unlink()
    os.mkfifo(root / "masks" / "a1.png")
    with pytest.raises(UserError, match=r"masks/a1\.png: is no regular file"):
        read(package, root)
    (root / "masks" / "a1.png").unlink()
    for name in ("a1.png", "a1.bmp"):
        Image.fromarray(GREY).save(root / "masks" / name)
    with pytest.raises(UserError, match=r"masks/a1\.png: masks/a1\.bmp is a mask of the same image"):
        read(package, root)
    (root / "masks" / "a1.bmp").unlink()
    other = make_package(tmp_path / "q", {"a1": None, "b": None})
    with pytest.raises(UserError, match=r"query\.json: is of another query .*older cycle"):
        read(other, root)
    for text in ("[", "[1]", "{}", '{"query_id": {}}'):
        (root / "query.json").write_text(text)
        with pytest.raises(UserError, match=r"query\.json: is (not what was exported|of another query)"):
            read(package, root)


# Which format it is.

OTHERS = {
    "xml": (b'<?xml version="1.0"?>', "XML; export from CVAT as 'Segmentation mask 1.1'"),
    "gzip": (b"\x1f\x8b\x08", "packed by gzip"),
    "png": (image_of(GREY), "an image; give the folder above masks/"),
    "mapping": (b'{"images": []}', "is a mapping, where a JSON list of tasks"),
    "text": (b"hello", "is something else, where a JSON list"),
    "empty": (b"", "is empty, where a JSON list"),
    "UTF-16": ("[]".encode("utf-16"), "is UTF-16"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_kind_is_refused_whatever_it_is_called(tmp_path, name):
    content, message = OTHERS[name]
    package = make_package(tmp_path / "p")
    for suffix in ("json", "zip"):
        path = tmp_path / f"x.{suffix}"
        path.write_bytes(content)
        with pytest.raises(UserError, match=message), read_answers(package, path) as answers:
            list(answers.found)


def test_no_file_a_pipe_a_folder_without_masks_and_an_archive_of_something_else_are_refused(tmp_path):
    package = make_package(tmp_path / "p")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("out/masks/a1.png", b"")
    with zipfile.ZipFile(tmp_path / "none.zip", "w"):
        pass
    for name, message in (
        ("missing", "does not exist"), ("pipe", "is no regular file"), ("empty", "has no folder masks"),
        ("x.zip", "holds neither labelmap.txt .* nor masks/, but out; pack what lies inside"),
        ("none.zip", "holds neither .* but nothing"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message), read_answers(package, tmp_path / name):
            pass


def test_the_source_of_a_folder_is_always_the_same_archive(tmp_path):
    package = make_package(tmp_path / "p")
    root = exported(package, tmp_path / "out")
    for name in ("c_-", "a1"):
        file = next(one.file for one in package.images if one.file.startswith(name[0]))
        Image.fromarray(GREY).save(root / "masks" / file)
    sources = []
    for place in (root, shutil.copytree(root, tmp_path / "copy")):
        with read_answers(package, place) as answers:
            assert len(list(answers.found)) == 2
            sources.append(answers.source.read_bytes())
    assert sources[0] == sources[1]
    assert not answers.source.exists()
