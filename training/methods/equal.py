"""EquAL's training (Golestaneh & Kitani 2020): an image and its mirror image are to be predicted alike.

L = CE(z, y) + CE(z', y) + w [mean (z - |z'|)^2 + mean (z' - |z|)^2] over images of which anything is labelled: z are
the logits of an image, z' those of its mirror image, mirrored back, |.| carries no gradient, means run over pixels
and classes.  So do the authors: images with bought cells come with each step beside those that are known whole, as in
supervised training, and the rest of the pool is not looked at.

Ours, by `methods.equal`: `supervised=image` leaves CE(z', y) out; `distance=probabilities` has w mean ||p - p'||^2 (a
sum over the classes, in [0, 2], of which both views learn); with `images=all` all pool images are to agree, and the
bought cells are a cross entropy of their own, times `train.unlabelled_weight` (docs/how_it_works/decisions.md, 26).

One pass holds the images and their mirror images, so it costs twice as much as the same batch of another method.  The
authors' code was read by an audit whose findings are in docs/how_it_works/fidelity.md.  The acquisition is `equal`.
"""

import torch
from torch import Tensor

from querying.dataset.label_values import IGNORE
from training.batches.batch import Batch
from training.losses.upsampled import full_size, wide
from training.method_parts.method import Method
from training.method_parts.parts import MethodContext, Parts, classify, pixel_mean, supervise
from training.network.deeplab import normalise
from training.settings.methods import MethodSettings


class EquAL(Method):
    @classmethod
    def views(cls, methods: MethodSettings) -> int | None:
        """None: of the pool, only images with a bought cell."""
        return 0 if methods.equal.images == "all" else None

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        settings, known = context.methods.equal, len(batch.image)
        image = normalise(torch.cat([batch.image, batch.image_u]))
        target = torch.cat([batch.target, batch.target_u])
        logits, mirrored = self.network(torch.cat([image, image.flip(3)])).logits.chunk(2)
        views = (logits, mirrored.flip(3))
        taught = views if settings.supervised == "both" else views[:1]

        z, z_back = (wide(full_size(view, target.shape[1:], context.align_corners)) for view in views)
        parts, counted_BHW = {}, torch.ones_like(target, dtype=torch.bool)
        if settings.images == "annotated":
            parts["ce"] = _total([supervise(view, target, context) for view in taught])
        else:
            counted_BHW = torch.cat([batch.target != IGNORE, batch.seen_u[0]])
            parts["ce"] = _total([supervise(view[:known], batch.target, context) for view in taught])
            cells = _total([classify(view[known:], batch.target_u, context) for view in taught])
            parts["ce_u"] = context.train.unlabelled_weight * cells
        apart_BHW = logits_apart(z, z_back) if settings.distance == "logits" else probabilities_apart(z, z_back)
        return parts | {"consistency": settings.weight * pixel_mean(apart_BHW, counted_BHW, counted_BHW, context)}


def logits_apart(z_BCHW: Tensor, back_BCHW: Tensor) -> Tensor:
    """(B, H, W): two squared differences, each with a gradient in one of both, mean over the classes."""
    return ((z_BCHW - back_BCHW.detach()).square() + (back_BCHW - z_BCHW.detach()).square()).mean(1)


def probabilities_apart(z_BCHW: Tensor, back_BCHW: Tensor) -> Tensor:
    """(B, H, W) in [0, 2]: the squared distance of the probabilities, sum over the classes."""
    return (z_BCHW.softmax(1) - back_BCHW.softmax(1)).square().sum(1)


def _total(costs: list[Tensor]) -> Tensor:
    return torch.stack(costs).sum()
