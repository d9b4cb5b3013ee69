"""Cross entropy (and ReCo) on the labelled images alone: cycle 0, the teacher, and the fully supervised reference."""

from torch import nn

from training.batch import Batch
from training.methods.method import Method, NewNetwork
from training.methods.parts import Parts, Step, contrast, supervise
from training.model import normalise


class Supervised(Method):
    one_forward = True

    def __init__(self, new_network: NewNetwork, step: Step) -> None:
        nn.Module.__init__(self)
        self.network = new_network(step.reco.weight > 0)

    def forward(self, batch: Batch, step: Step) -> Parts:
        output = self.network(normalise(batch.image))
        return {"ce": supervise(output.logits, batch.target, step)} | contrast(output, batch.target, step)
