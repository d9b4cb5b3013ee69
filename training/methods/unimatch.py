"""UniMatch (Yang et al. 2023): two strong views and a feature-perturbed view learn what the weak view says.

L = 1/2 [CE(x_l) + 1/4 CE(s1) + 1/4 CE(s2) + 1/2 CE(fp)].  The pseudo-label is the detached argmax of the weak view in
the training pass; pixels below the threshold cost nothing but count in the mean.  fp: whole channels of the encoder's
maps are dropped, decoded together with the undisturbed ones.  s1 and s2 each get a box of
another image, with that image's pseudo-label.  Nothing is averaged over time.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.labels.pseudo_labels import top_class
from training.batches.batch import Batch
from training.losses.upsampled import full_size, wide
from training.method_parts.method import Method
from training.method_parts.mixing import boxes, mix
from training.method_parts.parts import MethodContext, Parts, pixel_mean, supervise
from training.network.deeplab import normalise


class UniMatch(Method):
    strong_views = 2

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        settings = context.methods.unimatch
        known, pool, size = len(batch.image), len(batch.image_u), batch.target.shape[1:]
        drop = partial(F.dropout2d, p=settings.feature_dropout)

        maps = self.network.encode(normalise(torch.cat([batch.image, batch.image_u])))
        output = self.network.decode(*(torch.cat([one, drop(one[known:])]) for one in maps), size=size)
        logits_x, logits_w, logits_fp = full_size(output.logits, size, context.align_corners).split([known, pool, pool])
        confidence, label = top_class(wide(logits_w.detach()).softmax(1))

        area = (settings.area.low, settings.area.high)
        masks = [
            boxes(label.shape, area=area, aspect=1 / 0.3, probability=settings.cutmix, generator=context.generator)
            for _ in batch.strong_u
        ]
        mixed = torch.cat([mix(view, mask) for view, mask in zip(batch.strong_u, masks, strict=True)])
        logits_s = full_size(self.network(normalise(mixed)).logits, size, context.align_corners).chunk(2)

        def learn(logits: Tensor, label: Tensor, confidence: Tensor, seen: Tensor) -> Tensor:
            cost = F.cross_entropy(wide(logits), label, reduction="none")
            return pixel_mean(cost, seen & (confidence >= settings.threshold), seen, context)

        s1, s2 = (
            learn(logits, mix(label, mask), mix(confidence, mask), mix(seen, mask))
            for logits, mask, seen in zip(logits_s, masks, batch.seen_u[1:], strict=True)
        )
        return {
            "ce": 0.5 * supervise(logits_x, batch.target, context),
            "strong": 0.125 * (s1 + s2),
            "features": 0.25 * learn(logits_fp, label, confidence, batch.seen_u[0]),
        }
