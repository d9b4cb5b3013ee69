"""Cross entropy of logits that are upsampled to the labels' size, loss and gradient in one pass over the image.

Nothing of full size is kept: the upsampled logits of a stripe of rows, their probabilities and their gradient are
computed while they are in the cache, as ReCo's are.  On a CPU; a GPU is faster with few large operations.

Shape suffixes: B = images, C = classes, h and w = the head's pixels, H and W = the labels', S = rows of a stripe, X =
the head's rows that it needs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from querying.base.forms import plain_forms
from querying.dataset.label_values import IGNORE
from querying.scoring.upsampling import STRIPE_FLOATS, bilinear, row_plan


def upsampled_cross_entropy(logits_BChw: Tensor, target_BHW: Tensor, align_corners: bool = False) -> Tensor:
    """Sum of -log p over the known pixels, a scalar in float32 or wider; targets are class indices or IGNORE."""
    logits_BChw = wide(logits_BChw)
    own = logits_BChw.device.type == "cpu" and not plain_forms()
    if own and logits_BChw.shape[2:] != target_BHW.shape[1:]:
        cost: Tensor = _Cost.apply(logits_BChw, target_BHW, align_corners)
        return cost
    logits_BCHW = full_size(logits_BChw, target_BHW.shape[1:], align_corners)
    return F.cross_entropy(logits_BCHW, target_BHW.long(), ignore_index=IGNORE, reduction="sum")


def wide(x: Tensor) -> Tensor:
    """In float32, or in what is wider."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def full_size(logits_BChw: Tensor, size: torch.Size, align_corners: bool = False) -> Tensor:
    """Bilinear upsampling to (H, W)."""
    if logits_BChw.shape[2:] == size:
        return logits_BChw
    return F.interpolate(logits_BChw, size, mode="bilinear", align_corners=align_corners)


class _Cost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, logits_BChw: Tensor, target_BHW: Tensor, align_corners: bool) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            found = [
                _of_image(z_Chw, target_HW, align_corners)
                for z_Chw, target_HW in zip(logits_BChw, target_BHW, strict=True)
            ]
        ctx.save_for_backward(torch.stack([grad_Chw for _, grad_Chw in found]))
        return torch.stack([cost for cost, _ in found]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None]:
        (grad_BChw,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad_BChw * grad, None, None


def _of_image(z_Chw: Tensor, target_HW: Tensor, align_corners: bool) -> tuple[Tensor, Tensor]:
    """The cost of an image, and its gradient in the logits."""
    (classes, h, w), (height, width) = z_Chw.shape, target_HW.shape
    columns_Ww = bilinear(w, width, align_corners).to(z_Chw.dtype)
    wide_hCW = z_Chw.transpose(0, 1) @ columns_Ww.T
    slope_hCW = wide_hCW.new_zeros(wide_hCW.shape)  # contiguous, so that its rows can be added to as a matrix
    step = max(1, STRIPE_FLOATS // (classes * width))
    costs, plan = [], row_plan((h,), height, step, align_corners)
    for ((part,), weight), target_SW in zip(plan, target_HW.split(step), strict=True):
        weight_SX = weight.to(z_Chw.dtype)
        unknown_S1W = (target_SW == IGNORE).unsqueeze(1)
        own_S1W = target_SW.unsqueeze(1).long().masked_fill_(unknown_S1W, 0)
        log_p_SCW = (weight_SX @ wide_hCW[part].flatten(1)).view(-1, classes, width).log_softmax(dim=1)
        costs.append(log_p_SCW.gather(1, own_S1W).masked_fill_(unknown_S1W, 0.0).sum())
        # d cost / d logit = p - 1 of the own class, p of the others
        slope_SCW = log_p_SCW.exp_()
        slope_SCW.scatter_add_(1, own_S1W, slope_SCW.new_full((), -1.0).expand(own_S1W.shape))
        slope_SCW.masked_fill_(unknown_S1W, 0.0)
        slope_hCW[part].view(-1, classes * width).addmm_(weight_SX.T, slope_SCW.flatten(1))
    return -torch.stack(costs).sum(), (slope_hCW @ columns_Ww).transpose(0, 1)
