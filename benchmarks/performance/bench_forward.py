"""The forward pass that scores: ours in float32 and bfloat16, against the network as every research code runs it (NCHW,
BatchNorm, the decoder's convolution over concatenated maps).

Run:  python -m benchmarks.performance.bench_forward
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
from torch import Tensor, nn

from benchmarks.performance.timing import interleaved
from querying.acquisition import entropy
from querying.regions import RegionGrid
from training.checkpoint import save_model
from training.model import DeepLabV3Plus, build_model, normalise
from training.precision import fast_bf16
from training.predictor import Predictor, load_network
from training.settings import ModelSettings

HEIGHT, WIDTH, CLASSES, BATCH, REGION = 360, 480, 11, 4, 30
BARS = {"fp32": 2.4, "bf16": 5.0}
AGREEMENT = {"fp32": 0.9999, "bf16": 0.995}
"""Share of pixels whose class is that of the plain network, at least; in float32 only ties may fall otherwise."""


def main(*, rounds: int = 7, threads: int = 2) -> list[dict[str, Any]]:
    """A result per precision that this machine has; `ratio` is images/s over the plain network's."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images = torch.randint(0, 256, (BATCH, 3, HEIGHT // 30, WIDTH // 30), dtype=torch.uint8)
    images = images.repeat_interleave(30, 2).repeat_interleave(30, 3)
    images = images // 2 + torch.randint(0, 128, images.shape, dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = lived(Path(folder))
        plain = load_network(checkpoint).to(device)
        plain.set_fused(False)
        ours = {"fp32": Predictor(checkpoint, device)}
        if fast_bf16():
            ours["bf16"] = Predictor(checkpoint, device, precision="bf16")

    @torch.inference_mode()
    def reference() -> Tensor:
        logits: Tensor = _nchw(plain, normalise(images.to(device)).contiguous())
        return logits

    forms: dict[str, Callable[[], Tensor]] = {"plain": reference}
    forms |= {name: partial(one, images) for name, one in ours.items()}
    seconds = interleaved(forms, rounds)
    results = []
    for name in ours:
        agree, error = _differences(reference(), forms[name]())
        ratio = seconds["plain"] / seconds[name]
        result = {
            "name": f"forward_{name}",
            "what": f"scoring forward, {name}, over plain float32 NCHW, images/s",
            "setting": f"{BATCH} x {HEIGHT}x{WIDTH}, {CLASSES} classes, MobileNetV2, {threads} threads, {device}",
            "ms": {form: round(1e3 * seconds[form], 1) for form in ("plain", name)},
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


def _nchw(model: DeepLabV3Plus, x_BCHW: Tensor) -> Tensor:
    """The same modules without our memory format: `encode` would bring the channels last."""
    low, deep = model.encoder(x_BCHW)
    logits: Tensor = model.decode(low, deep).logits
    return logits


def _differences(expected: Tensor, found: Tensor) -> tuple[float, float]:
    """Share of equal classes, and the largest difference of a region's mean entropy in nats, at full resolution."""
    grid = RegionGrid(HEIGHT, WIDTH, REGION)
    full = [F.interpolate(z.float().cpu(), (HEIGHT, WIDTH), mode="bilinear") for z in (expected, found)]
    same = (full[0].argmax(1) == full[1].argmax(1)).double().mean().item()
    mean = [grid.mean(entropy(z.log_softmax(1))) for z in full]
    return same, float((mean[0] - mean[1]).abs().max())


def lived(folder: Path) -> Path:
    """A network with confident predictions, whose BatchNorms have seen something."""
    torch.manual_seed(0)
    settings = ModelSettings()
    model = build_model(settings, CLASSES, embedding=False)
    with torch.no_grad():
        model.class_head.out.weight.mul_(50)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    meta = {"model": settings.model_dump(mode="json"), "classes": [str(number) for number in range(CLASSES)]}
    save_model(folder, model.state_dict(), meta)
    return folder


if __name__ == "__main__":
    main()
