"""The doctor finds what was damaged after ingest, and what ingest would never have written."""

import shutil

import pyarrow as pa
import pytest

from benchmarks.datasets.doctor import doctor_command, numbers, warnings_of
from orchestrator.run.preflight import check_data
from querying.base.errors import DamagedError, UserError
from querying.base.files import read_json, sha256, write_json
from querying.dataset.shards import DataIndex
from tests.small import small_config


@pytest.fixture
def data(toy_data, tmp_path):
    return shutil.copytree(toy_data.root, tmp_path / "data")


def edit(data, change):
    index = read_json(data / "index.json")
    change(index)
    write_json(data / "index.json", index)


def rewrite(data, name, change):
    """Change the rows of a shard and give the index the new hash, as no accident could."""
    path = data / name
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    rows = table.to_pylist()
    change(rows)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=table.schema), max_chunksize=8)

    def rehash(index):
        for shard in (shard for shards in index["splits"].values() for shard in shards):
            for part in ("images", "truth"):
                if shard[part] == name:
                    shard[f"{part}_sha256"] = sha256(path)

    edit(data, rehash)


def test_a_sound_data_set_is_fine_and_its_numbers_are_shown(data, toy_data, capsys):
    doctor_command(data)
    shown = capsys.readouterr().out
    assert "fine" in shown
    assert "problem" not in shown
    pixels = [sum(shard.class_pixels[k] for shard in toy_data.shards("train")) for k in range(6)]
    (line,) = [line for line in shown.splitlines() if line.startswith(f"│ {toy_data.classes[0]} ")]
    assert f"{100 * pixels[0] / sum(pixels):.2f}" in line
    void = sum(shard.void_pixels for shard in toy_data.shards("test"))
    (line,) = [line for line in shown.splitlines() if line.startswith("│ test ")]
    assert f"{100 * void / (6 * 48 * 64):.2f}" in line


def test_every_flipped_byte_is_found_and_counted(data):
    for name in ("images/train-00001.arrow", "truth/val-00000.arrow"):
        content = bytearray((data / name).read_bytes())
        content[len(content) // 2] ^= 1
        (data / name).write_bytes(content)
    with pytest.raises(
        DamagedError, match=r"train-00001.arrow: differs from what was ingested \(and 1 more\)"
    ) as caught:
        doctor_command(data)
    assert caught.value.exit_status == 4


def test_all_problems_are_listed(data, capsys):
    for name in ("images/train-00001.arrow", "truth/val-00000.arrow"):
        (data / name).write_bytes(b"")
    with pytest.raises(DamagedError):
        doctor_command(data)
    problems = [line for line in capsys.readouterr().out.splitlines() if line.startswith("problem: ")]
    assert [name in line for name, line in zip(("train-00001", "val-00000"), problems, strict=True)] == [True, True]


def swap_ids(rows):
    rows[0]["image_id"], rows[1]["image_id"] = rows[1]["image_id"], rows[0]["image_id"]


def stray_label(rows):
    import numpy as np

    from querying.dataset.shards import decode_label, encode_label

    mask = decode_label(rows[0]["mask"]).copy()
    mask[0, 0] = np.uint8(77)
    rows[0]["mask"] = encode_label(mask)


def narrow_mask(rows):
    from querying.dataset.shards import decode_label, encode_label

    rows[0]["mask"] = encode_label(decode_label(rows[0]["mask"])[:, :-1].copy())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("truth/train-00000.arrow", swap_ids, r"truth/train-00000.arrow: its images are not those of"),
        ("truth/train-00000.arrow", stray_label, r"train-00000.arrow: label 77 is none of the 6 classes"),
        ("truth/train-00000.arrow", narrow_mask, r"the mask of image train_00000 has shape \(48, 63\)"),
        ("truth/train-00000.arrow", lambda rows: rows[0].update(mask=None), r"differ from the counts in the index"),
        ("images/train-00000.arrow", lambda rows: rows.pop(), r"train-00000.arrow: 4 images, the index says 5"),
        (
            "images/val-00000.arrow",
            lambda rows: rows[0].update(image_id="train_00000"),
            r"images/val-00000.arrow: its images are not those that ids/val.arrow lists",
        ),
    ],
)
def test_a_shard_that_does_not_hold_what_the_index_says_is_named(data, name, change, message):
    rewrite(data, name, change)
    with pytest.raises(DamagedError, match=message):
        doctor_command(data)


def test_wrong_counts_in_the_index_are_found(data):
    edit(data, lambda index: index["splits"]["test"][0].update(void_pixels=1))
    with pytest.raises(DamagedError, match=r"truth/test-00000.arrow: pixels per class or masks differ"):
        doctor_command(data)


def test_a_folder_that_is_no_data_set_is_a_mistake_of_the_user(tmp_path):
    with pytest.raises(UserError, match=r"index.json: does not exist"):
        doctor_command(tmp_path)


def test_a_class_that_a_split_lacks_is_a_warning_with_its_consequence(data):
    def remove(index):
        for split in ("train", "test"):
            for shard in index["splits"][split]:
                shard["class_pixels"][2] = 0
        index["splits"]["train"][0]["masked"] -= 2

    edit(data, remove)
    index = DataIndex.load(data)
    found = list(warnings_of(index, data))
    assert any(line == f"split train: no pixel of {index.classes[2]} (no label teaches it)" for line in found)
    assert any(line.startswith(f"split test: no pixel of {index.classes[2]}") for line in found)
    assert any(line.startswith("split train: 2 images without a mask") for line in found)


def test_masks_of_void_alone_or_none_at_all_are_a_warning(data):
    def spoil(index):
        for split in ("train", "val", "test"):
            for shard in index["splits"][split]:
                shard["void_pixels"] += sum(shard["class_pixels"])
                shard["class_pixels"] = [0] * len(shard["class_pixels"])
                shard["masked"] *= split != "test"

    edit(data, spoil)
    found = list(warnings_of(DataIndex.load(data), data))
    assert "split train: all pixels of its masks are void (nothing can be learned from it)" in found
    assert "split val: all pixels of its masks are void (nothing can be measured on it)" in found
    assert "split test: no image has a mask (nothing can be measured on it)" in found


def test_the_same_pixels_in_two_splits_or_twice_in_one_are_told_with_both_names(data, capsys):
    """Ingest compares files; a picture that was saved anew is found here."""
    rows = {}
    rewrite(data, "images/train-00000.arrow", lambda found: rows.update(train=found[0]["image"]))
    rewrite(data, "images/train-00001.arrow", lambda found: found[2].update(image=rows["train"]))
    rewrite(data, "images/test-00000.arrow", lambda found: found[1].update(image=rows["train"]))
    doctor_command(data)
    warned = [line for line in capsys.readouterr().out.splitlines() if "pixel for pixel" in line]
    assert warned == [
        "warning: split train: 1 images are, pixel for pixel, another one of train: train_00007 = train_00000",
        "warning: split test: 1 images are, pixel for pixel, one of train, so that mIoU is too high:"
        " test_00001 = train_00000",
    ]


def test_versions_compare_as_numbers():
    assert numbers("2.15.0+cpu") == (2, 15, 0)
    assert numbers("10.1rc1") > numbers("9.9")
    assert numbers("2.60.0.dev1") > numbers("2.52")


def test_missing_masks_are_counted_over_the_set_and_both_keys_are_said_at_once(data):
    """The count was that of the first shard that lacks one."""
    edit(data, lambda index: [shard.update(masked=3) for shard in index["splits"]["train"][:3]])
    index = DataIndex.load(data)
    with pytest.raises(UserError, match=r"6 of 24 train images have no mask.*set reference=false query\.per_image=0"):
        check_data(small_config("reference=true"), index)
    edit(data, lambda index: [shard.update(masked=1) for shard in index["splits"]["test"]])
    with pytest.raises(UserError, match=r"4 of 6 images of split 'test' have no mask"):
        check_data(small_config("reference=false", "query.per_image=0"), DataIndex.load(data))


def test_an_miou_of_one_class_or_of_few_images_is_not_printed_without_a_word(data, caplog):
    def alone(index):
        for shard in index["splits"]["test"]:
            shard["class_pixels"] = [sum(shard["class_pixels"]), *[0] * (len(shard["class_pixels"]) - 1)]

    edit(data, alone)
    index = DataIndex.load(data)
    line = f"split test: {index.classes[0]} is the only class in it, so that its mIoU says nothing"
    said = list(warnings_of(index, data))
    assert line in said
    assert any(line.startswith("split val: 4 images with a mask: mIoU measured on so few") for line in said)
    check_data(small_config(), index)
    assert line in caplog.text
