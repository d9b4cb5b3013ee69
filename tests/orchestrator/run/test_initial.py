import hashlib
import itertools
import shutil

import pytest

from orchestrator.run.first_labels import (
    LISTS,
    draw,
    find_ids,
    ids_sha256,
    initial_count,
    labelled_set,
    read_list,
    shipped_lists,
)
from querying.base.errors import UserError
from querying.base.files import read_json
from querying.dataset.shards import read_truth
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from tests.small import small_config, small_run

IDS = [f"{number:05d}" for number in range(2000)]
SIZES = {"1_16": 186, "1_8": 372, "1_4": 744, "1_2": 1488}


def test_draws_of_a_seed_are_nested_and_do_not_depend_on_the_order():
    small, large = draw(3, IDS, 100), draw(3, IDS[::-1], 300)
    assert large[:100] == small
    assert len(set(large)) == 300
    assert draw(4, IDS, 100) != small


def test_a_covering_draw_has_every_class_and_is_nested_too():
    """Class 9 is in one image of 2,000: a draw of 20 has it all the same."""
    classes = {image_id: {number % 3} for number, image_id in enumerate(IDS)}
    classes[IDS[777]] = {0, 9}
    small, large = (draw(3, IDS, count, classes) for count in (20, 200))
    assert set().union(*(classes[i] for i in small)) == {0, 1, 2, 9}
    assert large[:20] == small
    plain = draw(3, IDS, 200)
    assert IDS[777] not in plain
    assert len(set(plain) - set(large)) <= 4  # the rest is as it would have been
    with pytest.raises(UserError, match="it takes 4 images to show all 4 classes, more than the 3 asked for"):
        draw(3, IDS, 3, classes)


def test_the_lists_that_come_along_are_the_published_ones():
    """Sizes; A is nested and shares 8, 48, 182, 720 images with B; the hashes are those in the README."""
    assert shipped_lists() == sorted(f"cityscapes/{family}/{split}" for family in ("cps", "u2pl") for split in SIZES)
    a, b = ({split: read_list(f"cityscapes/{f}/{split}") for split in SIZES} for f in ("cps", "u2pl"))
    readme = (LISTS / "README.md").read_text()
    for lists in (a, b):
        for split, (names, digest) in lists.items():
            assert len(names) == SIZES[split]
            assert digest in readme
    nested = [set(a[split][0]) for split in SIZES]
    assert all(small < large for small, large in itertools.pairwise(nested))
    assert [len(set(a[s][0]) & set(b[s][0])) for s in SIZES] == [8, 48, 182, 720]


@pytest.mark.parametrize(
    "line",
    [
        "jena_000078_000019",
        "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png",  # U2PL
        "leftImg8bit/train/jena/jena_000078_000019_leftImg8bit.png gtFine/train/jena/x_gtFine_labelTrainIds.png",
    ],
)
def test_uni_match_and_u2pl_lists_are_read_as_they_are(tmp_path, line):
    (tmp_path / "labeled.txt").write_text(f"{line}\r\n\n")
    names, _ = read_list(str(tmp_path / "labeled.txt"))
    assert find_ids(names, ["ulm_1", "jena_000078_000019"], where="x") == ["jena_000078_000019"]


def test_a_list_of_a_windows_editor_has_its_first_image_and_the_hash_of_its_bytes(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a.png\r\nb.png\r\n", encoding="utf-8-sig", newline="")
    names, digest = read_list(str(path))
    assert find_ids(names, ["a", "b"], where="x") == ["a", "b"]
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("line", "image_id"),
    [
        ("scan 1.png", "scan 1"),
        ("my images/scan 1.PNG\tmy masks/scan 1.png", "scan 1"),
        ("scan 2, left.tif;masks/scan 2, left.png", "scan 2, left"),
        ('"scan 1.jfif" 7', "scan 1"),
        ("plain.png,masks/plain.png", "plain"),
        ("images/ward/x.png", "ward__x"),
        ("cafe\u0301.png", "caf\u00e9"),
    ],
)
def test_a_list_names_images_whose_names_have_spaces(tmp_path, line, image_id):
    path = tmp_path / "my list.txt"
    path.write_text(f"{line}\n")
    known = ["scan 1", "plain", "scan 2, left", "caf\u00e9", "ward__x"]
    assert find_ids(read_list(str(path))[0], known, where="x") == [image_id]


def test_a_line_that_could_mean_two_images_is_refused():
    with pytest.raises(
        UserError, match=r"scan 1\.png: could mean scan or scan 1; put the image's name in double quotes"
    ):
        find_ids(["scan 1.png"], ["scan", "scan 1"], where="x")
    assert find_ids(['"scan 1.png"', '"scan" 1.png'], ["scan", "scan 1"], where="x") == ["scan 1", "scan"]


def test_the_longest_name_that_is_an_image_counts():
    assert find_ids(["a/b.png", "b.png"], ["a/b", "b"], where="x") == ["a/b", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no image"),
        ("a\nb\na\n", "a is in it twice"),
        ("a\nx/a.png\n", "a is in it twice"),
        ("a\nzebra\n", "zebra: no image of the train split that has a mask"),
    ],
)
def test_a_wrong_list_is_named_in_one_line(tmp_path, text, message):
    path = tmp_path / "mine.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        find_ids(read_list(str(path))[0], ["a", "b"], where=str(path))
    assert f"initial.list={path}" in str(error.value)


def test_a_list_of_a_home_folder_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"^initial\.list=~nobody_here/x\.txt: ~nobody_here is no home folder here$"):
        read_list("~nobody_here/x.txt")


def test_a_missing_list_says_which_there_are():
    with pytest.raises(UserError, match=r"initial.list=cityscapes/cps/1_3.*cityscapes/u2pl/1_8"):
        read_list("cityscapes/cps/1_3")


def test_the_same_images_have_the_same_hash():
    assert ids_sha256(["b", "a"]) == ids_sha256(["a", "b"]) != ids_sha256(["a", "c"])


def test_the_oracle_says_which_classes_an_image_has(toy_data):
    oracle = SimulatedOracle(toy_data, RegionGrid(48, 64, 16))
    truth = {
        i: set(m.ravel().tolist()) - {255} for s in toy_data.shards("train") for i, m in read_truth(toy_data.root, s)
    }
    assert oracle.classes() == truth


def test_a_run_decides_once_and_records_what(toy_data, tmp_path):
    """The list is gone, the ledger too: what was decided still counts."""
    oracle = SimulatedOracle(toy_data, RegionGrid(48, 64, 16))
    names = tmp_path / "list.txt"
    names.write_text("\n".join(f"train/{i}.png" for i in oracle.answerable()[3:6]))
    overrides = ("cycles=0", "train.epochs=1", f"initial.list={names}")
    root = tmp_path / "run"
    summary = small_run(toy_data.root, root, *overrides)
    decided = read_json(root / "labelled_set.json")
    assert decided["ids"] == sorted(oracle.answerable()[3:6])
    assert decided["source"] == f"list {names}"
    assert summary["labelled_set"] == {k: v for k, v in decided.items() if k != "ids"} | {"images": 3}
    names.unlink()
    shutil.rmtree(root / "ledger")
    assert small_run(toy_data.root, root, *overrides)["labelled_set"] == summary["labelled_set"]
    (root / "labelled_set.json").write_text("{")  # now only the ledger knows
    again = small_run(toy_data.root, root, *overrides)["labelled_set"]
    assert again == {**summary["labelled_set"], "source_sha256": None}


def test_a_covering_set_is_drawn_from_the_truth(toy_data, tmp_path):
    oracle = SimulatedOracle(toy_data, RegionGrid(48, 64, 16))
    config = small_config("initial.images=8", "initial.cover=true")
    found = labelled_set(config, oracle, 24, tmp_path / "set.json", None)
    assert len(found["ids"]) == initial_count(config, 24) == 8
    assert set().union(*(oracle.classes()[i] for i in found["ids"])) == set().union(*oracle.classes().values())
