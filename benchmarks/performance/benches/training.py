"""The S4AL+ training step (2 + 4 images, both heads, losses and optimiser) without its data: against the bare network,
and against the same step as a plain port of research code has it: the libraries' layers in NCHW, the decoder's
convolution over concatenated maps, cross entropy of upsampled logits, ReCo in loops.

Run:  python -m benchmarks.performance.benches.training
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.performance.plain import make_plain, run_plain
from benchmarks.performance.reference_reco import reference_reco
from benchmarks.performance.result import Result, found
from benchmarks.performance.timing import ByDefaultAllocator, in_turns, milliseconds, times
from querying.base.allocator import keep_freed_memory
from querying.dataset.label_values import IGNORE
from training.batches.batch import Batch
from training.fit.groups import parameter_groups
from training.kernels.precision import fast_bf16
from training.method_parts.parts import MethodContext, Parts
from training.methods.registry import METHODS
from training.network.deeplab import build_model, normalise
from training.network.segmenter import Segmenter
from training.settings.methods import MethodSettings, SelfTrainingSettings
from training.settings.training import ModelSettings, ReCoSettings, TrainSettings

CLASSES = 11
BARS = {"fp32": 3.5, "bf16": 7.0}
BARE_BAR = 0.85


class Case(NamedTuple):
    """One batch and what trains on it."""

    batch: Batch
    step: MethodContext
    model: ModelSettings
    device: torch.device

    def network(self) -> Segmenter:
        torch.manual_seed(0)
        return build_model(self.model, CLASSES, embedding=True)


def case(
    height: int = 360, width: int = 480, *, model: ModelSettings | None = None, reco: ReCoSettings | None = None
) -> Case:  # fmt: skip
    """2 labelled and 4 pool images; labels in patches, a quarter of the pool's unknown, as pseudo-labels have them."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    draw = torch.Generator().manual_seed(0)
    rows, columns = -(-height // 40), -(-width // 40)

    def blown_up(coarse: Tensor) -> Tensor:
        return coarse.repeat_interleave(40, -2).repeat_interleave(40, -1)[..., :height, :width].to(torch.uint8)

    image = blown_up(torch.randint(0, 128, (6, 3, rows, columns), generator=draw))
    image += torch.randint(0, 128, image.shape, generator=draw, dtype=torch.uint8)
    label = torch.randint(CLASSES * 4 // 3, (6, rows, columns), generator=draw)
    label[:2] %= CLASSES
    target = blown_up(label.masked_fill(label >= CLASSES, IGNORE))
    settings = TrainSettings(method="self_training")
    step = MethodContext(
        settings,
        reco or ReCoSettings(),
        torch.Generator(device).manual_seed(0),
        lambda count: count,
        MethodSettings(self_training=SelfTrainingSettings(mean="apart")),  # as the plain port
    )
    batch = Batch(image[:2], target[:2], image[2:], target[2:]).to(device)
    return Case(batch, step, model or ModelSettings(), device)


def ours(case: Case, precision: str) -> Callable[[], Parts]:
    """The product's step, as `training.fit.job` builds it; `precision` is fp32 or bf16."""
    method = METHODS["self_training"](
        lambda embedding: case.network().to(memory_format=torch.channels_last), case.step
    ).to(case.device)  # fmt: skip
    return _step(method.train(), case, lambda: method(case.batch, case.step), precision, fused=True)


def plain(case: Case) -> Callable[[], Parts]:
    """The plain port's step in float32."""
    network = make_plain(case.network()).to(case.device).train()

    def parts() -> Parts:
        batch, known = case.batch, len(case.batch.image)
        output = run_plain(network, normalise(torch.cat([batch.image, batch.image_u])))
        assert output.embedding is not None
        full = nn.functional.interpolate(output.logits, batch.target.shape[1:], mode="bilinear")
        target = torch.cat([batch.target, batch.target_u])
        small = nn.functional.interpolate(target[:, None].float(), output.logits.shape[2:])[:, 0].long()
        prob = output.logits.detach().softmax(1).gather(1, small.clamp_max(CLASSES - 1)[:, None])[:, 0]
        reco = reference_reco(output.embedding, small, prob, case.step.reco, case.step.generator)
        return {
            "ce": nn.functional.cross_entropy(full[:known], batch.target.long(), ignore_index=IGNORE),
            "ce_u": nn.functional.cross_entropy(full[known:], batch.target_u.long(), ignore_index=IGNORE),
            "reco": case.step.reco.weight * reco,
        }

    return ByDefaultAllocator(_step(network, case, parts, "fp32", fused=False))


def bare(case: Case, precision: str) -> Callable[[], None]:
    """Forward and backward pass of the same network from a ready input, without a loss."""
    network = case.network().to(case.device).to(memory_format=torch.channels_last).train()
    image = normalise(torch.cat([case.batch.image, case.batch.image_u]))

    def run() -> None:
        network.zero_grad(set_to_none=True)
        with torch.autocast(case.device.type, torch.bfloat16, enabled=precision == "bf16"):
            maps = [output for output in network(image) if output is not None]
        torch.autograd.backward(maps, [torch.ones_like(output) for output in maps])

    return run


def _step(
    model: nn.Module, case: Case, parts: Callable[[], Parts], precision: str, *, fused: bool
) -> Callable[[], Parts]:
    train = case.step.train
    groups = parameter_groups(model, train)
    # No real learning: a hundred steps on one batch would end in weights that nobody trains with.
    for group in groups:
        group["lr"] *= 1e-6
    optimizer = torch.optim.SGD(groups, momentum=train.momentum, nesterov=train.nesterov, fused=fused)

    def run() -> Parts:
        with torch.autocast(case.device.type, torch.bfloat16, enabled=precision == "bf16"):
            terms = parts()
        optimizer.zero_grad(set_to_none=True)
        loss = torch.stack(list(terms.values())).sum()
        loss.backward()
        optimizer.step()
        return terms

    return run


def main(*, rounds: int = 7, threads: int = 2) -> list[Result]:
    """Steps a second over the plain port's, and over the bare network's, for each precision that this machine has."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    batch = case()
    precisions = ["fp32", *(["bf16"] if fast_bf16() else [])]
    steps = {name: ours(batch, name) for name in precisions}
    beside_plain = in_turns({"plain": plain(batch), **steps}, rounds)
    forms: dict[str, Callable[[], object]] = {}
    for name, step in steps.items():
        forms |= {name: step, f"bare_{name}": bare(batch, name)}
    beside_bare = in_turns(forms, 2 * rounds)  # a tenth of the time, and a difference that noise can hide
    setting = f"2 + 4 images 360x480, {CLASSES} classes, MobileNetV2, {threads} threads, {batch.device}"
    if "bf16" not in precisions:
        print("bf16: not measured, this processor has no bfloat16 instructions")
    results = []
    for name in precisions:
        plainly = {form: beside_plain[form] for form in ("plain", name)}
        barely = {form: beside_bare[form] for form in (f"bare_{name}", name)}
        results += [
            found(
                f"step_{name}", f"S4AL+ training step, {name}, over a plain float32 port with ReCo in loops", setting,
                times(*plainly.values()), bar=BARS[name], ms=milliseconds(plainly),
            ),
            found(
                f"step_bare_{name}", f"training step without data, {name}, over the bare forward and backward pass",
                setting, times(*barely.values()), bar=BARE_BAR, ms=milliseconds(barely),
            ),
        ]  # fmt: skip
    return results


if __name__ == "__main__":
    main()
