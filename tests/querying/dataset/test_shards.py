import hashlib
import io
import json
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from querying.base.arrow_file import ArrowFile
from querying.base.errors import DamagedError, UserError
from querying.base.files import read_json, write_json
from querying.base.storage.place import Place
from querying.dataset.ids import images_file
from querying.dataset.index import Shard
from querying.dataset.label_values import IGNORE
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import (
    BATCH_ROWS,
    DataIndex,
    ImageStore,
    decode_image,
    decode_label,
    encode_image,
    encode_label,
    image_ids,
    read_images,
    read_truth,
    size_of,
    verify,
)

NUM_CLASSES = 5


def picture(number: int, height: int = 12, width: int = 17) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def labels(number: int, height: int = 12, width: int = 17) -> np.ndarray:
    label_HW = np.random.default_rng(1000 + number).integers(0, NUM_CLASSES + 1, (height, width), dtype=np.uint8)
    return np.where(label_HW == NUM_CLASSES, np.uint8(IGNORE), label_HW)


def mask_of(number: int) -> np.ndarray | None:
    return None if number % 3 == 2 else labels(number)


def build(root: Path, count: int = 21, shard_size: int = 10, encoding: str = "ppm") -> DataIndex:
    writer = ShardWriter(root, "train", num_classes=NUM_CLASSES, shard_size=shard_size, encoding=encoding)
    with writer:
        for number in range(count):
            writer.add(f"img_{number}", picture(number), mask_of(number))
    classes = tuple("abcde")
    palette = tuple((k, k, k) for k in range(NUM_CLASSES))
    DataIndex(root, "t", classes, palette, 12, 17, encoding, {"kind": "t"}, {"train": writer.close()}).save()
    return DataIndex.load(root)


@settings(deadline=None, max_examples=30)
@given(height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**16))
def test_ppm_png_and_labels_come_back_exactly(height: int, width: int, seed: int) -> None:
    image_HWC, label_HW = picture(seed, height, width), picture(seed, height, width)[..., 0]
    for encoding in ("ppm", "png"):
        np.testing.assert_array_equal(decode_image(encode_image(image_HWC, encoding)), image_HWC)
    np.testing.assert_array_equal(decode_label(encode_label(label_HW)), label_HW)
    assert encode_label(label_HW) == encode_label(label_HW.copy())


def test_pixels_that_look_like_a_ppm_header_are_not_taken_for_one() -> None:
    image_HWC = np.frombuffer(b"\n255\n 7 P6\n" * 9, np.uint8).reshape(3, 11, 3)
    np.testing.assert_array_equal(decode_image(encode_image(image_HWC, "ppm")), image_HWC)


def test_a_ppm_is_what_any_image_library_reads_and_decodes_to_a_view_of_the_same_memory() -> None:
    data = encode_image(picture(1, 360, 480), "ppm")
    assert len(data) == 360 * 480 * 3 + 15
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), picture(1, 360, 480))
    assert np.shares_memory(decode_image(data), np.frombuffer(data, np.uint8))


def test_jpeg_of_a_smooth_image_is_within_a_few_grey_levels() -> None:
    ramp_HWC = np.broadcast_to(np.arange(0, 160, 2, dtype=np.uint8)[:, None, None], (80, 64, 3)).copy()
    error_HWC = decode_image(encode_image(ramp_HWC, "jpeg")).astype(int) - ramp_HWC
    assert np.abs(error_HWC).max() <= 4


@pytest.mark.parametrize("encoding", ["ppm", "png"])
@pytest.mark.parametrize("count", [1, BATCH_ROWS, 10, 11, 20, 21])
def test_what_was_added_is_read_back_in_order_over_shard_boundaries(tmp_path: Path, count: int, encoding: str) -> None:
    index = build(tmp_path, count, shard_size=10, encoding=encoding)
    shards = index.shards("train")
    assert [shard.rows for shard in shards] == [10] * (count // 10) + [count % 10] * (count % 10 > 0)
    images = [row for shard in shards for row in read_images(tmp_path, shard)]
    truth = [row for shard in shards for row in read_truth(tmp_path, shard)]
    names = [f"img_{number}" for number in range(count)]
    assert [name for name, _ in images] == [name for name, _ in truth] == names
    assert [name for shard in shards for name in image_ids(tmp_path, shard)] == names
    for number in range(count):
        np.testing.assert_array_equal(images[number][1], picture(number))
        np.testing.assert_array_equal(truth[number][1], mask_of(number))  # type: ignore[arg-type]


def test_the_index_counts_the_pixels_of_every_class_and_of_void(tmp_path: Path) -> None:
    shards = build(tmp_path).shards("train")
    masks = [mask for number in range(21) if (mask := mask_of(number)) is not None]
    expected = [sum(int((mask == k).sum()) for mask in masks) for k in (*range(NUM_CLASSES), IGNORE)]
    assert [sum(counts) for counts in zip(*(shard.class_pixels for shard in shards), strict=True)] == expected[:-1]
    assert sum(shard.void_pixels for shard in shards) == expected[-1]
    assert sum(shard.masked for shard in shards) == len(masks)


def test_the_images_file_holds_no_truth_and_batches_are_small(tmp_path: Path) -> None:
    index = build(tmp_path)
    for shard in index.shards("train"):
        reader = pa.ipc.open_file(pa.memory_map(str(tmp_path / shard.images)))
        assert reader.schema.names == ["image_id", "image", "height", "width"]
        assert all(reader.get_batch(k).num_rows <= BATCH_ROWS for k in range(reader.num_record_batches))


def test_only_the_wanted_ids_are_read(tmp_path: Path) -> None:
    shard = build(tmp_path).shards("train")[0]
    wanted = {"img_8", "img_3", "img_15"}
    assert [name for name, _ in read_images(tmp_path, shard, wanted)] == ["img_3", "img_8"]
    assert [name for name, _ in read_truth(tmp_path, shard, wanted)] == ["img_3", "img_8"]


@pytest.mark.parametrize("encoding", ["ppm", "jpeg"])
def test_the_store_agrees_with_the_sequential_reader_without_opening_the_truth(tmp_path: Path, encoding: str) -> None:
    index = build(tmp_path, count=80, shard_size=2, encoding=encoding)  # more shards than it keeps open
    for shard in index.shards("train"):
        (tmp_path / shard.truth).unlink()
    store = ImageStore(index, "train")
    expected = dict(row for shard in index.shards("train") for row in read_images(tmp_path, shard))
    assert store.ids() == list(expected)
    order = list(np.random.default_rng(0).permutation(store.ids())) * 2
    wrong: list[str] = []

    def read() -> None:
        wrong.extend(name for name in order if not np.array_equal(store.image(name), expected[name]))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_while_a_shard_is_fetched_others_read_what_they_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ImageStore(build(tmp_path), "train")
    store.image("img_0")
    asked, arrives = threading.Event(), threading.Event()

    def slow(root: Place, shard: Shard) -> ArrowFile:
        asked.set()
        assert arrives.wait(60)
        return images_file(root, shard)

    monkeypatch.setattr("querying.dataset.shards.images_file", slow)
    found: list[np.ndarray] = []
    waits = threading.Thread(target=lambda: found.append(store.image("img_20")))
    reads = threading.Thread(target=lambda: found.append(store.image("img_1")))
    waits.start()
    assert asked.wait(60)
    reads.start()
    reads.join(30)
    assert [image_HWC.tolist() for image_HWC in found] == [picture(1).tolist()]
    arrives.set()
    waits.join(60)
    assert found[1].tolist() == picture(20).tolist()


def test_a_view_from_the_store_outlives_the_store(tmp_path: Path) -> None:
    store = ImageStore(build(tmp_path), "train")
    image_HWC = store.image("img_4")
    del store
    assert not image_HWC.flags.writeable
    np.testing.assert_array_equal(image_HWC, picture(4))


def test_a_label_that_is_no_class_is_refused_by_name(tmp_path: Path) -> None:
    mask_HW = labels(0)
    mask_HW[3, 4] = NUM_CLASSES
    with pytest.raises(UserError, match=r"frame_7.*label 5"), ShardWriter(tmp_path, "x", num_classes=5) as writer:
        writer.add("frame_7", picture(0), mask_HW)


def test_the_index_survives_a_round_trip_and_its_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    index = build(tmp_path)
    raw = (tmp_path / "index.json").read_bytes()
    assert index.digest == hashlib.sha256(raw).hexdigest()
    assert json.loads(raw)["schema"] == 1
    assert index.num_images("train") == 21
    assert index.num_classes == 5
    index.save()
    assert (tmp_path / "index.json").read_bytes() == raw
    with pytest.raises(UserError, match=r"'trian'.*train"):
        index.shards("trian")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("palette"), "'palette' is missing"),
        (lambda data: data["splits"]["train"][0].pop("rows"), "'rows' is missing"),
        (lambda data: data.update(schema=9), "schema 9"),
        (lambda data: data.update(splits=[1]), "not the index"),
        (lambda data: data.update(palette=[[1, 2]]), "not the index"),
        (lambda data: data.update(height="tall"), "not the index"),
        (lambda data: data["classes"].append("f"), "6 classes but 5"),
        (lambda data: data["splits"]["train"][0].update(images="../x"), "'../x': a file in the folder"),
        (lambda data: data["splits"]["train"][0].update(truth="/etc/passwd"), "'/etc/passwd': a file in the folder"),
    ],
)
def test_a_malformed_index_is_named_with_what_is_wrong(tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    build(tmp_path)
    path = tmp_path / "index.json"
    data = read_json(path)
    change(data)
    write_json(path, data)
    with pytest.raises(UserError, match=rf"index\.json: .*{message}"):
        DataIndex.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\xff\x00"])
def test_an_index_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedError, match=r"index\.json"):
        DataIndex.load(tmp_path)


@pytest.mark.parametrize(
    ("folder", "kind"), [("trainannot", "camvid"), ("leftImg8bit", "cityscapes"), ("images", "folder")]
)
def test_raw_images_in_place_of_a_data_set_are_recognised(tmp_path: Path, folder: str, kind: str) -> None:
    with pytest.raises(UserError, match=r"index\.json: does not exist.*not a data set$"):
        DataIndex.load(tmp_path)
    (tmp_path / folder).mkdir()
    with pytest.raises(UserError, match=f"s4al ingest {kind} "):
        DataIndex.load(tmp_path)


def test_a_listed_shard_that_is_not_there_is_named(tmp_path: Path) -> None:
    build(tmp_path)
    (tmp_path / "truth/train-00001.arrow").unlink()
    with pytest.raises(UserError, match=r"truth/train-00001\.arrow: does not exist"):
        DataIndex.load(tmp_path)


def test_verify_finds_one_flipped_bit_and_a_missing_file(tmp_path: Path) -> None:
    index = build(tmp_path)
    assert list(verify(index)) == []
    path = tmp_path / "images/train-00001.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    (tmp_path / "truth/train-00000.arrow").unlink()
    first, second = verify(index)
    assert "truth/train-00000.arrow: does not exist" in first
    assert "images/train-00001.arrow: differs" in second


@pytest.mark.parametrize("size", [0, 4, 100, 3000])
def test_a_truncated_shard_is_damage_that_names_the_file(tmp_path: Path, size: int) -> None:
    index = build(tmp_path)
    path = tmp_path / "images/train-00000.arrow"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DamagedError, match=r"images/train-00000\.arrow"):
        ImageStore(index, "train")


def test_the_truth_in_place_of_the_images_is_damage(tmp_path: Path) -> None:
    index = build(tmp_path)
    (tmp_path / "truth/train-00000.arrow").replace(tmp_path / "images/train-00000.arrow")
    with pytest.raises(DamagedError, match=r"images/train-00000\.arrow: differs from what was written"):
        list(read_images(tmp_path, index.shards("train")[0]))


SIZES = [(12, 17)] * 3 + [(20, 9)] * 2 + [(12, 17)]


def several(root: Path) -> DataIndex:
    writer = ShardWriter(root, "train", num_classes=NUM_CLASSES, shard_size=2)
    with writer:
        for number, size in enumerate(SIZES):
            writer.add(f"img_{number}", picture(number, *size), labels(number, *size))
    palette = tuple((k, k, k) for k in range(NUM_CLASSES))
    DataIndex(root, "t", tuple("abcde"), palette, 20, 17, "ppm", {}, {"train": writer.close()}).save()
    return DataIndex.load(root)


def test_images_of_several_sizes_are_in_shards_of_one_and_come_back_at_theirs(tmp_path: Path) -> None:
    index = several(tmp_path)
    shards = index.shards("train")
    assert [(shard.rows, shard.size) for shard in shards] == [(2, (12, 17)), (1, (12, 17)), (2, (20, 9)), (1, (12, 17))]
    assert json.loads((tmp_path / "index.json").read_text())["schema"] == 2
    assert index.several_sizes
    assert index.sizes("train") == {(12, 17): 4, (20, 9): 2}
    assert index.num_pixels("train") == 4 * 12 * 17 + 2 * 20 * 9
    store, size = ImageStore(index, "train"), size_of(index, "train")
    for number, wanted in enumerate(SIZES):
        assert store.size(f"img_{number}") == size(f"img_{number}") == wanted
        np.testing.assert_array_equal(store.image(f"img_{number}"), picture(number, *wanted))
    read = [mask for shard in shards for _, mask in read_truth(tmp_path, shard)]
    assert [mask.shape for mask in read if mask is not None] == SIZES


def test_a_data_set_of_one_size_does_not_say_sizes_of_shards(tmp_path: Path) -> None:
    build(tmp_path)
    written = json.loads((tmp_path / "index.json").read_text())
    assert written["schema"] == 1
    assert not {"height", "width", "content"} & set(written["splits"]["train"][0])


@pytest.mark.parametrize("change", [{"height": 19}, {"width": 18}, {"schema": 3}])
def test_sizes_that_do_not_fit_together_are_refused(tmp_path: Path, change: dict[str, int]) -> None:
    several(tmp_path)
    written = read_json(tmp_path / "index.json", reads=2)
    write_json(tmp_path / "index.json", written | change)
    with pytest.raises(UserError, match=r"largest height and width of its shards|schema 3 is unknown"):
        DataIndex.load(tmp_path)


def test_a_shard_that_says_another_size_is_damage_that_names_the_image(tmp_path: Path) -> None:
    several(tmp_path)
    written = read_json(tmp_path / "index.json", reads=2)
    written["splits"]["train"][2] |= {"height": 9, "width": 20}
    written |= {"height": 12, "width": 20}
    write_json(tmp_path / "index.json", written)
    with pytest.raises(DamagedError, match=r"img_3 has shape \(20, 9\), where \(9, 20\) was expected"):
        list(read_images(tmp_path, DataIndex.load(tmp_path).shards("train")[2]))
