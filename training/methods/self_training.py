"""S4AL+ (section 3.2): weakly augmented labelled images and strongly augmented pool images in one forward pass, the
pool under the teacher's pseudo-labels with bought cells over them; ReCo on both."""

import torch

from training.batch import Batch
from training.methods.parts import Parts, Step, classify, contrast, supervise
from training.methods.supervised import Supervised
from training.model import normalise


class SelfTraining(Supervised):
    pseudo_labelled = True

    def forward(self, batch: Batch, step: Step) -> Parts:
        output = self.network(normalise(torch.cat([batch.image, batch.image_u])))
        target = torch.cat([batch.target, batch.target_u])
        known = len(batch.image)
        parts = {"ce": supervise(output.logits[:known], batch.target, step)}
        if len(batch.image_u):
            parts["ce_u"] = step.train.unlabelled_weight * classify(output.logits[known:], batch.target_u, step)
        return parts | contrast(output, target, step)
