"""Cross entropy (and ReCo) on the labelled images alone: cycle 0, the teacher, and the fully supervised reference."""

from torch import nn

from training.batch import Batch
from training.methods.parts import Parts, Step, classify, contrast
from training.model import normalise


def supervised(model: nn.Module, batch: Batch, step: Step) -> Parts:
    output = model(normalise(batch.image))
    return {"ce": classify(output.logits, batch.target, step)} | contrast(output, batch.target, step)
