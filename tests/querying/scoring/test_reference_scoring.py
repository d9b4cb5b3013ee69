"""Scores, pseudo-labels and what is asked, against scoring as research code has it: one image at a time, the plain
network, softmax and logarithm, a loop over the cells, all after the network in float64."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from querying.dataset.label_values import IGNORE
from querying.dataset.shards import decode_label
from querying.labels.regions import RegionGrid
from querying.scoring.scorer import ShardScorer
from querying.selection.top_regions import select_global, select_per_image
from querying.settings import QuerySettings
from training.inference.predictor import Predictor, load_network
from training.network.checkpoint import save_model
from training.network.deeplab import build_model, normalise
from training.network.first_weights import load_backbone
from training.settings.training import ModelSettings

CAMVID, WEIGHTS = (os.environ.get(name) for name in ("S4AL_CAMVID", "S4AL_WEIGHTS"))
SIZE, IMAGES, SCALES, THRESHOLD, CLOSE = (90, 120), 8, (0.5, 1.0), 0.7, 1e-4
GRID = RegionGrid(*SIZE, 15)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """ImageNet's encoder under heads of random weights that are turned up: sure here, unsure there."""
    torch.manual_seed(0)
    settings = ModelSettings()
    model = build_model(settings, 11, embedding=True)
    load_backbone(model, next(Path(WEIGHTS).glob("*.safetensors")))
    model.train()
    with torch.no_grad():
        model(torch.randn(4, 3, *SIZE))  # statistics that are not those of the first day
        model.class_head.out.weight.mul_(50)
    folder = tmp_path_factory.mktemp("checkpoint")
    meta = {"model": settings.model_dump(mode="json"), "classes": [str(number) for number in range(11)]}
    save_model(folder, model.state_dict(), meta)
    return folder


@pytest.fixture(scope="module")
def images():
    files = sorted((Path(CAMVID) / "val").glob("*.png"))[::4][:IMAGES]
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize(SIZE[::-1])) for file in files])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


@torch.inference_mode()
def as_research_code(checkpoint, images):
    """Scores (N, R) and labels (N, H, W)."""
    network = load_network(checkpoint).to(memory_format=torch.contiguous_format)
    network.set_fused(False)
    scores, labels = [], []
    for image in images:
        x = normalise(image[None]).contiguous()
        maps = []
        for scale in SCALES:
            size = [round(side * scale) for side in SIZE]
            scaled = x if scale == 1 else F.interpolate(x, size, mode="bilinear", align_corners=False)
            logits = network.decode(*network.encoder(scaled)).logits
            maps.append(F.interpolate(logits, SIZE, mode="bilinear", align_corners=False)[0].double().numpy())
        z_CHW = np.mean(maps, axis=0)
        p_CHW = np.exp(z_CHW - z_CHW.max(0))
        p_CHW /= p_CHW.sum(0)
        entropy_HW = -(p_CHW * np.log(np.maximum(p_CHW, 1e-300))).sum(0)
        scores.append([entropy_HW[GRID.box(region)].mean() for region in range(GRID.num_regions)])
        labels.append(np.where(p_CHW.max(0) >= THRESHOLD, p_CHW.argmax(0), IGNORE))
    return np.array(scores), np.array(labels)


@pytest.mark.skipif(not (CAMVID and WEIGHTS), reason="S4AL_CAMVID or S4AL_WEIGHTS is not set")
def test_camvid_is_asked_about_as_the_slow_reference_would_ask(checkpoint, images, tmp_path):
    scorer = ShardScorer(
        lambda: Predictor(checkpoint, "cpu"), GRID, tmp_path,
        QuerySettings(scales=SCALES, threshold=THRESHOLD, exclude_border=False, batch_size=5), seed=0, cycle=0,
    )  # fmt: skip
    ids = [f"{number:03d}" for number in range(len(images))]
    parts = [scorer.score(ids[i : i + 5], images[i : i + 5], {}) for i in range(0, len(ids), 5)]
    found_NR = np.array([row for regions, _ in parts for row in regions["score"].to_pylist()], np.float32)
    label = np.stack([decode_label(png) for _, pseudo in parts for png in pseudo["label"].to_pylist()])
    wanted_NR, wanted_label = as_research_code(checkpoint, images)

    assert np.std(wanted_NR) > 0.1  # something to rank
    assert 0.05 < (wanted_label == IGNORE).mean() < 0.95
    np.testing.assert_allclose(found_NR, wanted_NR, atol=CLOSE)
    assert (label != wanted_label).mean() < 1e-4

    def assert_same(select, cut_N):
        ours, theirs = (
            {*zip(cells.position_S.tolist(), cells.region_S.tolist(), strict=True)}
            for cells in map(select, (found_NR, wanted_NR.astype(np.float32)))
        )
        assert len(ours) == len(theirs) == 4 * len(ids)
        for image, region in ours ^ theirs:  # ties, as far as the tolerance can tell
            assert abs(wanted_NR[image, region] - cut_N[image]) <= 2 * CLOSE

    assert_same(lambda s: select_per_image([(0, s)], 4), np.sort(wanted_NR, axis=1)[:, -4])
    last = np.sort(wanted_NR, axis=None)[-4 * len(ids)]
    assert_same(lambda s: select_global([(0, s)], 4 * len(ids)), np.full(len(ids), last))
