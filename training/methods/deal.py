"""DEAL's training (Xie et al. 2020): a branch of the network learns where its prediction is wrong.

L = CE(p(x_l), y) + w [l1 mean_right (-log(1 - d)) + l2 mean_wrong (-log d)]; d is the branch's probability that a
pixel's class is wrong, l1 = 1 / sqrt(n_right + 1) and l2 = 1 / sqrt(n_wrong + 1), divided by the sum of both.  Pixels
without label count as right.  So does the authors' code.  `methods.deal.balance=share` (ours): the
mean over the labelled pixels alone, with the share of right pixels as weight of wrong ones, and the reverse.

The error mask carries no gradient; the branch's loss goes on through the probabilities into the network, as in the
authors' code.  Learns the labelled images alone; the acquisitions are `deal_ds` and `deal_de`.  Their class head is
`model.class_head=deal`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.dataset.label_values import IGNORE
from querying.labels.pseudo_labels import top_class
from training.batches.batch import Batch
from training.losses.upsampled import full_size
from training.method_parts.method import Method, NewNetwork
from training.method_parts.parts import MethodContext, Parts, pixel_mean, supervise
from training.network.deeplab import normalise
from training.network.difficulty_branch import DifficultyBranch


class DEAL(Method):
    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        super().__init__(new_network, context)
        self.network.difficulty = DifficultyBranch(
            self.network.widths().classes, context.methods.deal.attention, align_corners=context.align_corners
        )

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        assert self.network.difficulty is not None
        logits = self.network(normalise(batch.image)).logits
        size = batch.target.shape[1:]
        error_BHW = full_size(self.network.difficulty(logits), size, context.align_corners)[:, 0]
        known_BHW = batch.target != IGNORE
        wrong_BHW = known_BHW & (top_class(full_size(logits, size, context.align_corners))[1] != batch.target)

        error = difficulty_loss(error_BHW, wrong_BHW, known_BHW, context)
        return {
            "ce": supervise(logits, batch.target, context),
            "difficulty": context.methods.deal.weight * error,
        }


def difficulty_loss(error_BHW: Tensor, wrong_BHW: Tensor, known_BHW: Tensor, context: MethodContext) -> Tensor:
    """Weighted binary cross entropy of the branch's logits (B, H, W); a scalar >= 0."""
    cost_BHW = F.binary_cross_entropy_with_logits(error_BHW, wrong_BHW.to(error_BHW.dtype), reduction="none")
    if context.methods.deal.balance == "class":
        kinds = (~wrong_BHW, wrong_BHW)
        weight_2 = torch.stack([context.mean_count(kind.sum().to(cost_BHW.dtype)) for kind in kinds]).add(1).rsqrt()
        mean_2 = torch.stack([pixel_mean(cost_BHW, kind, kind, context) for kind in kinds])
        return (weight_2 / weight_2.sum() * mean_2).sum()
    wrong, known = (context.mean_count(mask.sum().to(cost_BHW.dtype)) for mask in (wrong_BHW, known_BHW))
    share = wrong / known.clamp_min(1)
    return pixel_mean(cost_BHW * torch.where(wrong_BHW, 1 - share, share), known_BHW, known_BHW, context)
