"""DEAL's difficulty branch (Xie et al. 2020): how likely is the network's class of a pixel wrong?"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DifficultyBranch(nn.Module):
    """Probability attention, then a 1x1 convolution: class logits -> logits of the probability of an error.

    Attention adds to the probabilities P of a pixel gamma times those of the pixels like it: Q_j = P_j +
    gamma * sum_i a_ji P_i, a_ji = softmax_i(P_i . P_j).  gamma is learned, from 0.  It is taken on a map smaller by
    `share` along both sides (the authors' code: 2/3 of stride 4 on CamVid, 1/2 on Cityscapes), and needs no memory for
    all pairs of pixels.
    """

    share: Tensor

    def __init__(self, classes: int, share: float = 1.0, *, align_corners: bool = False) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))
        self.out = nn.Conv2d(classes, 1, 1)
        self.align_corners = align_corners
        self.register_buffer("share", torch.tensor(share, dtype=torch.float64))  # a checkpoint needs no settings

    def forward(self, logits_BChw: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, 1, h, w) of sides multiplied by `share`; never in half precision."""
        with torch.autocast(logits_BChw.device.type, enabled=False):
            size = [max(1, round(side * self.share.item())) for side in logits_BChw.shape[2:]]
            z_BChw = logits_BChw if logits_BChw.dtype == torch.float64 else logits_BChw.float()
            p_BChw = F.interpolate(z_BChw, size, mode="bilinear", align_corners=self.align_corners).softmax(1)
            return self.out(p_BChw + self.gamma * attended(p_BChw))  # type: ignore[no-any-return]


def attended(p_BChw: Tensor) -> Tensor:
    """The mean of all pixels' values for each pixel, weighted by the softmax of their dot products with its own."""
    batch, classes, height, width = p_BChw.shape
    p_B1NC = p_BChw.flatten(2).transpose(1, 2)[:, None]
    # Multiples of 8 and a dense last axis (padding by nothing leaves it strided) are what the kernels take that keep no
    # N x N matrix; zeros change no product.
    p_B1NC = F.pad(p_B1NC, (0, -classes % 8)).contiguous()
    mean_B1NC = F.scaled_dot_product_attention(p_B1NC, p_B1NC, p_B1NC, scale=1.0)
    return mean_B1NC[:, 0, :, :classes].transpose(1, 2).reshape(batch, classes, height, width)
