"""A data set that a stranger gives, with right seals and hashes: what its index or a shard may say has limits.

Whatever is beyond them is one printable line with the file in it, before memory is taken for it."""

import io
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from benchmarks.datasets.doctor import doctor_command
from querying.base.errors import DamagedError, UserError
from querying.base.files import _seal, read_json, sha256, write_json
from querying.base.redaction import one_line
from querying.dataset.shards import DataIndex, ImageStore, check_ids, image_ids, paired, read_images, read_truth
from tests.old_data import without_ids
from training.inference.evaluation import EvaluationTask, ShardEvaluator

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(toy_data, tmp_path):
    """Without files of ids, so that each reader looks at the shards' own; see the tests of `tests/old_data.py`."""
    return without_ids(shutil.copytree(toy_data.root, tmp_path / "data"))


def first(tree):
    return tree["splits"]["train"][0]


def many(count):
    def change(tree):
        tree.update(classes=[f"c{k}" for k in range(count)], palette=[[0, 0, 0]] * count)
        for shard in (shard for shards in tree["splits"].values() for shard in shards):
            shard["class_pixels"] = [0] * count

    return change


def sized(**of_the_first):
    """Sizes in all shards, as where images have several."""

    def change(tree):
        tree["schema"] = 2
        for shard in (shard for shards in tree["splits"].values() for shard in shards):
            shard |= {"height": 48, "width": 64}
        first(tree).update(of_the_first)

    return change


INDICES = {
    "a shard's height of 0": (sized(height=0), r"images/train-00000\.arrow: height 0"),
    "a shard's width that is true": (sized(width=True), r"train-00000\.arrow: width True"),
    "a shard's width as text": (sized(width="64"), "width '64'"),
    "a shard's width of 400 digits": (sized(width=10**400), "width of more than 20 digits"),
    "a shard of too many pixels": (sized(height=2**14, width=2**13), "16384 x 8192 pixels are more than 64 megapixels"),
    "a shard higher than the largest": (sized(height=49), "48x64 pixels are not the largest height and width"),
    "a shard of few pixels": (sized(height=8, width=8), r"class_pixels \d+: a whole number from 0 to 320"),
    "sizes and no shard": (lambda t: t.update(schema=2, splits={}), "are not the largest height and width"),
    "a class with an escape": (lambda t: t["classes"].__setitem__(0, "a\x1b[2Jb"), r"class 'a\\x1b\[2Jb'"),
    "a class with a bell": (lambda t: t["classes"].__setitem__(0, "a\x07"), "class"),
    "a class from right to left": (lambda t: t["classes"].__setitem__(1, "a\u202eb"), r"class 'a\\u202eb'"),
    "a class of two lines": (lambda t: t["classes"].__setitem__(1, "a\nb"), "class"),
    "a class with half a character": (lambda t: t["classes"].__setitem__(1, "\ud800"), "class"),
    "a class that is no text": (lambda t: t["classes"].__setitem__(1, 7), "class 7: printable text"),
    "a class that is nothing": (lambda t: t["classes"].__setitem__(1, None), "class None"),
    "a class that is empty": (lambda t: t["classes"].__setitem__(1, ""), "class ''"),
    "a class that is blank": (lambda t: t["classes"].__setitem__(1, "  "), "class '  ' is blank"),
    "a class twice": (lambda t: t["classes"].__setitem__(1, t["classes"][0]), "there twice"),
    "a class as long as a book": (lambda t: t["classes"].__setitem__(1, "x" * 10**5), "class 'xxx"),
    "classes as text": (lambda t: t.update(classes="abcdef"), "classes 'abcdef': a list"),
    "one class": (many(1), "1 classes; 2 to 255"),
    "300 classes": (many(300), "300 classes; 2 to 255"),
    "70,000 classes": (many(70_000), "70000 classes; 2 to 255"),
    "a colour above 255": (lambda t: t["palette"].__setitem__(0, [0, 0, 256]), "palette: colour 256"),
    "a colour below 0": (lambda t: t["palette"].__setitem__(0, [0, 0, -1]), "palette: colour -1"),
    "a colour that is true": (lambda t: t["palette"].__setitem__(0, [0, 0, True]), "palette: colour True"),
    "a colour of four": (lambda t: t["palette"].__setitem__(0, [0, 0, 0, 0]), "red, green and blue"),
    "a colour as text": (lambda t: t["palette"].__setitem__(0, "123"), "palette: colour '123'"),
    "a height of 0": (lambda t: t.update(height=0), "height 0"),
    "a height that is true": (lambda t: t.update(height=True), "height True"),
    "a height of 48.0": (lambda t: t.update(height=48.0), "height 48.0"),
    "a height as text": (lambda t: t.update(height="48"), "height '48'"),
    "a height of 400 digits": (lambda t: t.update(height=10**400), "height of more than 20 digits"),
    "too many pixels": (lambda t: t.update(height=2**14, width=2**13), "more than 64 megapixels"),
    "an encoding": (lambda t: t.update(encoding="gif"), "encoding 'gif': there are ppm"),
    "a name": (lambda t: t.update(name="\x1b]0;x\x07"), "name "),
    "a source": (lambda t: t.update(source=[1]), "source"),
    "splits as a list": (lambda t: t.update(splits=[[]]), "splits"),
    "a split's name": (lambda t: t["splits"].update({"\x1b[31m": t["splits"].pop("val")}), "split '"),
    "a split as text": (lambda t: t["splits"].update(val="abc"), "val 'abc'"),
    "a shard as a list": (lambda t: t["splits"]["val"].__setitem__(0, [1]), r"shard \[1\]"),
    "a shard's path that is no text": (lambda t: first(t).update(images=3), "shard 3"),
    "a shard's path to elsewhere": (lambda t: first(t).update(images="images/../../x"), r"shard 'images/\.\./"),
    "a shard twice": (lambda t: t["splits"]["train"].append(first(t)), "is there twice"),
    "no rows": (lambda t: first(t).update(rows=0), "rows 0"),
    "rows below 0": (lambda t: first(t).update(rows=-1), "rows -1"),
    "10^30 rows": (lambda t: first(t).update(rows=10**30), "rows of more than 20 digits"),
    "more masks than images": (lambda t: first(t).update(masked=6), "masked 6"),
    "pixels below 0": (lambda t: first(t)["class_pixels"].__setitem__(0, -1), "class_pixels -1"),
    "pixels of 5 classes": (lambda t: first(t)["class_pixels"].pop(), "5 counts of pixels for 6 classes"),
    "more pixels than there are": (lambda t: first(t).update(void_pixels=5 * 48 * 64), "pixels in masks of 5 images"),
    "a hash that is none": (lambda t: first(t).update(truth_sha256="x" * 64), "truth_sha256"),
}


@pytest.mark.parametrize("name", INDICES)
def test_an_index_that_ingest_would_not_have_written_is_refused_in_one_printable_line(data, name):
    change, message = INDICES[name]
    tree = read_json(data / "index.json")
    change(tree)
    (data / "index.json").write_text(json.dumps({**tree, "seal": _seal(tree)}))
    with pytest.raises(UserError, match=rf"index\.json: not the index of a data set: .*{message}") as caught:
        DataIndex.load(data)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"name": 1, "name": 2, "seal": "x"}', "a key is in it twice"),
        ('{"height": NaN, "seal": "x"}', "a number is not finite"),
        ('{"height": 1e999, "seal": "x"}', "a number is not finite"),
        ('{"height": -Infinity, "seal": "x"}', "a number is not finite"),
        ('{"height": ' + "9" * 5000 + ', "seal": "x"}', "ValueError"),
        ('{"source": ' + "[" * 100_000 + "]" * 100_000 + ', "seal": "x"}', "RecursionError"),
        ('{"source": ' + '{"a":' * 980 + "1" + "}" * 980 + ', "seal": "x"}', "seal is broken|RecursionError"),
    ],
)
def test_json_that_says_two_things_or_none_is_refused(data, text, why):
    (data / "index.json").write_text(text)
    with pytest.raises(DamagedError, match=rf"index\.json: not what was written.*({why})"):
        DataIndex.load(data)


def rewrite(data, part, change, **options):
    """Change the rows of the first shard; its hash in the index is right again."""
    path = data / part / "train-00000.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    rows = table.to_pylist()
    rows = change(rows) or rows
    with pa.ipc.new_file(path, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=table.schema), max_chunksize=8)
    index = read_json(data / "index.json")
    first(index)[f"{part}_sha256"] = sha256(path)
    write_json(data / "index.json", index)


def saved(array, kind="png", **options):
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind, **options)
    return out.getvalue()


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, pixels=b"", second=()):
    headers = [(width, height, depth, colour), *second]
    body = b"".join(chunk(b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0)) for header in headers)
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")


def cell(name, value):
    return lambda rows: rows[0].update({name: value})


GREY, RGB = np.zeros((48, 64), np.uint8), np.zeros((48, 64, 3), np.uint8)
SHARDS = {
    "an id with an escape": ("images", cell("image_id", "a\x1b[2J"), r"image 'a\\x1b\[2J': an id"),
    "an empty id": ("images", cell("image_id", ""), "image '': an id"),
    "an id as long as a book": ("images", cell("image_id", "x" * 10**5), "an id that can not be printed, or is too"),
    "an id twice": ("images", lambda rows: rows[1].update(image_id=rows[0]["image_id"]), "also in split train"),
    "an id of another split": ("images", cell("image_id", "val_00000"), "image val_00000 is also in split"),
    "an image too few": ("images", lambda rows: rows[:-1], "4 images, the index says 5"),
    "an image too many": ("images", lambda rows: [*rows, {**rows[0], "image_id": "n"}], "6 images, the index says 5"),
    "a mask too few": ("truth", lambda rows: rows[:-1], "not those of|4 images, the index says 5"),
    "another mask": ("truth", cell("image_id", "train_00001"), "its images are not those of"),
    "a PPM of 16 bits": ("images", cell("image", b"P6\n64 48\n65535\n" + bytes(48 * 64 * 6)), "another header than P6"),
    "a PPM of another size": ("images", cell("image", b"P6\n48 64\n255\n" + RGB.tobytes()), r"shape \(64, 48\)"),
    "a PPM that is too short": ("images", cell("image", b"P6\n64 48\n255\n" + bytes(99)), "with 99 bytes"),
    "a PPM that is too long": ("images", cell("image", b"P6\n64 48\n255\n" + bytes(48 * 64 * 3 + 1)), "bytes of them"),
    "a PPM of 10^18 pixels": ("images", cell("image", b"P6\n999999999 999999999\n255\n"), "shape"),
    "a PNG in place of a PPM": ("images", cell("image", saved(RGB)), "is png, where ppm was expected"),
    "a grey map": ("images", cell("image", b"P5\n64 48\n255\n" + GREY.tobytes()), "train_00000 can not be decoded"),
    "a mask of 16 bits": ("truth", cell("mask", saved(GREY.astype(np.uint16) + 300)), "is stored as"),
    "a mask of 4 bits": ("truth", cell("mask", png(64, 48, 4, 0, bytes(33 * 48))), "is stored as L;4"),
    "a mask with a palette": ("truth", cell("mask", saved(GREY)[:0] + png(64, 48, 8, 3)), "mask of image train_00000"),
    "a mask in colour": ("truth", cell("mask", saved(RGB)), "is stored as RGB"),
    "a mask with alpha": ("truth", cell("mask", saved(np.zeros((48, 64, 4), np.uint8))), "is stored as RGBA"),
    "a mask of another size": ("truth", cell("mask", saved(GREY.T.copy())), r"has shape \(64, 48\)"),
    "a mask as JPEG": ("truth", cell("mask", saved(GREY, "jpeg")), "can not be decoded"),
    "a label that is no class": ("truth", cell("mask", saved(GREY + 6)), "label 6 is none of the 6 classes"),
    "an empty mask": ("truth", cell("mask", b""), "can not be decoded"),
    "a size that is said first and another that counts": (
        "truth", cell("mask", png(64, 48, 8, 0, second=[(13_000, 13_000, 8, 0)])), r"has shape \(13000, 13000\)",
    ),
}  # fmt: skip


def uses(root, part):
    """Every way in which a command reads a shard: doctor, preflight, oracle, training, scoring, evaluation."""
    index = DataIndex.load(root)
    shard = index.shards("train")[0]
    files = (root, shard)
    yield lambda: doctor_command(root)
    yield lambda: (check_ids(index), list(paired(*files, read_images(*files), read_truth(*files))))
    if part == "images":
        yield lambda: (check_ids(index), [ImageStore(index, "train").image(i) for i in image_ids(*files)])
    evaluator = ShardEvaluator(lambda: lambda images, scale: pytest.fail("a network saw it"), 6, 9, 1)
    yield lambda: (check_ids(index), evaluator.evaluate_shard(EvaluationTask(*files)))


@pytest.mark.parametrize("name", SHARDS)
def test_a_shard_that_ingest_would_not_have_written_is_refused_by_name_wherever_it_is_read(data, name, capsys):
    part, change, message = SHARDS[name]
    rewrite(data, part, change)
    for use in uses(data, part):
        with pytest.raises(DamagedError, match=message) as caught:
            use()
        assert re.search(r"(images|truth)/\w+-0000\d\.arrow: ", str(caught.value))
        assert one_line(str(caught.value)).isprintable()
        assert "\x1b[2J" not in capsys.readouterr().out


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_shard_is_refused_before_it_is_unpacked(data, compression):
    rewrite(data, "images", lambda rows: None, compression=compression)
    with pytest.raises(DamagedError, match=r"images/train-00000\.arrow: not a readable Arrow file: a compressed part"):
        image_ids(data, DataIndex.load(data).shards("train")[0])


def test_a_shard_in_other_parts_is_refused(data):
    path = data / "images/train-00000.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    index = read_json(data / "index.json")
    first(index)["images_sha256"] = sha256(path)
    write_json(data / "index.json", index)
    with pytest.raises(DamagedError, match="not in parts of 8 images"):
        ImageStore(DataIndex.load(data), "train")


BOUNDED = """
import resource, sys
from pathlib import Path
from querying.base.errors import DamagedError
from querying.dataset.shards import DataIndex, read_images, read_truth
index = DataIndex.load(Path(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for read in (read_images, read_truth):
    try:
        list(read(index.root, index.shards("train")[0]))
    except DamagedError as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_crafted_images_of_178_megapixels_take_no_memory(data):
    """Complete ones, which took 2.2 GB each."""
    rows = zlib.compress(bytes(13_342 // 8 + 1) * 13_342 + bytes(13_342))
    body = chunk(b"IHDR", struct.pack(">IIBBBBB", 13_342, 13_342, 1, 0, 0, 0, 0)) + chunk(b"IDAT", rows)
    bomb = b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")
    index = read_json(data / "index.json")
    write_json(data / "index.json", {**index, "encoding": "png"})
    rewrite(data, "images", cell("image", bomb))
    rewrite(data, "truth", cell("mask", bomb))
    done = subprocess.run([sys.executable, "-c", BOUNDED, data], cwd=ROOT, capture_output=True, text=True, check=True)
    images, truth, megabytes = done.stdout.splitlines()
    assert "images/train-00000.arrow: image train_00000 is stored as 1, where RGB of 8 bits" in images
    assert "truth/train-00000.arrow: the mask of image train_00000 is stored as 1, where L of 8 bits" in truth
    assert int(megabytes) < 50


CHECKPOINTS = {
    "a class with an escape": (lambda m: m["classes"].__setitem__(0, "a\x1b[2Jb"), r"class 'a\\x1b\[2Jb'"),
    "a class twice": (lambda m: m["classes"].__setitem__(1, m["classes"][0]), "there twice"),
    "classes that are none": (lambda m: m.update(classes={"a": 1}), "classes"),
    "no classes": (lambda m: m.pop("classes"), "classes"),
    "300 classes": (lambda m: m.update(classes=[str(k) for k in range(300)]), "300 classes"),
    "no network": (lambda m: m.update(model=[1]), "model"),
    "another network": (lambda m: m["model"].update(backbone="resnet50"), "its weights are not those"),
    "a network without bounds": (lambda m: m["model"].update(aspp_channels=10**9), "aspp_channels 1000000000"),
    "weights of another number of classes": (lambda m: m.update(classes=["a", "b", "c"]), "its weights are not those"),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    from training.network.checkpoint import save_model
    from training.network.deeplab import build_model
    from training.settings.training import ModelSettings

    settings = ModelSettings(aspp_channels=8, decoder_channels=8, low_level_channels=8, embedding_dim=8, weights="none")
    folder = tmp_path_factory.mktemp("checkpoint")
    meta = {"model": settings.model_dump(mode="json"), "classes": ["a", "b"], "palette": [[0, 0, 0]] * 2}
    save_model(folder, build_model(settings, 2, embedding=False).state_dict(), {**meta, "height": 48, "width": 64})
    return folder


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_of_a_stranger_is_refused_in_one_line_that_names_it(trained, tmp_path, name):
    from training.inference.predictor import load_network

    change, message = CHECKPOINTS[name]
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    meta = read_json(tmp_path / "meta.json")
    change(meta)
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "seal": _seal(meta)}))
    with pytest.raises(DamagedError, match=message) as caught:
        load_network(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert one_line(str(caught.value)) == str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("palette", [[0, 0, 0]]),
        ("palette", [[0, 0, 999]] * 2),
        ("height", 2**21),
        ("width", True),
        ("classes", ["\x1b"]),
    ],
)
def test_what_is_shown_or_allocated_by_a_checkpoint_has_limits(trained, tmp_path, key, value):
    from training.network.checkpoint import read_meta

    assert read_meta(trained)["classes"] == ["a", "b"]
    write_json(tmp_path / "meta.json", {**read_json(trained / "meta.json"), key: value})
    with pytest.raises(DamagedError, match=r"meta\.json: not of a checkpoint: "):
        read_meta(tmp_path)
