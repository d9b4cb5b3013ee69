"""Sixty real photographs without masks, of one shape or three, from `s4al init` to the end of two rounds: the ledger of
people who know the masks of CamVid is that of the simulated run, byte for byte."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.cli.app import app
from benchmarks.datasets.sources.project import PlanNote
from orchestrator.annotation.package import read_package
from orchestrator.annotation.rounds import current_round
from orchestrator.folder.shapes import read_shaped
from querying.base.errors import WaitingForLabels
from querying.dataset.index import DataIndex
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import read_images
from tests.benchmarks.formats.painted import ANSWER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("S4AL_CAMVID" not in os.environ, reason="S4AL_CAMVID (folder of CamVid) is not set"),
]
IMAGES, SIZE = 60, (48, 64)
SHAPES = {"one shape": (SIZE,), "three shapes": (SIZE, (64, 48), (40, 72))}
"""Photograph n has the size whose turn it is."""
CLASSES = (
    "Sky",
    "Building",
    "Pole",
    "Road",
    "Pavement",
    "Tree",
    "SignSymbol",
    "Fence",
    "Car",
    "Pedestrian",
    "Bicyclist",
)
VOID, SHARD = 11, 32
FORMATS = ("labelstudio", "cvat", "folder")
KEYS = ("cycles=2", "train.epochs=1", "train.steps_per_epoch=2", "teacher.steps_per_epoch=1", "model.weights=none",
        "train.threads=1", "query.threads=1", "query.region_size=16", "query.per_image=2", "query.threshold=0.1",
        "model.aspp_channels=8", "model.decoder_channels=8", "model.low_level_channels=8", "model.embedding_dim=8",
        "reco.queries=8", "reco.negatives=8")  # fmt: skip


def call(*words):
    return app(args=[*map(str, words)], standalone_mode=False)


@pytest.fixture(scope="module", params=SHAPES)
def shapes(request):
    return SHAPES[request.param]


@pytest.fixture(scope="module")
def masks(shapes):
    """What is in the photographs, at the size that people see; 255 where CamVid says void."""
    found = {}
    paths = sorted((Path(os.environ["S4AL_CAMVID"]) / "trainannot").iterdir())[:: 367 // IMAGES][:IMAGES]
    for number, path in enumerate(paths):
        size = shapes[number % len(shapes)]
        label_HW = np.array(Image.open(path).resize(size[::-1], Image.Resampling.NEAREST))
        found[path.stem] = np.where(label_HW == VOID, 255, label_HW).astype(np.uint8)
    return found


@pytest.fixture(scope="module")
def project(masks, shapes, tmp_path_factory):
    """A project of which nobody has labelled anything."""
    root = tmp_path_factory.mktemp("camvid")
    (root / "photos").mkdir()
    for name, label_HW in masks.items():
        photo, to = Path(os.environ["S4AL_CAMVID"]) / "train" / f"{name}.png", root / "photos" / f"{name}.png"
        if len(shapes) == 1:
            shutil.copy(photo, to)
        else:
            Image.open(photo).resize(label_HW.shape[::-1]).save(to)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    size = ("--size", "48x64") if len(shapes) == 1 else ()
    call("init", root / "p", "--images", root / "photos", *size)
    return root


def answer(project, out, format_, masks, capsys):
    """A round, dealt to three people who share a fifth of it, and taken in one after the other in any order."""
    call("annotate", "export", project, out, "--format", format_, "--annotators", 3, "--shared", 0.2)
    package, statuses = read_package(current_round(project).package), []
    for number in random.Random(str(out)).sample((1, 2, 3), 3):
        file = ANSWER[format_](package, out / str(number), masks, number)
        who = () if format_ == "labelstudio" else ("--as", f"p{number}")
        statuses.append(call("annotate", "import", project, file, *who))
    assert statuses == [3, 3, 0]
    proposed = [np.asarray(Image.open(package.pre(one))) for one in package.images if package.pre(one)]
    assert bool(package.cycle) == any((label_HW != 255).any() for label_HW in proposed)
    said = capsys.readouterr().out
    assert "0 blank, 0 unanswered" in said
    assert "100.0 % of their pixels" in said


def with_masks(data, masks, out):
    """The same data set, of which every train image has its mask: what the simulated annotator looks into."""
    index, splits = DataIndex.load(data), {}
    out.mkdir()
    for split in index.splits:
        with ShardWriter(out, split, num_classes=len(CLASSES), shard_size=SHARD, encoding=index.encoding) as writer:
            for shard in index.shards(split):
                for image_id, image_HWC in read_images(index.root, shard):
                    writer.add(image_id, image_HWC, masks[image_id])
        splits[split] = writer.close()
    size = index.height, index.width
    DataIndex(out, index.name, index.classes, index.palette, *size, index.encoding, {"kind": "test"}, splits).save()
    return out


def ledger_bytes(run):
    return {path.name: path.read_bytes() for path in sorted((run / "ledger").iterdir())}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("turn", range(3), ids=lambda turn: "-".join(FORMATS[turn:] + FORMATS[:turn]))
def test_sixty_photographs_two_rounds_and_the_ledger_of_the_simulated_run(
    project, masks, shapes, tmp_path, turn, capsys
):
    """Round 0 of whole images and two rounds of regions, each through another format."""
    formats = FORMATS[turn:] + FORMATS[:turn]
    home, data, run = shutil.copytree(project / "p", tmp_path / "p"), tmp_path / "data", tmp_path / "run"
    answer(home, tmp_path / "round-0", formats[0], masks, capsys)
    call("ingest", "folder", home, data)
    assert set(DataIndex.load(data).sizes("train")) == set(shapes)
    words = ["run", home / "recipe.yaml", *KEYS, "--backend", "local", "--tracking", "none"]
    for cycle in (1, 2):
        with pytest.raises(WaitingForLabels, match=rf"labels of cycle {cycle}: 64 regions"):
            call(*words, "--data", data, "--out", run)
        answer(run, tmp_path / f"round-{cycle}", formats[cycle], masks, capsys)
    call(*words, "--data", data, "--out", run)
    call("verify", run)

    first = tmp_path / "first.txt"
    first.write_text("".join(f'"{name}"\n' for name in read_shaped(home / "plan.json", PlanNote)["first"]))
    known = with_masks(data, masks, tmp_path / "known")
    call(*words, "annotator=simulated", "initial.images=null", f"initial.list={first}", "--data", known,
         "--out", tmp_path / "simulated")  # fmt: skip
    people, simulated = ledger_bytes(run), ledger_bytes(tmp_path / "simulated")
    assert list(people) == [f"cycle-00{k}.{kind}" for k in range(3) for kind in ("json", "parquet")]
    assert people == simulated
