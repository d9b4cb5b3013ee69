"""What logits of a coarser grid can say of a truth map at best: the bound that its grid sets, on any network.

Shape suffixes: B = images, C = classes, H and W = pixels of the image, or of what the encoder pads it to; h and w =
rows and columns of the head's grid.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.dataset.label_values import IGNORE
from training.inference.dry_run import Grid
from training.losses.upsampled import full_size


def averaged_truth(truth_BHW: Tensor, num_classes: int, grid: Grid) -> Tensor:
    """Share of each class in each place of the head's grid, float32 (B, C, h, w) in 0..1; IGNORE pixels and padding
    count as none."""
    truth_BHW = _padded(truth_BHW, grid)
    known_BHW = truth_BHW != IGNORE
    one_hot_BHWC = F.one_hot(truth_BHW.long().where(known_BHW, num_classes), num_classes + 1)[..., :num_classes]
    return F.adaptive_avg_pool2d(one_hot_BHWC.permute(0, 3, 1, 2).float(), grid.cells)


def fitted_logits(
    truth_BHW: Tensor, num_classes: int, grid: Grid, align_corners: bool = False, steps: int = 400
) -> Tensor:
    """Logits (B, C, h, w) that have the least cross entropy with the truth, found by gradient descent on the logits
    themselves, without any network.  They keep thin objects that an average loses; the bound is from below, since the
    descent is stopped after `steps`."""
    logits_BChw = torch.zeros(len(truth_BHW), num_classes, *grid.cells, requires_grad=True)
    target_BHW = _padded(truth_BHW, grid).long()
    optimizer = torch.optim.Adam([logits_BChw], lr=0.3)
    for _ in range(steps):
        full_BCHW = full_size(logits_BChw, target_BHW.shape[1:], align_corners)
        loss = F.cross_entropy(full_BCHW, target_BHW, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return logits_BChw.detach()


def labels(logits_BChw: Tensor, grid: Grid, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Classes (B, H, W) of images of `size` from logits of the head's grid, as the network's user makes them."""
    height, width = size
    full_BCHW = full_size(logits_BChw, torch.Size(grid.padded), align_corners)
    return full_BCHW[..., :height, :width].argmax(1).to(torch.uint8)


def _padded(truth_BHW: Tensor, grid: Grid) -> Tensor:
    bottom, right = (there - here for there, here in zip(grid.padded, truth_BHW.shape[1:], strict=True))
    return F.pad(truth_BHW, (0, right, 0, bottom), value=IGNORE)
