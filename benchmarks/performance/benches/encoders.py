"""Other encoders: a ViT-S with DPT at 518x518 and a ConvNeXt-tiny with DeepLabv3+ at 512x512, random weights.

The whole scoring pass over the bare forward pass, and the training step over the bare forward and backward pass, as
for MobileNetV2 in `scoring` and `training`.

Run:  python -m benchmarks.performance.benches.encoders
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch

from benchmarks.performance.benches import scoring, training
from benchmarks.performance.result import Result, found
from benchmarks.performance.subject import CLASSES
from benchmarks.performance.timing import in_turns, milliseconds, times
from querying.base.allocator import keep_freed_memory
from querying.labels.regions import RegionGrid
from querying.scoring.scorer import ShardScorer
from querying.settings import QuerySettings
from training.inference.predictor import Predictor
from training.network.checkpoint import save_model
from training.network.deeplab import build_model
from training.settings.training import ModelSettings, ReCoSettings

IMAGES, BATCH = 8, 2
ENCODERS = {
    "vit_s": (
        (518, 518),
        ModelSettings(backbone="vit_small_patch14_dinov2", decoder="dpt", output_stride=14, weights="none"),
    ),
    "convnext_t": ((512, 512), ModelSettings(backbone="convnext_tiny", weights="none")),
}


def main(*, rounds: int = 3, threads: int = 2) -> list[Result]:
    """Ratios of images/s and of steps a second."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    results = []
    for name, (size, model) in ENCODERS.items():
        what = f"{model.backbone}, {model.decoder}, {size[0]}x{size[1]}"
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            shard = scoring.shard_of(root, IMAGES, size)
            (root / "checkpoint").mkdir()
            torch.manual_seed(0)
            network = build_model(model, CLASSES, embedding=False)
            meta = {"model": model.model_dump(mode="json"), "classes": [str(number) for number in range(CLASSES)]}
            save_model(root / "checkpoint", network.state_dict(), meta)
            scorer = ShardScorer(
                partial(Predictor, root / "checkpoint"),
                RegionGrid(*size, 30),
                root / "scores",
                QuerySettings(scales=(1.0,), threshold=0.2, batch_size=BATCH, threads=threads),
                seed=0,
                cycle=0,
            )
            spent = scoring.against_forward(scorer, root, shard, BATCH, rounds)
        results.append(
            found(
                f"scoring_{name}", f"whole scoring pass / bare forward pass, images/s, {what}",
                f"{IMAGES} images, batch {BATCH}, {threads} threads", times(spent["forward"], spent["scoring"]),
                bar=scoring.BARS["scoring"], ms=milliseconds(spent),
            )
        )  # fmt: skip
        batch = training.case(*size, model=model, reco=ReCoSettings())
        forms = {"bare": training.bare(batch, "fp32"), "step": training.ours(batch, "fp32")}
        turns = in_turns(forms, rounds)
        results.append(
            found(
                f"step_{name}", f"training step without data over the bare forward and backward pass, {what}",
                f"2 + 4 images, {threads} threads, {batch.device}", times(turns["bare"], turns["step"]),
                bar=training.BARE_BAR, ms=milliseconds(turns),
            )
        )  # fmt: skip
    return results


if __name__ == "__main__":
    main()
