"""What logits of a coarser grid can say of a truth map at best: the bound that the head's stride sets, on any network.

Shape suffixes: B = images, C = classes, H and W = pixels, h and w = rows and columns of the head's grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.dataset.label_values import IGNORE
from training.losses.upsampled import full_size


def averaged_truth(truth_BHW: Tensor, num_classes: int, stride: int) -> Tensor:
    """Share of each class in each place of the head's grid, float32 (B, C, h, w) in 0..1; IGNORE pixels count as none.

    h and w are H and W divided by `stride`, rounded up, as the network's.
    """
    known_BHW = truth_BHW != IGNORE
    one_hot_BHWC = F.one_hot(truth_BHW.long().where(known_BHW, num_classes), num_classes + 1)[..., :num_classes]
    return F.adaptive_avg_pool2d(one_hot_BHWC.permute(0, 3, 1, 2).float(), _grid(truth_BHW, stride))


def fitted_logits(
    truth_BHW: Tensor, num_classes: int, stride: int, align_corners: bool = False, steps: int = 400
) -> Tensor:
    """Logits (B, C, h, w) that have the least cross entropy with the truth, found by gradient descent on the logits
    themselves, without any network.  They keep thin objects that an average loses; the bound is from below, since the
    descent is stopped after `steps`."""
    logits_BChw = torch.zeros(len(truth_BHW), num_classes, *_grid(truth_BHW, stride), requires_grad=True)
    target_BHW = truth_BHW.long()
    optimizer = torch.optim.Adam([logits_BChw], lr=0.3)
    for _ in range(steps):
        full_BCHW = full_size(logits_BChw, target_BHW.shape[1:], align_corners)
        loss = F.cross_entropy(full_BCHW, target_BHW, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits_BChw.detach()


def _grid(truth_BHW: Tensor, stride: int) -> tuple[int, int]:
    height, width = truth_BHW.shape[1:]
    return -(-height // stride), -(-width // stride)
