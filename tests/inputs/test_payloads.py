"""Code in data: every file that is ever loaded, with a payload that would leave a marker if it ran."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from benchmarks.datasets.files.images import check_image, read_mask, read_rgb
from orchestrator.recipe.config import load_yaml, override
from querying.base.errors import DamagedError, S4ALError, UserError
from querying.base.files import read_json, sha256, write_json
from querying.dataset.shards import DataIndex, ImageStore, read_images, read_truth
from querying.labels.ledger import Ledger
from tests.small import SMALL, small_config
from training.network.checkpoint import load_model
from training.network.deeplab import build_model
from training.network.first_weights import load_backbone
from training.settings.training import ModelSettings

ROOT = Path(__file__).parents[2]


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """Fails the test if the payload ran, and makes sure that it would have."""
    path = tmp_path / "marker"
    pickle.loads(pickle.dumps(Payload(path)))  # noqa: S301
    assert path.exists()
    path.unlink()
    yield path
    assert not path.exists()


def torch_file(marker, path):
    torch.save({"conv_stem.weight": Payload(marker)}, path)


def old_torch_file(marker, path):
    torch.save({"conv_stem.weight": Payload(marker)}, path, _use_new_zipfile_serialization=False)


def plain_pickle(marker, path):
    path.write_bytes(pickle.dumps({"conv_stem.weight": Payload(marker)}))


def numpy_file(marker, path):
    with path.open("wb") as file:
        np.save(file, np.array([Payload(marker)], object), allow_pickle=True)


MAKERS = (torch_file, old_torch_file, plain_pickle, numpy_file)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights(tmp_path, marker, make, suffix):
    path = tmp_path / f"mobilenetv2_100{suffix}"
    make(marker, path)
    model = build_model(ModelSettings(), 2, embedding=False)
    said = (
        "not a readable safetensors file" if suffix == ".safetensors" else ".pt files can run code when they are read"
    )
    with pytest.raises(UserError, match=rf"mobilenetv2_100\..*: {said}") as caught:
        load_backbone(model, path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_weights_on_the_command_line(toy_data, tmp_path, marker):
    torch_file(marker, tmp_path / "evil.pt")
    command = [sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *SMALL, f"model.weights={tmp_path}/evil.pt"]
    command += ["--data", toy_data.root, "--out", tmp_path / "run", "--backend", "local", "--tracking", "none"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "evil.pt: .pt files can run code" in done.stderr) == (2, True), done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("make", MAKERS)
def test_images_and_masks(tmp_path, marker, make):
    make(marker, tmp_path / "photo.png")
    for read in (check_image, read_rgb, read_mask):
        with pytest.raises(UserError, match=r"photo\.png: neither a PNG nor a JPEG"):
            read(tmp_path / "photo.png")


@pytest.mark.parametrize("make", MAKERS)
def test_a_checkpoint_whose_note_says_that_its_hash_is_right(tmp_path, marker, make):
    make(marker, tmp_path / "model.safetensors")
    write_json(tmp_path / "meta.json", {"classes": ["a"], "sha256": sha256(tmp_path / "model.safetensors")})
    with pytest.raises(DamagedError, match="not a readable checkpoint"):
        load_model(tmp_path)


def test_a_distributed_checkpoint_of_torch_in_place_of_ours(tmp_path, marker):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Payload(marker)))
    plain_pickle(marker, tmp_path / "__0_0.distcp")
    with pytest.raises(DamagedError, match=r"meta\.json: does not exist"):
        load_model(tmp_path)


@pytest.mark.parametrize("make", MAKERS)
def test_a_ledger_whose_note_says_that_its_hash_is_right(tmp_path, marker, make):
    ledger = Ledger(tmp_path)
    make(marker, ledger.path(0))
    write_json(ledger.note(0), {"sha256": sha256(ledger.path(0)), "chain": "x"})
    with pytest.raises(DamagedError, match=r"cycle-000\.parquet"):
        ledger.read(0)


def forged(data, part, change):
    """Exchange the first train shard's images or truth, and give the index the hash of what is there now."""
    index = read_json(data / "index.json")
    shard = index["splits"]["train"][0]
    change(data / shard[part])
    shard[f"{part}_sha256"] = sha256(data / shard[part])
    write_json(data / "index.json", index)
    return DataIndex.load(data)


def read_all(index):
    shard = index.shards("train")[0]
    read = len(list(read_images(index.root, shard))) + len(list(read_truth(index.root, shard)))
    return read + len([ImageStore(index, "train").image(name) for name in ImageStore(index, "train").ids()])


@pytest.mark.parametrize("part", ["images", "truth"])
@pytest.mark.parametrize("make", MAKERS)
def test_a_shard_whose_index_says_that_its_hash_is_right(toy_data, tmp_path, marker, part, make):
    data = shutil.copytree(toy_data.root, tmp_path / "data")
    index = forged(data, part, lambda path: make(marker, path))
    with pytest.raises(DamagedError, match=rf"{part}/train-00000\.arrow: not a readable Arrow file"):
        read_all(index)


@pytest.mark.parametrize("kind", ["arrow.py_extension_type", "arrow.opaque", "ray.data.arrow_tensor"])
def test_an_extension_type_in_a_shard_whose_index_says_that_its_hash_is_right(toy_data, tmp_path, marker, kind):
    """Old versions of Arrow unpickled a column's type.  It is read as plain bytes, or refused by name; where Ray has
    registered its types, too."""
    import ray.data  # noqa: F401

    data = shutil.copytree(toy_data.root, tmp_path / "data")
    extension = {"ARROW:extension:name": kind, "ARROW:extension:metadata": pickle.dumps(Payload(marker))}

    def extend(path):
        table = pa.ipc.open_file(path.read_bytes()).read_all()
        fields = [field.with_metadata(extension) if field.name == "image" else field for field in table.schema]
        with pa.ipc.new_file(path, pa.schema(fields, metadata=extension)) as writer:
            writer.write_table(table.cast(pa.schema(fields, metadata=extension)), max_chunksize=8)

    index = forged(data, "images", extend)
    try:
        assert read_all(index) == 2 * toy_data.shards("train")[0].rows + toy_data.num_images("train")
    except S4ALError as error:
        assert "images/train-00000.arrow" in str(error)  # noqa: PT017  (both are right)


@pytest.mark.parametrize(
    "tag",
    [
        "!!python/object/apply:pathlib.Path.touch", "!!python/object/new:pathlib.Path", "!!python/name:os.system",
        "!!python/module:os", "!!python/object:pathlib.Path", "!!binary", "!touch",
    ],
)  # fmt: skip
def test_tags_in_a_recipe_and_on_the_command_line(tmp_path, marker, tag):
    path = tmp_path / "recipe.yaml"
    for text in (f"{tag} ['{marker}']", f"{tag} '{marker}'", f"{tag} {{a: '{marker}'}}"):
        path.write_text(f"name: x\ndata: {text}\n")
        with pytest.raises(UserError, match=r"recipe\.yaml: not valid YAML: tags are not allowed"):
            load_yaml(path)
        with pytest.raises(UserError, match=r"data\.dataset: not valid YAML: tags are not allowed"):
            override(small_config(), [f"data.dataset={text}"])
