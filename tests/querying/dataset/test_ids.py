"""Files of ids: what they say is what the shards have, whoever reads which; and data sets without them."""

import hashlib
import shutil

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from orchestrator.run.stages import whole_images
from querying.base.errors import DamagedError, UserError
from querying.base.files import read_json, write_json
from querying.base.storage import bucket
from querying.base.storage.place import place
from querying.base.storage.verbs import publish
from querying.dataset import ids as ids_module
from querying.dataset.id_digests import id_digests
from querying.dataset.ids import ids_sha256
from querying.dataset.schemas import LEDGER
from querying.dataset.shards import (
    DataIndex,
    ImageStore,
    SplitIds,
    check_ids,
    image_ids,
    read_images,
    read_truth,
    verify,
)
from querying.labels import ledger as ledger_module
from querying.labels.bought import Bought, by_shard
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from tests.old_data import with_ids, without_ids


@pytest.fixture
def data(toy_data, tmp_path):
    return shutil.copytree(toy_data.root, tmp_path / "data")


def listed(root, split="train"):
    return [part.to_pylist() for part in SplitIds(DataIndex.load(root), split)]


def test_the_files_of_ids_say_what_the_shards_have(data):
    index = DataIndex.load(data)
    assert sorted(index.ids) == sorted(index.splits)
    for split, shards in index.splits.items():
        assert listed(data, split) == [image_ids(data, shard) for shard in shards]
    assert list(verify(index)) == []


def test_ids_are_known_without_a_byte_of_an_image(data):
    for path in data.glob("images/*"):
        path.write_bytes(b"")
    index = DataIndex.load(data)
    check_ids(index)
    assert len(SplitIds(index, "train").column) == 24
    assert len(SimulatedOracle(index, RegionGrid(48, 64, 16)).answerable()) == 24
    assert len(ImageStore(index, "train").ids()) == 24


def test_a_data_set_of_an_earlier_version_is_read_as_before_and_saved_as_it_was(data, toy_data):
    old = DataIndex.load(without_ids(data))
    before = (data / "index.json").read_bytes()
    assert b"ids" not in before
    assert listed(data) == listed(toy_data.root)
    assert ImageStore(old, "train").ids() == ImageStore(toy_data, "train").ids()
    assert list(verify(old)) == []
    old.save()
    assert (data / "index.json").read_bytes() == before
    # What was begun on it goes on where it was made again, and not on another data set.
    assert toy_data.is_that(old.digest)
    assert toy_data.is_that(toy_data.digest)
    assert old.is_that(old.digest)
    assert not old.is_that(toy_data.digest)
    assert not toy_data.is_that(hashlib.sha256(b"another").hexdigest())


@pytest.mark.parametrize("size", [0, 7, 300])
def test_a_file_of_ids_that_is_cut_off_or_altered_is_named(data, size):
    path = data / "ids/train.arrow"
    path.write_bytes(path.read_bytes()[:size] if size < 300 else path.read_bytes()[:-1] + b"x")
    index = DataIndex.load(data)
    assert list(verify(index)) == [f"{path}: differs from what was ingested"]
    for use in (check_ids, lambda index: ImageStore(index, "train")):
        with pytest.raises(DamagedError, match=r"ids/train\.arrow: differs from what was written"):
            use(index)


def test_a_file_of_ids_that_is_missing_is_named(data):
    index = DataIndex.load(data)
    (data / "ids/train.arrow").unlink()
    assert list(verify(index)) == [f"{data}/ids/train.arrow: does not exist"]
    with pytest.raises(UserError, match=r"ids/train\.arrow: does not exist, although"):
        DataIndex.load(data)
    with pytest.raises(DamagedError, match=r"ids/train\.arrow: does not exist"):
        check_ids(index)


FORGED = {
    "two changed over": lambda parts: [[parts[0][1], parts[0][0], *parts[0][2:]], *parts[1:]],
    "another name": lambda parts: [["nobody", *parts[0][1:]], *parts[1:]],
    "two shards changed over": lambda parts: [parts[1], parts[0], *parts[2:]],
}


@pytest.mark.parametrize("right", [False, True], ids=["", "with digests"])
@pytest.mark.parametrize("name", FORGED)
def test_forged_ids_are_found_by_whoever_reads_them_or_the_shard(data, name, right):
    """With digests that are right, too, only the shard can tell."""
    parts = FORGED[name](listed(data))
    with_ids(data, parts, digests=[ids_sha256(part) for part in parts] if right else None)
    index = DataIndex.load(data)
    shard = index.shards("train")[0]
    found = list(verify(index))
    assert found
    assert all("ids/train.arrow" in line for line in found)
    if not right:
        with pytest.raises(DamagedError, match=r"ids/train\.arrow: does not list the images of images/train-00000"):
            check_ids(index)
        return
    check_ids(index)
    message = r"train-00000\.arrow: its images are not those that ids/train\.arrow lists"
    for read in (read_images, read_truth):
        with pytest.raises(DamagedError, match=message):
            list(read(data, shard))
    store = ImageStore(index, "train")
    with pytest.raises(DamagedError, match=message):
        store.image(store.ids()[0])
    # Nothing is bought by them.
    grid, ledger = RegionGrid(48, 64, 16), Ledger(data.parent / "ledger")
    oracle = SimulatedOracle(index, grid)
    with pytest.raises(DamagedError, match=message):
        ledger.append(0, oracle.annotate(0, whole_images(store.ids()[:3], grid)))
    assert not ledger.has(0)


@pytest.mark.parametrize("change", [lambda p: p[:-1], lambda p: [*p, ["more"]], lambda p: [p[0][:-1], *p[1:]]])
def test_ids_of_another_number_of_shards_or_images_are_refused(data, change):
    with_ids(data, change(listed(data)))
    index = DataIndex.load(data)
    with pytest.raises(DamagedError, match=r"ids/train\.arrow: (has \d parts for 5 shards|4 images, the index says 5)"):
        check_ids(index)
    assert len(list(verify(index))) == 1


def test_an_index_that_says_half_of_it_is_refused(data):
    for change in (
        lambda tree: tree["splits"]["train"][0].pop("ids_sha256"),
        lambda tree: tree["ids"].update(train="x" * 64),
        lambda tree: tree["ids"].update(nowhere="0" * 64),
        lambda tree: tree.update(ids=[1]),
    ):
        whole = (data / "index.json").read_bytes()
        tree = read_json(data / "index.json")
        change(tree)
        write_json(data / "index.json", tree)
        with pytest.raises(UserError, match=r"index\.json: .*ids"):
            DataIndex.load(data)
        (data / "index.json").write_bytes(whole)


def test_of_a_data_set_in_a_bucket_no_shard_is_fetched_for_its_ids(toy_data, url, store, monkeypatch):
    publish(toy_data.root, place(url), "index.json")
    fetched = []
    opened = bucket.opened
    monkeypatch.setattr(bucket, "opened", lambda at, *more: (fetched.append(at.key), opened(at, *more))[1])
    index = DataIndex.load(place(url))
    check_ids(index)
    assert len(ImageStore(index, "train").ids()) == 24
    assert sorted(key.rpartition("ids/")[2] for key in fetched if "/ids/" in key) == [
        "test.arrow", "train.arrow", "val.arrow"
    ]  # fmt: skip
    assert not [key for key in fetched if "/images/" in key or "/truth/" in key]
    assert list(verify(index)) == []


CELL = st.tuples(st.integers(0, 23), st.integers(0, 11), st.integers(1, 2))


@settings(deadline=None, max_examples=15)
@given(
    cells=st.lists(CELL, max_size=80, unique_by=lambda cell: cell[:2]),
    first=st.sets(st.integers(0, 23), min_size=1, max_size=3),
    order=st.randoms(use_true_random=False),
)
def test_what_was_bought_by_shard_is_what_the_ledger_says(tmp_path_factory, toy_data, cells, first, order):
    ids = SplitIds(toy_data, "train")
    names = ids.column.to_pylist()
    cells = [cell for cell in cells if cell[0] not in first]
    order.shuffle(cells)  # in any order: people's answers may come so
    ledger = Ledger(tmp_path_factory.mktemp("ledger"))
    ledger.append(0, [rows([(names[one], 0) for one in sorted(first)], 0)])
    for cycle in (1, 2):
        ledger.append(cycle, [rows([(names[i], region) for i, region, c in cells if c == cycle], cycle)])
    bought, expected = Bought(ledger, 2, ids), ledger.bought(2)
    found = {}
    for number, part in enumerate(ids):
        found |= {part[row].as_py(): regions for row, regions in bought.of_shard(number).items()}
    assert found == expected
    whole, expected = bought.whole(np.full(24, 3)), set(ledger.whole(2, lambda _: 3))
    assert {names[place] for place in np.flatnonzero(whole)} == expected


FNV_1A = {"": 0xCBF29CE484222325, "a": 0xAF63DC4C8601EC8C, "foobar": 0x85944171F73967E8}
"""From the reference's own list of vectors."""


def test_digests_of_ids_are_the_published_ones_of_their_bytes():
    assert id_digests(pa.array(list(FNV_1A), pa.string())).tolist() == list(FNV_1A.values())
    assert id_digests(pa.array([], pa.string())).shape == (0,)


@given(st.lists(st.text(max_size=12), max_size=12), st.integers(0, 3))
def test_digests_of_ids_are_those_of_a_loop_over_bytes_in_any_slice(ids, first):
    def one(text):
        digest = FNV_1A[""]
        for byte in text.encode():
            digest = (digest ^ byte) * 0x100000001B3 % 2**64
        return digest

    assert id_digests(pa.array(ids, pa.string())[first:]).tolist() == [one(text) for text in ids[first:]]


def few(ids):
    """Digests that many ids share."""
    return np.array([len(text) % 2 + ord(text[-1]) % 2 for text in ids.to_pylist()], np.uint64)


@pytest.mark.parametrize("digests", [id_digests, few])
def test_a_place_is_the_one_of_the_id_whatever_others_have_its_digest(toy_data, monkeypatch, digests):
    monkeypatch.setattr(ids_module, "id_digests", digests)
    ids = SplitIds(toy_data, "train")
    names = ids.column.to_pylist()
    asked = [*reversed(names), "nobody", names[3], names[0] + "x"]
    places = ids.places(pa.chunked_array([asked[:7], asked[7:]]))
    assert places.tolist() == [*reversed(range(24)), -1, 3, -1]
    assert ids.places(pa.chunked_array([], pa.string())).tolist() == []
    check_ids(toy_data)  # none is there twice


@pytest.mark.parametrize("digests", [id_digests, few])
@given(
    tables=st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-1, 3)), max_size=4), min_size=1, max_size=3)
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_cell_that_is_bought_twice_is_refused_as_a_search_one_by_one_finds_it(
    tmp_path_factory, monkeypatch, digests, tables
):
    monkeypatch.setattr(ledger_module, "id_digests", digests)
    ledger, bought = Ledger(tmp_path_factory.mktemp("ledger")), []
    for cycle, pairs in enumerate(tables):
        before = [*bought]
        twice = None
        for image_id, region in pairs:
            clash = [r for i, r in before if i == image_id and (region in (r, -1) or r == -1)]
            twice = twice or ((image_id, region) if clash else None)
            before.append((image_id, region))
        if twice:
            with pytest.raises(ValueError, match=f"image {twice[0]}: region {twice[1]} is bought twice"):
                ledger.append(cycle, [rows(pairs, cycle)])
            assert not ledger.has(cycle)
            assert not ledger.note(cycle).exists()
            return
        ledger.append(cycle, [rows(pairs, cycle)])
        bought = before


def rows(pairs, cycle):
    return pa.RecordBatch.from_pylist(
        [
            {"image_id": i, "region": r, "cycle": cycle, "pixels": 1, "void_pixels": 0, "score": None, "label": b"x"}
            for i, r in pairs
        ],
        schema=LEDGER,
    )


def test_rows_by_shard_are_all_rows_in_their_order_and_a_strange_image_is_named(toy_data):
    ids = SplitIds(toy_data, "train")
    names = ids.column.to_pylist()
    rng = np.random.default_rng(0)
    table = pa.table({"image_id": [names[k] for k in rng.integers(0, 24, 60)], "row": np.arange(60)})
    parts = list(by_shard(table, ids))
    assert len(parts) == 5
    for number, part in enumerate(parts):
        own = set(ids.of(number).to_pylist())
        assert part["row"].to_pylist() == sorted(
            (row for row, name in enumerate(table["image_id"].to_pylist()) if name in own),
            key=lambda row: (names.index(table["image_id"][row].as_py()), row),
        )
    with pytest.raises(UserError, match="image nobody: not in the train split of "):
        list(by_shard(pa.table({"image_id": [names[0], "nobody"]}), ids))
