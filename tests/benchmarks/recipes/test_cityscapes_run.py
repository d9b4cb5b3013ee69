"""Cityscapes' semi-supervised recipes: networks, crop and evaluation of the paper, on a tree of six images."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.commands.run import run_command
from benchmarks.datasets.ingest import ingest
from querying.base.files import read_json

LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@pytest.fixture(scope="module")
def cityscapes(tmp_path_factory):
    """Five train images and one val image of full size, in the layout of the data set's own archives."""
    src = tmp_path_factory.mktemp("cityscapes")
    rng = np.random.default_rng(0)
    for split, city, count in (("train", "aachen", 3), ("train", "bremen", 2), ("val", "munster", 1)):
        for frame in range(count):
            name = f"{city}_000000_{frame:06d}"
            ids_HW = rng.choice(LABEL_IDS, size=(8, 16)).astype(np.uint8)
            mask_HW = np.kron(ids_HW, np.ones((128, 128), np.uint8))
            image_HW3 = np.stack([mask_HW * 7, 255 - mask_HW * 3, mask_HW], axis=-1)
            for kind, pixels, end in (
                ("leftImg8bit", image_HW3, "leftImg8bit"),
                ("gtFine", mask_HW, "gtFine_labelIds"),
            ):
                path = src / kind / split / city / f"{name}_{end}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    listed = src / "labeled.txt"  # in UniMatch's own form
    names = [f"{city}/{city}_000000_000000" for city in ("aachen", "bremen")]
    listed.write_text(
        "".join(f"leftImg8bit/train/{n}_leftImg8bit.png gtFine/train/{n}_gtFine_labelTrainIds.png\n" for n in names)
    )
    index = ingest("cityscapes", src, src / "out", size=None, protocol="ssl")
    assert (index.height, index.width) == (1024, 2048)
    return index.root, listed


@pytest.mark.slow  # minutes: networks and crops of the paper's size
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("recipe", "cycles"), [("cityscapes_ssl_resnet50", 1), ("cityscapes_ssl_resnet101", 0)])
def test_a_step_at_the_papers_setting(cityscapes, tmp_path, recipe, cycles):
    data, listed = cityscapes
    smaller = [
        f"cycles={cycles}", f"initial.list={listed}", "model.weights=none", "train.epochs=1", "train.steps_per_epoch=1",
        "train.batch_size=2", "train.batch_size_unlabelled=2",
    ]  # fmt: skip
    run_command(recipe, smaller, data, tmp_path / "run", "local", None, "none")
    summary = read_json(tmp_path / "run/summary.json")
    assert summary["finished"]
    assert summary["labelled_set"]["images"] == 2
    assert len(summary["cycles"]) == cycles + 1
    confusion = np.asarray(read_json(tmp_path / f"run/cycle-00{cycles}/evaluation/confusion.json")["counts"])
    assert confusion.sum() == 1024 * 2048  # every pixel once, at the original resolution
