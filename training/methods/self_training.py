"""S4AL+ (section 3.2): weakly augmented labelled images and strongly augmented pool images in one forward pass, the
pool under the teacher's pseudo-labels with bought cells over them; ReCo on both.

L = [sum over labelled images CE_i + w_u sum over pool images CE_i] / N + ReCo, where N is the number of all pixels of
both, ignored ones, too, as in the authors' code.  `methods.self_training.mean=known` counts the known ones, as ST++'s
code does; `apart` is the sum of two means, each over its own images (ours).
"""

from functools import partial

import torch

from training.batches.batch import Batch
from training.losses.cross_entropy import cross_entropy
from training.method_parts.parts import MethodContext, Parts, classify, contrast, supervise
from training.methods.supervised import Supervised
from training.network.deeplab import normalise


class SelfTraining(Supervised):
    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        output = self.network(normalise(torch.cat([batch.image, batch.image_u])))
        target = torch.cat([batch.target, batch.target_u])
        known, mean = len(batch.image), context.methods.self_training.mean
        whole = context.whole or batch
        if mean == "apart":
            learn = partial(classify, context=context, among_BHW=whole.target_u)
            own = partial(supervise, context=context, among_BHW=whole.target)
        else:
            learn = own = partial(
                cross_entropy,
                normalise="all" if mean == "all" else "valid",
                mean_count=context.mean_count,
                among_BHW=torch.cat([whole.target, whole.target_u]),
                align_corners=context.align_corners,
            )
        parts = {}
        if known or context.whole is None:
            parts["ce"] = own(output.logits[:known], batch.target)
        if len(batch.image_u):
            parts["ce_u"] = context.train.unlabelled_weight * learn(output.logits[known:], batch.target_u)
        return parts | contrast(output, target, context)
