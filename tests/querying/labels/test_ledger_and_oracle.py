import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from querying.base.errors import DamagedError, UserError
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import LEDGER, QUERY
from querying.dataset.shards import decode_label, image_ids, read_truth
from querying.labels.ledger import Ledger, Spent, shares
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import WHOLE, RegionGrid


def query(*cells):
    return pa.Table.from_pylist(
        [{"image_id": i, "region": r, "score": s / 8} for s, (i, r) in enumerate(cells)], schema=QUERY
    )


@pytest.fixture
def oracle(toy_data):
    return SimulatedOracle(toy_data, RegionGrid(toy_data.height, toy_data.width, 20))


@pytest.fixture
def ids(oracle):
    return oracle.answerable()


def test_the_oracle_reveals_exactly_the_wanted_cells(oracle, ids, toy_data):
    wanted = [(ids[7], 3), (ids[0], 11), (ids[7], 0)]  # 11 is the smaller corner cell of a 3 x 4 grid
    rows = [row for batch in oracle.annotate(2, query(*wanted)) for row in batch.to_pylist()]
    truth = {i: m for shard in toy_data.shards("train") for i, m in read_truth(toy_data.root, shard)}
    assert {(row["image_id"], row["region"]) for row in rows} == set(wanted)
    for row in rows:
        cell = truth[row["image_id"]][oracle.grid.box(row["region"])]
        assert np.array_equal(decode_label(row["label"]), cell)
        assert (row["pixels"], row["void_pixels"]) == (cell.size, (cell == IGNORE).sum())
        assert row["cycle"] == 2
        assert row["score"] == wanted.index((row["image_id"], row["region"])) / 8


def test_nothing_wanted_is_nothing_revealed(oracle):
    assert list(oracle.annotate(1, query())) == []


def test_an_image_that_is_not_in_the_pool_is_named(oracle):
    with pytest.raises(UserError, match="image nowhere: not in the train split"):
        list(oracle.annotate(1, query(("nowhere", 0))))


def test_the_ledger_counts_exactly_and_refuses_a_second_charge(oracle, ids, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(0, oracle.annotate(0, query(*[(ids[0], r) for r in range(12)])))
    ledger.append(1, oracle.annotate(1, query((ids[1], 2), (ids[2], 11))))
    assert ledger.spent(0).pixels == 48 * 64
    assert (ledger.spent(1).cells, ledger.spent(1).pixels) == (14, 48 * 64 + 20 * 20 + 8 * 4)
    assert ledger.images(0) == [ids[0]]
    assert ledger.bought(1) == {ids[1]: [2], ids[2]: [11]}
    assert ledger.bought(0) == {}
    with pytest.raises(ValueError, match=f"image {ids[1]}: region 2 is bought twice"):
        ledger.append(2, oracle.annotate(2, query((ids[3], 1), (ids[1], 2))))
    assert not ledger.has(2)  # nothing half-written
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["cycle-000"] * 2 + ["cycle-001"] * 2
    with pytest.raises(FileExistsError):
        ledger.append(1, [])


def test_what_a_cycle_adds_is_read_once_and_a_changed_file_is_seen(oracle, ids, tmp_path, monkeypatch):
    ledger, read = Ledger(tmp_path), []
    for cycle in range(10):
        ledger.append(cycle, oracle.annotate(cycle, query((ids[cycle], 0), (ids[cycle], 11))))
    found = Ledger.read
    monkeypatch.setattr(
        Ledger,
        "read",
        lambda self, cycle, columns=None, **more: read.append(cycle) or found(self, cycle, columns, **more),
    )
    assert [ledger.spent(cycle) for cycle in range(10)] == [
        Spent(2 * n, n * (20 * 20 + 8 * 4), ledger.spent(n - 1).void_pixels) for n in range(1, 11)
    ]
    assert read == list(range(10))
    whole = ledger.path(3).read_bytes()
    ledger.path(3).write_bytes(whole[:60] + bytes([whole[60] ^ 1]) + whole[61:])
    with pytest.raises(DamagedError, match=r"cycle-003\.parquet: differs from what was written"):
        ledger.spent(9)
    for path in (ledger.path(3), ledger.note(3)):
        path.unlink()
    ledger.append(3, oracle.annotate(3, query((ids[3], 5))))
    assert ledger.spent(9).cells == 19
    ledger.path(9).unlink()
    with pytest.raises(DamagedError, match=r"cycle-009\.parquet"):
        ledger.spent(9)


def test_a_cycle_in_which_nothing_was_asked_is_an_empty_file(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(0, [])
    assert ledger.has(0)
    assert ledger.spent(0) == Spent(0, 0, 0)
    assert ledger.read(0).schema.names == LEDGER.names


def test_a_flipped_bit_in_the_ledger_is_noticed(oracle, ids, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(0, oracle.annotate(0, query(*[(ids[0], r) for r in range(12)])))
    whole = ledger.path(0).read_bytes()
    place = whole.index(b"IHDR") + 8  # inside a cell's pixels
    ledger.path(0).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(DamagedError, match=r"cycle-000\.parquet"):
        ledger.read(0)


@pytest.mark.parametrize("spoil", ["cycle-000.parquet", "cycle-000.json", "cycle-001.parquet", "cycle-001.json"])
def test_every_flipped_bit_and_cut_of_the_ledger_is_named(oracle, ids, tmp_path, spoil):
    ledger = Ledger(tmp_path)
    ledger.append(0, oracle.annotate(0, query(*[(ids[0], r) for r in range(12)])))
    ledger.append(1, oracle.annotate(1, query((ids[1], 2))))
    assert ledger.problems(0) == ledger.problems(1) == []
    whole = (tmp_path / spoil).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(whole), size=60):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        (tmp_path / spoil).write_bytes(flipped)
        assert str(tmp_path) in "".join(ledger.problems(0) + ledger.problems(1)), place
    for size in (0, len(whole) // 2, len(whole) - 2):
        (tmp_path / spoil).write_bytes(whole[:size])
        assert ledger.problems(0) + ledger.problems(1)


def test_a_cycle_that_was_exchanged_for_another_is_noticed(oracle, ids, tmp_path):
    """Its own note is right; the chain is not."""
    for name, first in (("a", ids[0]), ("b", ids[3])):
        ledger = Ledger(tmp_path / name)
        ledger.append(0, oracle.annotate(0, query(*[(first, r) for r in range(12)])))
        ledger.append(1, oracle.annotate(1, query((ids[1], 2))))
    for suffix in ("parquet", "json"):
        (tmp_path / "a" / f"cycle-000.{suffix}").write_bytes((tmp_path / "b" / f"cycle-000.{suffix}").read_bytes())
    ledger = Ledger(tmp_path / "a")
    assert ledger.problems(0) == []
    assert ledger.problems(1) == [f"{ledger.path(1)}: does not follow the cycle before it"]


def test_the_shares_of_the_papers_camvid_setting():
    """37 of 367 images whole, then 4 of 192 cells of 330: 2.083 % of an image, 1.873 % of all pixels."""
    image = 360 * 480
    initial, spent = Spent(37 * 192, 37 * image, 0), Spent(37 * 192 + 330 * 4, 37 * image + 330 * 4 * 900, 1000)
    found = shares(spent, initial, 367 * image, 60_913_605)
    assert found["labelled_fraction"] == pytest.approx(37 / 367 + 0.01873, abs=1e-5)
    assert found["queried_fraction_pool"] == pytest.approx(4 / 192)
    assert found["labelled_fraction_valid"] == pytest.approx((spent.pixels - 1000) / 60_913_605)
    assert shares(spent, initial, 367 * image, None)["labelled_fraction_valid"] is None


def test_answerable_lists_the_train_images_in_order(oracle, toy_data):
    assert oracle.answerable() == [i for s in toy_data.shards("train") for i in image_ids(toy_data.root, s)]


def test_a_whole_image_in_one_row_is_all_of_its_regions(oracle, ids, toy_data, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(0, oracle.annotate(0, query((ids[3], WHOLE), (ids[1], WHOLE))))
    assert (ledger.spent(0).cells, ledger.spent(0).pixels) == (2, 2 * 48 * 64)
    truth = {i: m for shard in toy_data.shards("train") for i, m in read_truth(toy_data.root, shard)}
    table = ledger.read(0)
    for image_id, png in zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True):
        assert np.array_equal(decode_label(png), truth[image_id])
    for again in (0, 11, WHOLE):
        with pytest.raises(ValueError, match=f"image {ids[3]}: region {again} is bought twice"):
            ledger.append(1, oracle.annotate(1, query((ids[3], again))))
    ledger.append(1, oracle.annotate(1, query((ids[0], 11))))
    with pytest.raises(ValueError, match=f"image {ids[0]}: region -1 is bought twice"):
        ledger.append(2, oracle.annotate(2, query((ids[0], WHOLE))))


def test_an_image_is_whole_when_its_last_region_is_bought(oracle, ids, tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(0, oracle.annotate(0, query(*[(ids[0], r) for r in range(12)])))
    ledger.append(1, oracle.annotate(1, query(*[(ids[2], r) for r in range(12)], (ids[1], 2))))
    ledger.append(2, oracle.annotate(2, query(*[(ids[1], r) for r in range(12) if r not in (2, 7)])))
    ledger.append(3, oracle.annotate(3, query((ids[1], 7))))
    assert [set(ledger.whole(cycle, lambda _: 12)) for cycle in range(4)] == [
        {ids[0]},
        {ids[0], ids[2]},
        {ids[0], ids[2]},
        set(ids[:3]),
    ]


def test_a_cycle_of_thousands_of_shards_has_few_row_groups_and_one_of_few_shards_the_bytes_it_always_had(tmp_path):
    """What is known of 9,375 row groups took ten times the memory of what was in them."""
    rows = {"region": 0, "cycle": 0, "pixels": 1, "void_pixels": 0, "score": 0.5, "label": b"x"}
    batches = [pa.RecordBatch.from_pylist([{"image_id": f"{n}", **rows}], schema=LEDGER) for n in range(6000)]
    ledger = Ledger(tmp_path / "many")
    ledger.append(0, iter(batches))
    file = pq.ParquetFile(ledger.path(0))
    assert (file.num_row_groups, file.metadata.num_rows) == (1024 + 2, 6000)
    assert file.read()["image_id"].to_pylist() == [f"{n}" for n in range(6000)]

    few = Ledger(tmp_path / "few")
    few.append(0, iter(batches[:5]))
    with pq.ParquetWriter(tmp_path / "plain", LEDGER, write_page_checksum=True) as writer:
        for batch in batches[:5]:
            writer.write_batch(batch)
    assert few.path(0).read_bytes() == (tmp_path / "plain").read_bytes()
