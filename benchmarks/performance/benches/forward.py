"""The forward pass that scores: ours in float32 and bfloat16, against the network as every research code runs it (NCHW,
BatchNorm, the decoder's convolution over concatenated maps).

Run:  python -m benchmarks.performance.benches.forward
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.performance.plain import make_plain, run_plain
from benchmarks.performance.subject import CLASSES, HEIGHT, WIDTH, scenes, trained
from benchmarks.performance.timing import ByDefaultAllocator, in_turns, milliseconds, times
from querying.base.allocator import keep_freed_memory
from querying.labels.regions import RegionGrid
from querying.scoring.acquisition import entropy
from training.inference.predictor import Predictor, load_network
from training.kernels.precision import fast_bf16
from training.network.deeplab import normalise

BATCH, REGION = 4, 30
BARS = {"fp32": 2.4, "bf16": 5.0}
AGREEMENT = {"fp32": 0.9999, "bf16": 0.995}
"""Share of pixels whose class is that of the plain network, at least; in float32 only ties may fall otherwise."""


def main(*, rounds: int = 7, threads: int = 2) -> list[dict[str, Any]]:
    """A result per precision that this machine has; `ratio` is images/s over the plain network's."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.from_numpy(scenes(BATCH, "test")[0]).permute(0, 3, 1, 2)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = trained(Path(folder))
        plain = make_plain(load_network(checkpoint).to(device))
        ours = {"fp32": Predictor(checkpoint, device)}
        if fast_bf16():
            ours["bf16"] = Predictor(checkpoint, device, precision="bf16")

    @torch.inference_mode()
    def reference() -> Tensor:
        return run_plain(plain, normalise(images.to(device))).logits

    forms: dict[str, Callable[[], Tensor]] = {"plain": ByDefaultAllocator(reference)}
    forms |= {name: partial(one, images) for name, one in ours.items()}
    seconds = in_turns(forms, rounds)
    results = []
    for name in ours:
        agree, error = _differences(reference(), forms[name]())
        ratio = times(seconds["plain"], seconds[name])
        result = {
            "name": f"forward_{name}",
            "what": f"scoring forward, {name}, over plain float32 NCHW, images/s",
            "setting": f"{BATCH} x {HEIGHT}x{WIDTH}, {CLASSES} classes, MobileNetV2, {threads} threads, {device}",
            "ms": milliseconds({form: seconds[form] for form in ("plain", name)}),
            "agreement": round(agree, 5),
            "region_error_nats": round(error, 6),
            "ratio": round(ratio, 3),
            "bar": BARS[name],
            "passes": ratio >= BARS[name] and agree >= AGREEMENT[name],
        }
        print(json.dumps(result))
        results.append(result)
    if "bf16" not in ours:
        print("bf16: not measured, this processor has no bfloat16 instructions")
    return results


def _differences(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """Share of equal classes, and the largest difference of a region's mean entropy in nats, at full resolution."""
    grid = RegionGrid(HEIGHT, WIDTH, REGION)
    full = [F.interpolate(z.float().cpu(), (HEIGHT, WIDTH), mode="bilinear") for z in (expected, found)]
    same = (full[0].argmax(1) == full[1].argmax(1)).double().mean().item()
    mean = [grid.mean(entropy(z.log_softmax(1))) for z in full]
    return same, float((mean[0] - mean[1]).abs().max())


if __name__ == "__main__":
    main()
