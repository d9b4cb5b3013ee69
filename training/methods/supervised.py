"""Cross entropy (and ReCo) on human labels alone: cycle 0, the teacher, and the fully supervised reference.

After a query, images of which only some cells are bought come with each step beside those that are known whole, as the
pool does in self-training.  The loss is the mean over all known pixels of both (docs/how_it_works/decisions.md, 27).
"""

import torch
from torch import nn

from training.batches.batch import Batch
from training.method_parts.method import Method, NewNetwork
from training.method_parts.parts import MethodContext, Parts, contrast, supervise
from training.network.deeplab import normalise


class Supervised(Method):
    one_forward = True

    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        nn.Module.__init__(self)
        self.network = new_network(context.reco.weight > 0)

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        target = torch.cat([batch.target, batch.target_u])
        whole = context.whole or batch
        among = torch.cat([whole.target, whole.target_u])
        output = self.network(normalise(torch.cat([batch.image, batch.image_u])))
        return {"ce": supervise(output.logits, target, context, among)} | contrast(output, target, context)
