"""A data set of three sizes from raw files to the report: ledger, budget, scores and evaluation are counted again
from the files with NumPy alone; nothing here asks a `RegionGrid` or an index."""

import io
import math
import subprocess
import sys
from pathlib import Path
from shutil import copytree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from orchestrator.audit.files import audit_run
from orchestrator.folder.layout import RunLayout
from querying.base.files import read_json
from querying.labels.ledger import Ledger
from tests.mixed import mixed_scenes
from tests.small import SMALL
from training.inference.predictor import Predictor

ROOT = Path(__file__).parents[2]
SIZES = ((48, 64), (64, 48), (40, 80))
REGION, COLUMNS = 14, math.ceil(80 / 14)
BUDGET = 0.34
EVALUATED, SCORED = (32, 40), (24, 50)
"""Windows."""


def s4al(*words):
    """What the command says on both streams; it ends with status 0."""
    command = [sys.executable, "-m", "benchmarks", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    for split, image_id, image_HWC, mask_HW in mixed_scenes(root / "scenes", SIZES, counts=(6, 1, 2)):
        for kind, pixels in (("images", image_HWC), ("masks", mask_HW)):
            folder = root / "photos" / kind / split
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{image_id}.png")
    names = read_json(root / "scenes" / "of-0" / "index.json")["classes"]
    (root / "photos" / "classes.txt").write_text("\n".join(names) + "\n")
    return root / "photos"


@pytest.fixture(scope="module")
def finished(raw, tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    said = s4al("ingest", "folder", raw, root / "data", "--classes", raw / "classes.txt", "--shard-size", 4)
    assert "images of 3 sizes, kept as they are (--size HxW makes all one): 9 of 48x64, 9 of 64x48, 9 of 40x80" in said
    keys = [
        *SMALL, "cycles=3", "reference=true", f"query.region_size={REGION}", f"budget={BUDGET}", "model.weights=none",
        "teacher.steps_per_epoch=2", "train.epochs=2", "query.scales=[1]", "query.precision=fp32",
        f"evaluate.window={list(EVALUATED)}", f"query.window={list(SCORED)}",
    ]  # fmt: skip
    words = "run", "custom_s4al_plus", *keys, "--data", root / "data", "--out", root / "run"
    s4al(*words, "--backend", "local", "--tracking", "none")
    return root / "run"


def read(raw, kind, split):
    return {path.stem: np.array(Image.open(path)) for path in sorted((raw / kind / split).glob("*.png"))}


def cell(region):
    row, column = divmod(region, COLUMNS)
    return (slice(row * REGION, (row + 1) * REGION), slice(column * REGION, (column + 1) * REGION))


def rows_of(finished):
    return [pq.read_table(path).to_pylist() for path in sorted((finished / "ledger").glob("cycle-*.parquet"))]


def test_the_ledger_has_the_cells_of_each_images_own_grid_and_their_labels(raw, finished):
    masks, seen = read(raw, "masks", "train"), {}
    for cycle, rows in enumerate(rows_of(finished)):
        for row in rows:
            truth = masks[row["image_id"]][cell(row["region"])]
            label = np.array(Image.open(io.BytesIO(row["label"])))
            assert truth.size, "a region without a pixel was bought"
            assert np.array_equal(label, truth)
            assert (row["cycle"], row["pixels"], row["void_pixels"]) == (cycle, truth.size, (truth == 255).sum())
            taken = seen.setdefault(row["image_id"], np.zeros(masks[row["image_id"]].shape, int))
            taken[cell(row["region"])] += 1
    assert max(taken.max() for taken in seen.values()) == 1
    first = {row["image_id"] for row in rows_of(finished)[0]}
    assert all(seen[image_id].min() == 1 for image_id in first)
    assert {masks[image_id].shape for image_id in seen} == set(SIZES)


def test_the_budget_is_of_the_pixels_of_all_sizes_and_spent_to_less_than_a_cell(raw, finished):
    total = sum(mask.size for mask in read(raw, "masks", "train").values())
    void = sum((mask == 255).sum() for mask in read(raw, "masks", "train").values())
    spent = np.cumsum(
        [[sum(row[key] for row in rows) for key in ("pixels", "void_pixels")] for rows in rows_of(finished)], axis=0
    )
    summary = read_json(finished / "summary.json")
    assert len(summary["cycles"]) == len(spent) > 2
    for row, (pixels, unknown) in zip(summary["cycles"], spent.tolist(), strict=True):
        assert row["labelled_pixels"] == pixels <= BUDGET * total
        assert row["labelled_fraction"] == pixels / total
        assert row["labelled_fraction_valid"] == pytest.approx((pixels - unknown) / (total - void))
    assert spent[-1][0] > BUDGET * total - REGION**2


def predicted(predict, image_HWC, window):
    """Class probabilities (C, H, W), float64: the mean over the windows that see a pixel.  These begin every two thirds
    of one, the last at the border."""
    height, width = image_HWC.shape[:2]
    tall, wide = min(window[0], height), min(window[1], width)
    total, times = np.zeros((6, height, width)), np.zeros((height, width))
    for top in [*range(0, height - tall, math.ceil(window[0] * 2 / 3)), height - tall]:
        for left in [*range(0, width - wide, math.ceil(window[1] * 2 / 3)), width - wide]:
            part = image_HWC[top : top + tall, left : left + wide].transpose(2, 0, 1)[None].copy()
            logits = predict(torch.from_numpy(part))
            z = F.interpolate(logits, (tall, wide), mode="bilinear", align_corners=predict.align_corners)
            total[:, top : top + tall, left : left + wide] += z[0].double().softmax(0).numpy()
            times[top : top + tall, left : left + wide] += 1
    return total / times


def test_scores_are_the_mean_entropy_of_each_images_own_cells_and_the_best_were_asked(raw, finished):
    images, layout = read(raw, "images", "train"), RunLayout(finished)
    predict = Predictor(layout.checkpoint(0), "cpu")
    asked: dict[str, list[int]] = {}
    query = pq.read_table(layout.query(0) / "query.parquet").to_pylist()
    for row in query:
        asked.setdefault(row["image_id"], []).append(row["region"])
    first = {row["image_id"] for row in rows_of(finished)[0]}
    seen = set()
    for path in sorted(layout.scores(0).glob("regions-*.arrow")):
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all().to_pylist()
        for row in table:
            p_CHW = predicted(predict, images[row["image_id"]], SCORED)
            entropy_HW = -(p_CHW * np.log(np.clip(p_CHW, 1e-300, None))).sum(0)
            wanted = [
                cells.mean() if (cells := entropy_HW[cell(region)]).size else None
                for region in range(len(row["score"]))
            ]
            assert [score is None for score in row["score"]] == [score is None for score in wanted]
            known = [(region, score) for region, score in enumerate(row["score"]) if score is not None]
            np.testing.assert_allclose(
                [score for _, score in known], [w for w in wanted if w is not None], rtol=1e-3, atol=1e-5
            )
            best = sorted(known, key=lambda one: (-one[1], one[0]))[:2]
            assert sorted(region for region, _ in best) == asked[row["image_id"]]
            seen.add(row["image_id"])
    assert seen == images.keys() - first


def test_the_evaluation_counts_every_image_at_its_own_size(raw, finished):
    images, masks = read(raw, "images", "test"), read(raw, "masks", "test")
    last = len(read_json(finished / "summary.json")["cycles"]) - 1
    predict = Predictor(RunLayout(finished).checkpoint(last), "cpu")
    counts = np.zeros((6, 6), np.int64)
    for image_id, image_HWC in images.items():
        found, known = predicted(predict, image_HWC, EVALUATED).argmax(0), masks[image_id] != 255
        np.add.at(counts, (masks[image_id][known], found[known]), 1)
    said = np.array(read_json(RunLayout(finished).evaluation(last) / "confusion.json")["counts"])
    assert counts.sum() == said.sum()
    assert abs(counts - said).sum() <= 0.002 * counts.sum()  # ties of rounded numbers
    hit, union = np.diag(said), said.sum(0) + said.sum(1) - np.diag(said)
    assert read_json(finished / "summary.json")["cycles"][-1]["miou"] == pytest.approx(
        (hit / union)[said.sum(1) > 0].mean()
    )


def test_verify_finds_it_intact_and_the_report_says_the_same_numbers(finished):
    s4al("verify", finished, "--data", finished.parent / "data")
    report = (finished / "report" / "report.md").read_text()
    for row in read_json(finished / "summary.json")["cycles"]:
        assert f"{100 * row['labelled_fraction']:.2f}" in report
        assert f"{100 * row['miou']:.2f}" in report


def test_verify_finds_a_cell_that_is_not_of_the_images_own_grid(finished, tmp_path):
    copy = tmp_path / "copy"
    copytree(finished, copy)
    ledger = Ledger(copy / "ledger")
    table = ledger.read(1)
    ids, regions = table["image_id"].to_pylist(), table["region"].to_pylist()
    sizes = {row["image_id"]: 0 for row in rows_of(finished)[1]}
    tall = next(image_id for image_id in sizes if image_id.endswith("_2"))  # 40x80: the last rows have no pixel
    regions[ids.index(tall)] = 4 * COLUMNS
    for path in (ledger.path(1), ledger.note(1)):
        path.unlink()
    query = read_json(finished / "ledger" / "cycle-001.json").get("query")
    ledger.append(1, table.set_column(1, table.schema.field(1), pa.array(regions, pa.int32())).to_batches(), query)
    said = "\n".join(audit_run(RunLayout(copy)))
    assert f"image {tall}, region {4 * COLUMNS} is none of the 18 regions" in said
