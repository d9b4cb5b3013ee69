"""S4AL+ (section 3.2): weakly augmented labelled images and strongly augmented pool images in one forward pass, the
pool under the teacher's pseudo-labels with bought cells over them; ReCo on both."""

import torch
from torch import nn

from training.batch import Batch
from training.methods.parts import Parts, Step, classify, contrast
from training.model import normalise


def self_training(model: nn.Module, batch: Batch, step: Step) -> Parts:
    output = model(normalise(torch.cat([batch.image, batch.image_u])))
    target = torch.cat([batch.target, batch.target_u])
    known = len(batch.image)
    parts = {"ce": classify(output.logits[:known], batch.target, step)}
    if len(batch.image_u):
        parts["ce_u"] = step.train.unlabelled_weight * classify(output.logits[known:], batch.target_u, step)
    return parts | contrast(output, target, step)
