"""What benchmarks of scoring look at: generated street scenes at CamVid's size, and a network that has learned a little
of them.  Random heads would make nearly every pixel a close call, and its label map noise: bf16 would look worse than
it is, and PNG slower.

Its encoder starts from the ImageNet weights in `S4AL_WEIGHTS` where that is set, as those of users do, else at random:
then far more pixels stay close calls, and bf16's agreement falls short.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.datasets.sources.toy import ToySample
from training.losses.cross_entropy import cross_entropy
from training.network.checkpoint import save_model
from training.network.deeplab import build_model, normalise
from training.network.first_weights import load_backbone
from training.network.segmenter import Segmenter
from training.settings.training import ModelSettings

HEIGHT, WIDTH, CLASSES = 360, 480, 11
STEPS, BATCH, CROP, SCENES = 120, 8, (120, 160), 16


@cache
def scenes(count: int, split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """RGB (N, H, W, 3) and labels (N, H, W), uint8."""
    pairs = [ToySample(0, split, number, (HEIGHT, WIDTH), CLASSES).read() for number in range(count)]
    return np.stack([image for image, _ in pairs]), np.stack([label for _, label in pairs if label is not None])


def trained(folder: Path) -> Path:
    """The checkpoint of a network after 120 steps on crops of 16 scenes, written into `folder`."""
    model = _learned()
    settings = ModelSettings()
    meta = {"model": settings.model_dump(mode="json"), "classes": [str(number) for number in range(CLASSES)]}
    save_model(folder, model.state_dict(), meta)
    return folder


@cache
def _learned() -> Segmenter:
    images, labels = (torch.from_numpy(array) for array in scenes(SCENES))
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    model = build_model(ModelSettings(), CLASSES, embedding=False)
    if weights := os.environ.get("S4AL_WEIGHTS"):
        load_backbone(model, Path(weights))
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    for step in range(STEPS):
        image_BCHW, label_BHW = _crops(images, labels, rng)
        loss = cross_entropy(model(normalise(image_BCHW)).logits, label_BHW, normalise="valid")
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / STEPS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def _crops(images: Tensor, labels: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    found = []
    for number in rng.integers(len(images), size=BATCH):
        top, left = rng.integers(HEIGHT - CROP[0] + 1), rng.integers(WIDTH - CROP[1] + 1)
        box = (number, slice(top, top + CROP[0]), slice(left, left + CROP[1]))
        found.append((images[box].permute(2, 0, 1), labels[box]))
    return torch.stack([image for image, _ in found]), torch.stack([label for _, label in found])
