"""Cross Pseudo Supervision (Chen et al. 2021): two networks from different first values teach each other.

L = CE(p1, y) + CE(p2, y) + w * [CE(p1, argmax p2) + CE(p2, argmax p1)], without threshold and without average.
In the authors' code labelled and pool images pass a network apart (`methods.cps.passes=joint`: in one batch, ours),
labels are learned with OHEM (`train.ohem=0.7`, keeping 7.8 % of the pixels), and heads have the encoder's rate.  With
their weight of 6 from the start both networks call everything one class within 13 steps here, under all published
conditions together, too; networks that have learned for 80 steps do not (docs/how_it_works/fidelity.md).  So w may
grow from 0 (`methods.cps.ramp`, ours).

Without CutMix the cross terms cover labelled and pool images, and the pseudo-labels come from the training pass itself.
With CutMix they cover the pool alone: both networks label the images as they are, then learn on the images and each
other's labels mixed by the same boxes.  Those labels are made in evaluation mode (the authors' code leaves training
mode on, and lets the unmixed images into BatchNorm's statistics).  Network 1 is deployed.
"""

import torch
from torch import Tensor

from querying.dataset.label_values import IGNORE
from querying.labels.pseudo_labels import top_class
from training.batches.batch import Batch
from training.losses.upsampled import full_size
from training.method_parts.method import Method, NewNetwork
from training.method_parts.mixing import boxes, mix
from training.method_parts.parts import MethodContext, Parts, classify, evaluating, ramp_up, supervise
from training.network.deeplab import normalise


class CPS(Method):
    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        super().__init__(new_network, context)
        self.second = new_network(False)

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        settings = context.methods.cps
        known, size = len(batch.image), batch.target.shape[1:]
        networks = (self.network, self.second)
        image_u, seen_u = batch.image_u, batch.seen_u[0]
        labels: list[Tensor] = []
        if settings.cutmix:
            area = (settings.area.low, settings.area.high)
            mask = boxes(seen_u.shape, count=settings.boxes, area=area, generator=context.generator)
            labels = [mix(_label(network, image_u, size, context), mask) for network in networks]
            image_u, seen_u = mix(image_u, mask), mix(seen_u, mask)

        small = [_logits(network, batch.image, image_u, settings.passes) for network in networks]
        logits = [full_size(one, size, context.align_corners) for one in small]
        if settings.cutmix:
            learned, seen_BHW = [one[known:] for one in logits], seen_u
        else:
            learned, seen_BHW = logits, torch.cat([batch.target != IGNORE, seen_u])
            labels = [top_class(one.detach())[1] for one in logits]
        targets = [label.where(seen_BHW, IGNORE) for label in labels]

        cross = classify(learned[0], targets[1], context) + classify(learned[1], targets[0], context)
        first, second = (supervise(one[:known], batch.target, context) for one in logits)
        return {"ce": first + second, "cross": settings.weight * ramp_up(context.done, settings.ramp) * cross}


def _logits(network: torch.nn.Module, image: Tensor, image_u: Tensor, passes: str) -> Tensor:
    """The logits of labelled and pool images, (B, C, h, w)."""
    if passes == "joint":
        return network(normalise(torch.cat([image, image_u]))).logits  # type: ignore[no-any-return]
    return torch.cat([network(normalise(one)).logits for one in (image, image_u)])


@torch.no_grad()
def _label(network: torch.nn.Module, image_BCHW: Tensor, size: torch.Size, context: MethodContext) -> Tensor:
    with evaluating(network):
        _, label_BHW = top_class(full_size(network(normalise(image_BCHW)).logits, size, context.align_corners))
    return label_BHW
