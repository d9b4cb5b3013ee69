"""Class files as people have them: what is a heading, an id, a colour; what could be either is refused."""

import pytest

from benchmarks.datasets.classes.class_file import read_classes
from querying.base.errors import UserError

COLOURS = ((128, 64, 128), (0, 0, 142))
ROAD_AND_CAR = {
    "names": "road\ncar\n",
    "CRLF, blank lines, comments and a mark": "\ufeff# mine\r\nroad\r\n\r\n car \r\n",
    "CVAT": "# label:color_rgb:parts:actions\nroad:128,64,128::\ncar:0,0,142::\n",
    "CVAT without its heading": "road:128,64,128::\ncar:0,0,142::\n",
    "class_dict.csv": "name,r,g,b\nroad,128,64,128\ncar,0,0,142\n",
    "CSV with spaces and capitals": "Class Name, R, G, B\nroad, 128, 64, 128\ncar, 0, 0, 142\n",
    "CSV with quotes": '"road","128","64","128"\n"car","0","0","142"\n',
    "CSV with a further column": "name,r,g,b,supercategory\nroad,128,64,128,flat\ncar,0,0,142,vehicle\n",
    "semicolons": "road;128;64;128\ncar;0;0;142\n",
    "tabs": "road\t128\t64\t128\ncar\t0\t0\t142\n",
    "colour first": "128 64 128\troad\n0 0 142\t\tcar\n",
    "heading and spaces": "name r g b\nroad 128 64 128\ncar 0 0 142\n",
    "one word and colours": "class\nroad 128 64 128\ncar 0 0 142\n",
    "hexadecimal": "road #804080\ncar #00008E\n",
    "alpha": "road,128,64,128,255\ncar,0,0,142,255\n",
    "ids in order": "0 road\n1 car\n",
    "ids with colours": "0 road 128 64 128\n1 car 0 0 142\n",
    "ids with colons": "0: road\n1: car\n",
    "quoted": '"road"\n"car"\n',
    ".json list": '["road", "car"]',
    ".json with colours": '[{"name": "road", "color": [128, 64, 128]}, {"name": "car", "color": "#00008e"}]',
    ".json of names": '{"0": "road", "1": "car"}',
    ".yaml": "path: ../x\nnames:\n  0: road\n  1: car\n",
}


@pytest.mark.parametrize("kind", ROAD_AND_CAR)
def test_road_and_car_are_two_classes_in_every_form(tmp_path, kind):
    suffix = kind.split()[0] if kind.startswith(".") else ".txt"
    path = tmp_path / f"classes{suffix}"
    path.write_text(ROAD_AND_CAR[kind], encoding="utf-8", newline="")
    found = read_classes(path)
    assert (found.names, found.values) == (("road", "car"), (0, 1))
    assert found.colours == (COLOURS if "128" in ROAD_AND_CAR[kind] or "#804080" in ROAD_AND_CAR[kind] else None)
    assert f"classes{suffix}: " in found.said
    assert "2 classes" in found.said


def test_utf_16_is_read(tmp_path):
    (tmp_path / "c.txt").write_text("straße\ncar\n", encoding="utf-16")
    assert read_classes(tmp_path / "c.txt").names == ("straße", "car")


def test_a_heading_and_comments_that_are_left_out_are_said(tmp_path):
    path = tmp_path / "labelmap.txt"
    path.write_text(ROAD_AND_CAR["CVAT"])
    assert read_classes(path).said == "labelmap.txt: CVAT label map, 1 comment line left out, 2 classes, with colours"
    path.write_text(ROAD_AND_CAR["CSV with a further column"])
    assert "heading line left out, columns not read: supercategory" in read_classes(path).said


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("7 road\n8 side walk\n", (7, 8)),
        ("id,name\n1,road\n2,side walk\n", (1, 2)),
        ("name;id\nroad;1\nside walk;2\n", (1, 2)),
        ("road: 3\nside walk: 9\n", (3, 9)),
        ("-1 road\n0 side walk\n", (255, 0)),
        ('{"categories": [{"id": 4, "name": "road"}, {"id": 2, "name": "side walk"}]}', (4, 2)),
    ],
)
def test_a_table_gives_the_ids_that_masks_have(tmp_path, text, values):
    (tmp_path / "c.txt").write_text(text)
    found = read_classes(tmp_path / "c.txt")
    assert (found.names, found.values) == (("road", "side walk"), values)


@pytest.mark.parametrize(
    "text",
    ["lane 1\nlane 2\n", "2 wheeler\ncar\n", "0\n1\n2\n", "building, edifice\nwall, fence\n", "wall paper\na b c\n"],
)
def test_numbers_commas_and_spaces_in_names_stay(tmp_path, text):
    (tmp_path / "c.txt").write_text(text)
    found = read_classes(tmp_path / "c.txt")
    assert found.names == tuple(text.splitlines())
    assert found.values == tuple(range(len(found.names)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("class\nroad\ncar\n", "line 1: 'class' could be a heading or a class; begin the line with # .*double quotes"),
        ("Labels:\nroad\ncar\n", "line 1: 'Labels:' could be a heading or a class"),
        ("road 1\ncar 2\n", "line 1: is the number in 'road 1' the class's id or a part of its name"),
        ("1. road\n2. car\n", "line 1: is the number in '1. road' the class's id"),
        ("road # flat\ncar\n", "line 1: 'road # flat': a comment behind a class"),
        ("road,1,2,3\ncar\n", "line 1: 'road,1,2,3' has columns that other lines have not"),
        ("road 1 2 3 255\ncar 4 5 6 255\n", "line 1: more than three numbers behind the name"),
        ("Klasse,r,g,b\nroad,1,2,3\n", "line 1: 'Klasse, r, g, b' is not understood"),
        ("name,r,g,b\nroad,1,2\ncar,1,2,3\n", "line 2: 3 columns, expected 4"),
        ("name,r,g,b\nroad,1,2,x\n", "line 2: 'road, 1, 2, x' has no number where one was expected"),
        ("1 2 3\n4 5 6\n", "line 1: a colour without a name"),
        ("0 road\n0 car\n", "line 2: id 0 of class 'car' is above 255 or there twice"),
        ("300 road\n1 car\n", "line 1: id 300"),
        ("# label:color_rgb:parts:actions\nroad:128,64::\n", "line 2: 'road:128,64::' is not name:r,g,b:parts:actions"),
        ('{"a": 1, "a": 2}', "not valid JSON: the key 'a' is there twice"),
        ('{"names": ["a", "b"], "classes": ["c"]}', "classes could be under names or classes"),
        ('[{"name": "a", "color": [1, 2]}, "b"]', "entry 0: not a colour"),
        ("[1, 2]", "entry 0: not a class: 1"),
    ],
)
def test_what_is_wrong_or_could_mean_two_things_is_refused_with_its_line(tmp_path, text, message):
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(UserError, match=rf"c\.txt: {message}"):
        read_classes(tmp_path / "c.txt")
