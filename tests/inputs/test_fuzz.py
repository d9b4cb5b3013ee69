"""Every loader, on broken files: it gives what is right, or one line that names the file.  Never anything else.

A few cases of each by default; `pytest --hypothesis-profile=fuzz tests/inputs/test_fuzz.py` makes a thousand of each.
"""

import copy
import hashlib
import io
import json
import shutil
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file
from torch import nn

from benchmarks.datasets.files.images import check_image, read_mask, read_rgb
from benchmarks.datasets.sources import camvid, folder
from benchmarks.recipes.catalogue import find
from benchmarks.report.sweep_table import as_csv, as_markdown as sweep_table
from benchmarks.report.terminal_tables import outcome_table
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import problems, seal
from orchestrator.folder.products import audit_model, audit_report
from orchestrator.folder.published import read_query
from orchestrator.folder.recipe_file import read_recipe, write_recipe
from orchestrator.folder.record import Record, read_record
from orchestrator.folder.shapes import LabelledSet, read_shaped
from orchestrator.recipe.config import RunConfig, flat_keys, load_yaml, override
from orchestrator.recipe.provenance import drift_lines
from orchestrator.run.protocol import load_summary
from orchestrator.studies.sweep import SweepRecord, best
from orchestrator.tracking.store import noted
from orchestrator.tracking.work_times import ended, seconds
from querying.base import arrow_file
from querying.base.errors import DamagedError, S4ALError
from querying.base.files import _seal, read_json, sha256, write_json
from querying.dataset.schemas import PSEUDO_LABELS, QUERY, REGION_SCORES
from querying.dataset.shards import DataIndex, ImageStore, encode_label, read_images, read_truth
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from querying.scoring.score_files import read_scores
from tests.inputs.mutations import OPERATIONS, mutated, with_right_checksums
from training.batches.training_data import _pseudo_labels
from training.fit.progress import TrainingProgress
from training.fit.states import TrainingStates
from training.network.checkpoint import load_model, save_model
from training.network.first_weights import load_backbone

CASES = settings(
    max_examples=settings().max_examples // 4,
    deadline=5000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
GRID = RegionGrid(48, 64, 16)


def outcome(load):
    """What a loader returns, or its error of ours; any other error is a failure of the test."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as the command line does
            return load()
    except S4ALError as error:
        return error


def holds(load, path):
    """The outcome; an error is one line with the file's name."""
    found = outcome(load)
    if isinstance(found, S4ALError):
        assert path.stem in str(found)
        assert "\n" not in str(found)
    return found


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pictures():
    """Small files that between them have most of what the two formats can hold."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    rgb, grey = Image.fromarray(noise), Image.fromarray(noise[..., 0])
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    text = PngInfo()
    text.add_text("key", "value " * 20, zip=True)
    text.add_itxt("key", "value", "en", "Schlüssel", zip=True)
    yield saved(rgb, "png", exif=exif, pnginfo=text, icc_profile=b"x" * 99, dpi=(72, 72))
    yield saved(rgb.convert("P"), "png", transparency=3)
    yield saved(rgb, "png", save_all=True, append_images=[rgb.rotate(90)])
    yield saved(Image.fromarray(noise[..., 0].astype(np.uint16) * 200), "png")
    for mode in ("L", "1", "LA", "RGBA"):
        yield saved(grey.convert(mode), "png")
    yield saved(rgb, "jpeg", exif=exif, progressive=True, icc_profile=b"y" * 99, comment=b"z", dpi=(72, 72))
    yield saved(rgb, "jpeg", restart_marker_blocks=2)
    yield saved(rgb.convert("CMYK"), "jpeg")


PICTURES = list(pictures())


@CASES
@given(picture=st.sampled_from(PICTURES), operations=OPERATIONS, repair=st.booleans())
def test_images_and_masks(tmp_path, picture, operations, repair):
    data = mutated(picture, operations)
    path = tmp_path / "fuzzed.png"
    path.write_bytes(with_right_checksums(data) if repair and data.startswith(b"\x89PNG") else data)
    size, rgb_HWC, mask_HW = (holds(partial(read, path), path) for read in (check_image, read_rgb, read_mask))
    if not isinstance(rgb_HWC, S4ALError):
        assert rgb_HWC.dtype == np.uint8
        assert rgb_HWC.shape[2:] == (3,)
        assert isinstance(size, S4ALError) or rgb_HWC.shape[:2] == size
    if not isinstance(mask_HW, S4ALError):
        assert (mask_HW.dtype, mask_HW.ndim) == (np.uint8, 2)


RECIPE = find("camvid_cpu")
YAML = RECIPE.to_yaml()
ODD = [
    "!!int foo", "!!timestamp x", "!!bool x", "2001-99-99", "9" * 5000, "{}", "{a: 1}", "[[1]]", "", "~", "\x00", "1e9",
    "&a", "*a", "<<: {a: 1}", "? [a]\n: b", "? {a: 1}\n: 1", '"\\ud800"', "%YAML 9.9", "---", "!!omap [a: 1]", "-",
    ".nan", "0x", "1:2:3", "true", "é", "\ufeff", "1: 2", "=", "!<tag:x>", "|", "'", "[" * 200,
]  # fmt: skip


@CASES
@given(
    st.lists(st.tuples(st.integers(0, YAML.count("\n")), st.sampled_from(ODD), st.booleans())),
    OPERATIONS,
    st.booleans(),
)
def test_recipes(tmp_path, edits, operations, bytewise):
    lines = YAML.splitlines()
    for number, text, value_only in edits:
        place = number % len(lines)
        lines[place] = f"{lines[place].partition(':')[0]}: {text}" if value_only else text
    path = tmp_path / "fuzzed.yaml"
    data = "\n".join(lines).encode("utf-8", "surrogatepass")
    path.write_bytes(mutated(data, operations) if bytewise else data)
    found = holds(partial(load_yaml, path), path)
    assert isinstance(found, S4ALError) or load_again(found, path) == found


def load_again(config, path):
    path.write_text(config.to_yaml())
    return load_yaml(path)


@CASES
@given(st.sampled_from(list(flat_keys(RunConfig))), st.sampled_from(ODD) | st.text(max_size=20))
def test_overrides(key, text):
    found = outcome(partial(override, RECIPE, [f"{key}={text}"]))
    if isinstance(found, S4ALError):
        assert "\n" not in str(found)
        assert key.rpartition(".")[2] in str(found) or key.partition(".")[0] in str(found)


@CASES
@given(st.text(max_size=30) | st.builds("{}={}".format, st.text(max_size=30), st.text(max_size=5)))
def test_overrides_of_any_text(text):
    assert "\n" not in str(outcome(partial(override, RECIPE, [text])))


@pytest.fixture(scope="module")
def folder_of_everything(toy_data, tmp_path_factory):
    """One small valid file of every kind that a run or a data set consists of."""
    root = tmp_path_factory.mktemp("valid")
    shutil.copytree(toy_data.root, root / "data")
    oracle, ledger = SimulatedOracle(toy_data, GRID), Ledger(root / "ledger")
    cells = [{"image_id": image_id, "region": 3, "score": 0.5} for image_id in oracle.answerable()[:3]]
    for cycle in (0, 1):
        query = pa.Table.from_pylist([{**cell, "region": cycle} for cell in cells], schema=QUERY)
        ledger.append(cycle, oracle.annotate(cycle, query))
    scores = root / "scores"
    scores.mkdir()
    label = encode_label(np.zeros((48, 64), np.uint8))
    rows = {
        "regions": (REGION_SCORES, [{"image_id": "a", "score": [0.1] * GRID.num_regions}] * 4),
        "pseudo": (PSEUDO_LABELS, [{"image_id": "a", "label": label, "coverage": 1.0}] * 4),
    }
    for name, (schema, values) in rows.items():
        with pa.ipc.new_file(scores / f"{name}-00000.arrow", schema) as writer:
            writer.write_table(pa.Table.from_pylist(values, schema=schema))
    write_json(scores / "shard-00000.json", {path.name: sha256(path) for path in scores.glob("*.arrow")})
    pq.write_table(query, scores / "query.parquet")
    seal(scores, inputs={"model": "m"}, seconds=1.0)
    network = small_network()
    (root / "checkpoint").mkdir()
    save_model(root / "checkpoint", network.state_dict(), {"classes": ["a", "b"], "progress": {}})
    TrainingStates(root / "states", "x").save(
        network, torch.optim.SGD(network.parameters(), lr=0.1), TrainingProgress(3)
    )
    save_file(dict(SmallEncoder().encoder.state_dict()), root / "weights.safetensors")
    record = Record(root / "metrics.jsonl")
    for cycle in range(3):
        record.log({"run": "main", "cycle": cycle, "stage": "evaluate", "miou": 0.5})
    write_recipe(
        root / "recipe.yaml", RECIPE, {"commit": "abc", "data": {"root": "x", "name": "toy", "sha256": "a" * 64}}
    )
    (root / "train.txt").write_text("train/a.png trainannot/a.png\n" * 3)
    for part in ("train", "trainannot"):
        (root / part).mkdir()
        (root / part / "a.png").touch()
    (root / "classes.txt").write_text("road 1 2 3\nsky 4 5 6\n")
    return root


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


class SmallEncoder(nn.Module):
    """What `load_backbone` needs of a model, a thousandth of the size."""

    def __init__(self):
        super().__init__()
        self.backbone, self.encoder = "mobilenetv2_100", small_network()


def restore(root):
    network = small_network()
    return TrainingStates(root, "x").restore(network, torch.optim.SGD(network.parameters(), lr=0.1))


def whole_shard(read, root):
    index = DataIndex.load(root)
    return list(read(root, index.shards("train")[0]))


def whole_store(root):
    store = ImageStore(DataIndex.load(root), "train")
    return [store.image(image_id).sum() for image_id in store.ids()]


LOADERS = {
    "index": ("data/index.json", lambda root: DataIndex.load(root / "data")),
    "images": ("data/images/train-00000.arrow", lambda root: whole_shard(read_images, root / "data")),
    "store": ("data/images/train-00001.arrow", lambda root: whole_store(root / "data")),
    "truth": ("data/truth/train-00000.arrow", lambda root: whole_shard(read_truth, root / "data")),
    "weights": ("weights.safetensors", lambda root: load_backbone(SmallEncoder(), root / "weights.safetensors")),
    "checkpoint": ("checkpoint/model.safetensors", lambda root: load_model(root / "checkpoint")),
    "metadata": ("checkpoint/meta.json", lambda root: load_model(root / "checkpoint")),
    "region scores": (
        "scores/regions-00000.arrow", lambda root: read_scores(root / "scores/regions-00000.arrow", GRID.num_regions),
    ),
    "pseudo-labels": ("scores/pseudo-00000.arrow", lambda root: _pseudo_labels([root / "scores"])),
    "score hashes": ("scores/shard-00000.json", lambda root: _pseudo_labels([root / "scores"])),
    "manifest": ("scores/manifest.json", lambda root: problems(root / "scores")),
    "ledger": ("ledger/cycle-001.parquet", lambda root: Ledger(root / "ledger").bought(1)),
    "ledger note": ("ledger/cycle-001.json", lambda root: Ledger(root / "ledger").spent(1)),
    "record": ("metrics.jsonl", lambda root: list(read_record(root / "metrics.jsonl"))),
    "run's recipe": ("recipe.yaml", lambda root: read_recipe(root / "recipe.yaml")),
    "class list": ("classes.txt", lambda root: folder.read_classes(root / "classes.txt")),
    "image list": ("train.txt", lambda root: camvid._listed(root, root / "train.txt")),
}  # fmt: skip
LENIENT = ("manifest", "record", "class list", "image list")
"""A manifest's problems are what its reader returns; a record may end before its last line; lists are the user's."""
memory_map, read_table = pa.memory_map, pq.read_table


@pytest.mark.parametrize("name", LOADERS)
@CASES
@given(operations=OPERATIONS)
def test_files_of_runs_and_data_sets(folder_of_everything, monkeypatch, name, operations):
    place, load = LOADERS[name]
    path = folder_of_everything / place
    valid = path.read_bytes()
    before = repr(load(folder_of_everything))
    arrow_file._intact.clear()  # two writes within a tick of the clock look like one file to it
    opened = []
    monkeypatch.setattr(pa, "memory_map", lambda name: opened.append(name) or memory_map(name))
    monkeypatch.setattr(pq, "read_table", lambda name, **more: opened.append(str(name)) or read_table(name, **more))
    path.write_bytes(mutated(valid, operations))
    try:
        changed = path.read_bytes() != valid
        found = holds(partial(load, folder_of_everything), path)
        assert not changed or str(path) not in opened, "Arrow was given an altered file"
        if repr(found) != before and not isinstance(found, S4ALError):
            assert name in LENIENT, "an altered value was taken for what was written"
    finally:
        path.write_bytes(valid)


@CASES
@given(operations=OPERATIONS)
def test_a_training_continues_from_what_was_written_or_from_the_beginning(folder_of_everything, operations):
    [path] = (folder_of_everything / "states").glob("step-*/model.safetensors")
    valid = path.read_bytes()
    path.write_bytes(mutated(valid, operations))
    try:
        assert restore(folder_of_everything / "states") in (TrainingProgress(3), TrainingProgress())
    finally:
        path.write_bytes(valid)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | st.text(max_size=5)
TREES = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(st.text(max_size=5), LEAVES, max_size=3)


@CASES
@given(data=st.data())
def test_an_index_of_any_shape_with_a_right_seal(folder_of_everything, tmp_path, data):
    tree = read_json(folder_of_everything / "data/index.json")
    parent, key = data.draw(st.sampled_from(list(places(tree))))
    parent[key] = data.draw(TREES | st.sampled_from(["/dev/zero", "../index.json", float("inf"), 10**400]))
    (tmp_path / "index.json").write_text(json.dumps({**tree, "seal": _seal(tree)}))
    for part in ("images", "truth"):
        if not (tmp_path / part).exists():
            (tmp_path / part).symlink_to(folder_of_everything / "data" / part)
    found = holds(partial(DataIndex.load, tmp_path), tmp_path / "index.json")
    assert isinstance(found, (DataIndex, S4ALError))


def places(tree):
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from places(value)


RUN_1 = Path(__file__).parents[1] / "fixtures/run-1"
HOLD = {
    "summary.json": lambda run: outcome_table(load_summary(run)),
    "cycle-000/checkpoint/manifest.json": lambda run: (problems(run / "cycle-000/checkpoint", {"labels": "x"}), 1),
    "metrics.jsonl": lambda run: (list(read_record(run / "metrics.jsonl")), Record(run / "metrics.jsonl").seen),
    "recipe.yaml": lambda run: drift_lines(read_recipe(run / "recipe.yaml")[1]),
    "labelled_set.json": lambda run: read_shaped(run / "labelled_set.json", LabelledSet)["ids"][0],
}


SWEEP = {
    "recipe": RECIPE.model_dump(mode="json"),
    "space": [["train.lr", "choice", [0.1, 0.2], {}]],
    "search": "random", "scheduler": "fifo", "objective": "miou", "mode": "max", "seed": 0, "data": "x", "samples": 1,
}  # fmt: skip
TRIAL = {
    "number": 0, "values": {"train.lr": 0.1}, "state": "finished", "rows": [{"step": 3, "miou": 0.5}],
    "outcome": {"miou": 0.5, "seconds": 9.0}, "error": "",
}  # fmt: skip
NOTE = {
    "uri": "none", "key": "k", "place": "1 /x", "experiment": "1", "parent": "p", "group": "g", "status": None,
    "rows": 3, "children": {"main/0": "r"}, "began": {"main/0": 5.0}, "closed": ["main/0"],
    "work": [[1.0, 2.0], [3.0, None]],
}  # fmt: skip


def sweep_again(root):
    record = SweepRecord(root)
    table = sweep_table(record.samples, record.settings())
    return table, as_csv(record.samples, "miou"), best(record.samples, "miou", "max")


def tracked_time(root):
    note = noted(root, "none")
    return seconds(ended(note.get("work", []), root, 9.0), 9.0) if note else None


STUDY = {
    "sweep.json": (SWEEP, sweep_again),
    "trials/0000.json": (TRIAL, sweep_again),
    "mlflow.json": (NOTE, tracked_time),
    "model.json": (
        {"cycle": 0, "checkpoint": "x", "sha256": sha256(Path(__file__))},
        lambda root: list(audit_model(RunLayout(root))),
    ),
    "report.json": ({"a.png": sha256(Path(__file__))}, lambda root: list(audit_report(root))),
}
"""File -> a right content, and what reads it."""


@pytest.mark.parametrize("name", STUDY)
@CASES
@given(data=st.data())
def test_notes_of_sweeps_tracking_and_products_of_any_shape_with_a_right_seal(tmp_path_factory, name, data):
    """Whatever they hold: they are read, passed over where they are only notes, or one line names the file."""
    root = tmp_path_factory.mktemp("study")
    (root / "trials").mkdir()
    (root / "model.onnx").write_bytes(Path(__file__).read_bytes())
    for other, (tree, _) in STUDY.items():
        write_json(root / other, tree)
    tree, load = copy.deepcopy(STUDY[name][0]), STUDY[name][1]
    assert not isinstance(outcome(partial(load, root)), S4ALError)
    parent, key = data.draw(st.sampled_from(list(places(tree))))
    if data.draw(st.booleans()):
        parent[key] = data.draw(TREES | st.sampled_from(["../../x", "/etc/passwd", -1, 10**400]))
    else:
        del parent[key]
    (root / name).write_text(json.dumps({**tree, "seal": _seal(tree)}) + "\n")
    holds(partial(load, root), root / name)


@pytest.mark.parametrize("name", HOLD)
@CASES
@given(data=st.data())
def test_files_of_a_run_of_any_shape_with_a_right_seal(tmp_path_factory, name, data):
    """Whatever they hold: they are read, or one line names the file and the key."""
    run = tmp_path_factory.mktemp("run")
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "recipe.yaml":
        text, _, _ = (RUN_1 / name).read_text().partition("provenance:\n")
        tree = read_recipe(RUN_1 / name)[1]
        tree |= {"drift": [{"time": "t", "from": "f", "changes": ["c"]}]}
    elif name == "labelled_set.json":
        tree = {"source": "drawn with seed 0", "source_sha256": None, "sha256": "0" * 64, "ids": ["a"]}
    elif name == "metrics.jsonl":
        tree = next(read_record(RUN_1 / name))
    else:
        tree = read_json(RUN_1 / name)
    parent, key = data.draw(st.sampled_from(list(places(tree))))
    if key == "schema":
        return
    parent[key] = data.draw(TREES | st.sampled_from(["../../x", "/etc/passwd", -1, 10**400]))
    if name == "recipe.yaml":
        text += yaml.safe_dump({"provenance": tree}, sort_keys=False)
        path.write_text(f"{text}# seal: {hashlib.sha256(text.encode()).hexdigest()}\n")
    else:
        path.write_text(json.dumps({**tree, "seal": _seal(tree)}) + "\n")
    holds(partial(HOLD[name], run), path)


QUERIES = {
    "a region": ({"region": 12}, "region 12 is none of the 12"),
    "no image": ({"image_id": ""}, "image '': an id"),
    "an escape": ({"image_id": "a\x1b[2J"}, r"image 'a\\x1b\[2J': an id"),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_that_no_run_asks_is_refused_though_its_hash_is_right(tmp_path, name):
    change, message = QUERIES[name]
    rows = [{"image_id": "a", "region": 0, "score": 1.0}]
    for row, wrong in ((rows[0], None), (rows[0] | change, message)):
        pq.write_table(pa.Table.from_pylist([row], schema=QUERY), tmp_path / "query.parquet")
        seal(tmp_path, inputs={}, seconds=1)
        if wrong is None:
            assert read_query(tmp_path, 12).to_pylist() == rows
        else:
            with pytest.raises(DamagedError, match=rf"query\.parquet: {wrong}"):
                read_query(tmp_path, 12)
    (tmp_path / "query.parquet").write_bytes(b"x")
    with pytest.raises(DamagedError, match="differs from its manifest"):
        read_query(tmp_path, 12)


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "a/../../b", ""])
def test_a_manifest_names_nothing_outside_its_folder(tmp_path, name):
    seal(tmp_path, inputs={}, seconds=1)
    manifest = read_json(tmp_path / "manifest.json")
    write_json(tmp_path / "manifest.json", {**manifest, "files": {name: {"size": 1, "sha256": "0" * 64}}})
    [line] = problems(tmp_path)
    assert "holds what s4al did not write: key files" in line
    assert "a name inside the folder was expected" in line
