"""The package of a cycle: what it holds, that the same query gives the same bytes, and what damage is."""

import numpy as np
import pytest
from PIL import Image

from orchestrator.annotation.package import (
    About,
    Asked,
    file_names,
    query_id_of,
    read_note,
    read_package,
    write_package,
)
from orchestrator.folder.layout import once
from querying.base.errors import DamagedError
from querying.dataset.codecs import encode_label
from querying.labels.regions import WHOLE

ABOUT = About("run-1", 1, "m", "d", ("road", "car & <b>"), ((0, 0, 0), (1, 2, 3)), 16, 24, 8)
IDS = ["b", "a ü#%", "../up", "A"]


def pictures(ids=IDS):
    for number, image_id in enumerate(ids):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 24, 3), dtype=np.uint8)
        pre = encode_label(np.full((16, 24), number % 2, np.uint8)) if number else None
        yield Asked(image_id, pixels, [(0, 0, 0, 8, 8), (5, 8, 16, 16, 24)], pre)


def made(folder, ids=IDS):
    scores = {image_id: 1.0 / (1 + number) for number, image_id in enumerate(IDS)}
    return once(folder / "package", lambda out: write_package(out, ABOUT, pictures(ids), scores))


def test_what_was_asked_comes_back(tmp_path):
    package = read_package(made(tmp_path))
    assert [one.image_id for one in package.images] == IDS
    assert [one.rank for one in package.images] == [0, 1, 2, 3]
    assert package.classes == ("road", "car & <b>")
    assert package.regions == 8
    first, second = package.images[:2]
    assert package.pre(first) is None
    assert (np.asarray(Image.open(package.pre(second))) == 1).all()
    expected = {one.image_id: one.image_HWC for one in pictures()}
    for one in package.images:
        assert (np.asarray(Image.open(package.image(one))) == expected[one.image_id]).all()
        assert package.image(one).parent == package.root / "images"


def test_the_same_query_gives_the_same_bytes_in_whatever_order_it_is_read(tmp_path):
    one, two = made(tmp_path / "x"), made(tmp_path / "y", IDS[::-1])
    files = [
        path.relative_to(one) for path in sorted(one.rglob("*")) if path.is_file() and path.name != "manifest.json"
    ]
    assert len(files) == 1 + 4 + 3
    for name in files:
        if name.name != "package.json":
            pixels = [np.asarray(Image.open(root / name)).tobytes() for root in (one, one)]
            assert pixels[0] == pixels[1]
    again = made(tmp_path / "z")
    assert all((one / name).read_bytes() == (again / name).read_bytes() for name in files)
    assert read_note(one).query_id == read_note(two).query_id


def test_names_are_safe_and_different():
    names = file_names(["a/b", "a_b", "A_B", "x", "", "é" * 300, "con.", "-rf"])
    assert len({name.lower() for name in names.values()}) == len(names)
    assert names["x"] == "x.png"
    assert all(name.isascii() and "/" not in name and name[0].isalnum() and len(name) < 110 for name in names.values())


def test_a_query_is_what_it_asks():
    assert query_id_of([("b", 1), ("a", 2)]) == query_id_of([("a", 2), ("b", 1)])
    assert query_id_of([("b", 1)]) != query_id_of([("b", 2)])
    assert query_id_of([("a", WHOLE)]).startswith("sha256:")


@pytest.mark.parametrize("name", ["package.json", "images/b.png", "manifest.json"])
def test_damage_is_named(tmp_path, name):
    path = made(tmp_path) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=str(path)):
        read_package(path.parents[name.count("/")])
