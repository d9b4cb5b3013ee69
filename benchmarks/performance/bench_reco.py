"""What ReCo costs: ours and a vectorised plain autograd form, against the training step that it is a part of.

Run:  python -m benchmarks.performance.bench_reco
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses import cross_entropy
from training.model import build_model
from training.reco import Samples, prototypes, reco_loss, sample_indices
from training.settings import ModelSettings, ReCoSettings

IMAGES, HEIGHT, WIDTH, CLASSES, DIM = 6, 360, 480, 11, 256
BAR = 0.1
"""ReCo's share of the step's forward and backward pass, at most."""


def plain_contrast(embed_PD: Tensor, mean_KD: Tensor, samples: Samples, *, temperature: float) -> Tensor:
    """The loss of `samples` as one gather and one cross entropy, differentiated by autograd."""
    query_JQD = F.normalize(embed_PD[samples.query_JQ], dim=-1)
    negative_JQMD = F.normalize(embed_PD.detach()[samples.negative_JQM], dim=-1)
    positive_JQ = torch.einsum("jqd,jd->jq", query_JQD, F.normalize(mean_KD[samples.anchor_J], dim=-1))
    negative_JQM = torch.einsum("jqd,jqmd->jqm", query_JQD, negative_JQMD)
    logit = torch.cat([positive_JQ.unsqueeze(2), negative_JQM], dim=2) / temperature
    loss_JQ = logit.logsumexp(dim=2) - logit[..., 0]
    return loss_JQ.mean(dim=1).sum() / len(mean_KD)


def main(*, rounds: int = 7, threads: int = 2) -> dict[str, object]:
    """Interleaved medians in milliseconds, forward and backward; `ratio` is our ReCo over the training step."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    forms = _forms(generator, device)
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for turn in range(rounds + 1):
        for name, form in forms.items():
            spent = _seconds(form, device)
            if turn:  # the first round warms up
                seconds[name].append(spent)
    ms = {name: round(1e3 * median(spent), 1) for name, spent in seconds.items()}
    ratio = round(ms["reco"] / ms["step"], 4)
    result: dict[str, object] = {
        "name": "reco",
        "setting": f"{IMAGES} x {HEIGHT}x{WIDTH}, {CLASSES} classes, {DIM} dimensions, {threads} threads, {device}",
        "ms": ms,
        "ratio": ratio,
        "bar": BAR,
        "passes": ratio <= BAR,
        "over_plain": round(ms["plain"] / ms["reco"], 1),
    }
    verdict = "" if ratio <= BAR else "  falls short"
    print(json.dumps(result))
    print(
        f"| ReCo / training step (forward + backward) | {ms['reco']:.0f} ms / {ms['step']:.0f} ms = {ratio:.3f} "
        f"| bar <= {BAR}{verdict} | plain autograd {ms['plain']:.0f} ms |"
    )
    return result


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

    def reco() -> None:
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
        torch.autograd.grad(plain_contrast(embed_PD, mean_KD, samples, temperature=settings.temperature), embed)

    def step() -> None:
        """Both heads, cross entropy at full resolution, no ReCo: a sum stands in for the embedding's loss."""
        model.zero_grad()
        output = model(image)
        assert output.embedding is not None
        logits = F.interpolate(output.logits, size=(HEIGHT, WIDTH), mode="bilinear", align_corners=False)
        (cross_entropy(logits, target, normalise="valid") + output.embedding.mean()).backward()

    return {"reco": reco, "plain": plain, "step": step}


def _seconds(form: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    form()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
