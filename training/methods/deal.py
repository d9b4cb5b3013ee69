"""DEAL's training (Xie et al. 2020): a branch of the network learns where its prediction is wrong.

L = CE(p(x_l), y) + w * mean [l1 e (-log d) + l2 (1 - e) (-log(1 - d))] over the labelled pixels; e is 1 where the
class is wrong, d the branch's probability of it, l1 the share of right pixels in the batch and l2 that of wrong ones.

The error mask carries no gradient; the branch's loss goes on through the probabilities into the network, as in the
authors' code.  Pixels without label are left out (the code counts them as right, and weighs both kinds by the inverse
square root of their number).  Learns the labelled images alone; the acquisitions are `deal_ds` and `deal_de`.
"""

import torch
import torch.nn.functional as F

from querying.labels import IGNORE, top_class
from training.batch import Batch
from training.difficulty import DifficultyBranch
from training.methods.method import Method, NewNetwork
from training.methods.parts import Parts, Step, pixel_mean, supervise
from training.model import normalise
from training.upsampled import full_size


class DEAL(Method):
    def __init__(self, new_network: NewNetwork, step: Step) -> None:
        super().__init__(new_network, step)
        self.network.difficulty = DifficultyBranch(self.network.widths().classes, step.methods.deal.attention)

    def forward(self, batch: Batch, step: Step) -> Parts:
        assert self.network.difficulty is not None
        logits = self.network(normalise(batch.image)).logits
        size = batch.target.shape[1:]
        error_BHW = full_size(self.network.difficulty(logits), size)[:, 0]
        known_BHW = batch.target != IGNORE
        wrong_BHW = known_BHW & (top_class(full_size(logits, size))[1] != batch.target)

        wrong, known = (step.mean_count(mask.sum().to(error_BHW.dtype)) for mask in (wrong_BHW, known_BHW))
        share = wrong / known.clamp_min(1)
        cost_BHW = F.binary_cross_entropy_with_logits(error_BHW, wrong_BHW.to(error_BHW.dtype), reduction="none")
        cost_BHW = cost_BHW * torch.where(wrong_BHW, 1 - share, share)
        return {
            "ce": supervise(logits, batch.target, step),
            "difficulty": step.methods.deal.weight * pixel_mean(cost_BHW, known_BHW, known_BHW, step),
        }
