"""What one GPU does with the real stages, at CamVid's and Cityscapes' sizes: images/s of training and scoring, how long
it waits for data, and the share of its bf16 peak.  Nothing on a machine without one.

Run:  python -m benchmarks.performance.benches.device
"""

from __future__ import annotations

import gc
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.datasets.ingest import ingest
from benchmarks.performance.result import Result, found
from benchmarks.recipes.catalogue import find
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout
from orchestrator.process.progress import SilentProgress
from orchestrator.recipe.config import RunConfig, override
from orchestrator.run.context import RunContext
from orchestrator.run.loop import run
from querying.base.files import read_json
from querying.dataset.shards import DataIndex
from querying.labels.regions import RegionGrid
from querying.scoring.pool import ScoreTask
from querying.scoring.scorer import ShardScorer
from querying.settings import QuerySettings
from training.inference.predictor import Precision, Predictor
from training.network.deeplab import build_model

SIZES = {"camvid": ((360, 480), "camvid_s4al_plus"), "cityscapes": ((688, 688), "cityscapes_s4al_plus")}
COUNTS = (64, 4, 4)
"""Generated images of train, val and test: enough that a pass over them is not served from one batch."""
STEPS = 60
FORMS = {
    "as shipped": (),
    "without CUDA graph": ("train.cuda_graph=false",),
    "8 + 16 images": ("train.batch_size=8", "train.batch_size_unlabelled=16"),
}
SCORING: dict[str, tuple[Precision, int, tuple[float, ...]]] = {
    "fp32, batch 4, 3 scales": ("fp32", 4, (0.5, 1.0, 2.0)),
    "bf16, batch 4, 3 scales": ("bf16", 4, (0.5, 1.0, 2.0)),
    "bf16, batch 16, 3 scales": ("bf16", 16, (0.5, 1.0, 2.0)),
    "bf16, batch 16, 1 scale": ("bf16", 16, (1.0,)),
}


def main(*, rounds: int = 1, threads: int = 2) -> list[Result]:
    """Images/s, no bar; `rounds` is not used: a run is long enough."""
    if not torch.cuda.is_available():
        print("device: there is no GPU here, left out")
        return []
    peak = _peak()
    gpu = torch.cuda.get_device_name()
    results = [found("device_peak", "bf16 matrix product of 8192 x 8192", gpu, peak / 1e12, unit="TFLOP/s")]
    with tempfile.TemporaryDirectory() as folder:
        for name, (size, recipe) in SIZES.items():
            root = Path(folder) / name
            index = ingest("toy", None, root / "data", size=size, counts=COUNTS)
            for form, changes in FORMS.items():
                results.append(_training(name, form, find(recipe), changes, index, root / form.replace(" ", "-"), peak))
            checkpoint = RunLayout(root / "as-shipped").checkpoint(1)
            results += [_scoring(name, form, *how, index, checkpoint, root, threads) for form, how in SCORING.items()]
    return results


def _training(
    name: str, form: str, base: RunConfig, changes: tuple[str, ...], index: DataIndex, root: Path, peak: float
) -> Result:
    """A short run: the second epoch of the student is what counts, the first one has the start in it."""
    short = (
        "cycles=1", "data.dataset=null", "data.size=null", "model.weights=none", "train.epochs=2",
        f"train.steps_per_epoch={STEPS}", "teacher.epochs=1", "teacher.steps_per_epoch=5", "initial.fraction=0.2",
    )  # fmt: skip
    config = override(base, [*short, *changes])
    root.mkdir(parents=True)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()  # the memory of this form, not of those before it
    layout = RunLayout(root)
    run(RunContext(config=config, index=index, layout=layout, backend=LocalBackend(), progress=SilentProgress()))
    epoch = read_json(layout.checkpoint(1) / "meta.json")["history"][-1]
    rate = epoch["train/images_per_second"]
    return found(
        f"device_training_{name}",
        f"training on the GPU, {name}: {form}",
        f"{index.height}x{index.width}, {config.train.batch_size} + {config.train.batch_size_unlabelled} images",
        rate,
        unit="images/s",
        waiting_for_data=round(epoch["train/waiting_for_data"], 3),
        share_of_peak=round(3 * _flops(config, index) * rate / peak, 4),  # backward costs twice the forward pass
        memory_gib=round(torch.cuda.max_memory_reserved() / 2**30, 1),
    )


def _scoring(
    name: str,
    form: str,
    precision: Precision,
    batch: int,
    scales: tuple[float, ...],
    index: DataIndex,
    checkpoint: Path,
    root: Path,
    threads: int,
) -> Result:
    """Whole shards, written; the second pass counts."""
    scorer = ShardScorer(
        partial(Predictor, checkpoint.resolve(), precision=precision),
        RegionGrid(index.height, index.width, 30),
        root / "scores",
        QuerySettings(scales=scales, batch_size=batch, threads=threads),
        seed=0,
        cycle=0,
    )
    seconds = 0.0
    for turn in range(2):
        torch.cuda.synchronize()
        started = time.perf_counter()
        for number, shard in enumerate(index.shards("train")):
            place = 1000 * list(SCORING).index(form) + 100 * turn + number
            scorer.score_shard(ScoreTask(place, index.root, shard, frozenset(), {}))
        seconds = time.perf_counter() - started
    rate = index.num_images("train") / seconds
    setting = f"{index.height}x{index.width}"
    return found(f"device_scoring_{name}", f"scoring on the GPU, {name}: {form}", setting, rate, unit="images/s")


def _flops(config: RunConfig, index: DataIndex) -> float:
    """Floating-point operations of a forward pass with both heads, per image."""
    model = build_model(config.model, index.num_classes, embedding=True).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 3, index.height, index.width))
    return float(counter.get_total_flops())


def _peak() -> float:
    """Floating-point operations per second in a large bf16 matrix product."""
    side, rounds = 8192, 10
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))

    def multiply() -> None:
        for _ in range(rounds):
            a @ b
        torch.cuda.synchronize()

    multiply()
    started = time.perf_counter()
    multiply()
    return 2 * side**3 * rounds / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
