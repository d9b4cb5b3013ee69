"""What ReCo costs: ours, a vectorised plain autograd form, and loops as research code has them; and what it costs of
the training step that it is a part of.

Run:  python -m benchmarks.performance.benches.reco
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.performance.reference_reco import looped_contrast, looped_samples, reference_reco
from benchmarks.performance.result import Result, found
from benchmarks.performance.timing import ByDefaultAllocator, interleaved, milliseconds
from querying.base.allocator import keep_freed_memory
from training.losses.cross_entropy import cross_entropy
from training.losses.reco import contrast, plain_contrast, prototypes, reco_loss, sample_indices
from training.network.deeplab import build_model
from training.settings.training import ModelSettings, ReCoSettings

IMAGES, HEIGHT, WIDTH, CLASSES, DIM = 6, 360, 480, 11, 256
BAR = 0.1
"""ReCo's share of the step's forward and backward pass, at most."""
LOOPS_BAR = 15.0
ORIGINAL = ReCoSettings(queries=256, negatives=512)
"""Liu et al. 2021: what the loops are measured with; S4AL+, and the rest here, take half of both."""


def main(*, rounds: int = 5, threads: int = 2) -> list[Result]:
    """Interleaved medians in milliseconds, forward and backward; the loops, which take long, once."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forms = _forms(torch.Generator().manual_seed(0), device)
    apart = {name: forms.pop(name) for name in ("loop", "original")}
    seconds = interleaved(forms, rounds)
    beside = interleaved(apart, 1)  # half a minute a turn
    setting = f"{IMAGES} x {HEIGHT}x{WIDTH}, {CLASSES} classes, {DIM} dimensions, {threads} threads, {device}"
    error = difference()
    return [
        found(
            "reco", "ReCo / training step's forward and backward pass", setting, seconds["reco"] / seconds["step"],
            bar=BAR, at_most=True, ms=milliseconds(seconds), over_plain=round(seconds["plain"] / seconds["reco"], 1),
        ),
        found(
            "reco_loops", "ReCo over the reference formulation (loops, all keys gathered), 256 queries, 512 negatives",
            setting, beside["loop"] / beside["original"], bar=LOOPS_BAR, holds=error <= 1e-6, ms=milliseconds(beside),
            difference_in_float64=error,
        ),
    ]  # fmt: skip


def difference() -> float:
    """The relative difference of our value and the reference's on the same samples, in float64."""
    generator = torch.Generator().manual_seed(0)
    embed_PD = torch.randn(2_000, 32, generator=generator, dtype=torch.float64)
    label_P = torch.randint(5, (2_000,), generator=generator)
    mean_KD, class_K = prototypes(embed_PD, label_P)
    settings = ReCoSettings(queries=16, negatives=32)
    samples = looped_samples(label_P, label_P >= 0, mean_KD, class_K, settings, generator)
    expected = looped_contrast(embed_PD, mean_KD, samples, temperature=settings.temperature)
    ours = contrast(embed_PD, embed_PD, mean_KD, samples, temperature=settings.temperature)
    return float((ours - expected).abs() / expected.abs())


def _forms(generator: torch.Generator, device: torch.device) -> dict[str, Callable[[], object]]:
    settings = ReCoSettings()
    torch.manual_seed(0)
    model = build_model(ModelSettings(), CLASSES, embedding=True).to(device).train()
    image = torch.randn(IMAGES, 3, HEIGHT, WIDTH, generator=generator).to(device)
    # Labels in patches, with a quarter of IGNORE, as pseudo-labels have them.
    coarse = torch.randint(CLASSES * 4 // 3, (IMAGES, 1, 9, 12), generator=generator)
    coarse[coarse >= CLASSES] = 255
    target = F.interpolate(coarse.float(), size=(HEIGHT, WIDTH))[:, 0].byte().to(device)
    small = F.interpolate(coarse.float(), size=(HEIGHT // 4, WIDTH // 4))[:, 0].byte().to(device)
    prob = torch.rand(small.shape, generator=generator).to(device)
    embed = torch.randn(IMAGES, DIM, *small.shape[1:], generator=generator).to(device)
    embed = embed.contiguous(memory_format=torch.channels_last).requires_grad_()

    def reco(settings: ReCoSettings = settings) -> None:
        loss = reco_loss(
            embed,
            small,
            prob,
            temperature=settings.temperature,
            queries=settings.queries,
            negatives=settings.negatives,
            hard_threshold=settings.hard_threshold,
            generator=generator,
        )
        torch.autograd.grad(loss, embed)

    def plain() -> None:
        embed_PD = embed.permute(0, 2, 3, 1).reshape(-1, DIM)
        mean_KD, class_K = prototypes(embed_PD.detach(), small.flatten())
        samples = sample_indices(
            small.flatten(),
            prob.flatten() < settings.hard_threshold,
            mean_KD,
            class_K,
            temperature=settings.temperature,
            queries=settings.queries,
            negatives=settings.negatives,
            generator=generator,
        )
        torch.autograd.grad(
            plain_contrast(embed_PD, embed_PD.detach(), mean_KD, samples, temperature=settings.temperature), embed
        )

    def step() -> None:
        """Both heads, cross entropy at full resolution, no ReCo: a sum stands in for the embedding's loss."""
        model.zero_grad()
        output = model(image)
        assert output.embedding is not None
        logits = F.interpolate(output.logits, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        (cross_entropy(logits, target, normalise="valid") + output.embedding.mean()).backward()

    def loop() -> None:
        torch.autograd.grad(reference_reco(embed, small, prob, ORIGINAL, generator), embed)

    return {
        "reco": reco,
        "plain": ByDefaultAllocator(plain),
        "step": step,
        "loop": ByDefaultAllocator(loop),
        "original": lambda: reco(ORIGINAL),
    }


if __name__ == "__main__":
    main()
