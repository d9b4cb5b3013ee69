"""The representation head's end, whose gradient on a CPU starts from the pixels that the loss has seen.

ReCo's loss sees its queries alone, some hundred pixels of each class of the ten thousands of a step.  In front of
BatchNorm every pixel has a gradient, but all others' is linear in BatchNorm's input, with one slope for each channel.

Plain form: BatchNorm, ReLU and the 1x1 convolution one after the other (`training.network.decoder.Head.end`).  Compared
in tests/training/kernels/test_few_pixels.py; paid for by the rows `step_fp32` and `step_bf16` of `make bench`.

Shape suffixes: B = images, C = channels in, D = channels out, H and W = rows and columns, N = pixels of a batch, M =
those of them with a gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

FEW = 4
"""Pixels for each one with a gradient, from which on it pays to leave the others out."""


class _Running(NamedTuple):
    mean_C: Tensor | None
    var_C: Tensor | None
    momentum: float
    eps: float


class _End(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, x_BCHW: Tensor, scale_C: Tensor, shift_C: Tensor, weight_DC11: Tensor, bias_D: Tensor,
        running: _Running,
    ) -> Tensor:  # fmt: skip
        y_BCHW, mean_C, inverse_C = torch.native_batch_norm(
            x_BCHW, scale_C, shift_C, running.mean_C, running.var_C, True, running.momentum, running.eps
        )
        y_BCHW.relu_()
        ctx.save_for_backward(x_BCHW, y_BCHW, scale_C, mean_C, inverse_C, weight_DC11)
        ctx.eps = running.eps  # type: ignore[attr-defined]
        return F.conv2d(y_BCHW, weight_DC11, bias_D)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, None]:
        """With z = BatchNorm's output, u its normalised input and n pixels, BatchNorm's gradient is

            scale / sigma * (dz - sum(dz) / n - u sum(dz u) / n)

        and dz is zero but for M pixels.
        """
        x_BCHW, y_BCHW, scale_C, mean_C, inverse_C, weight_DC11 = ctx.saved_tensors  # type: ignore[attr-defined]
        grad_ND, y_NC, x_NC = (maps.permute(0, 2, 3, 1).flatten(0, 2) for maps in (grad_BDHW, y_BCHW, x_BCHW))
        seen_M = _any_bit(grad_ND).nonzero().flatten()
        if len(seen_M) > len(grad_ND) // FEW:
            eps: float = ctx.eps  # type: ignore[attr-defined]
            return *_of_all(grad_BDHW, x_BCHW, y_BCHW, scale_C, mean_C, inverse_C, weight_DC11, eps), None
        pixels, exact = len(x_NC), scale_C.dtype
        grad_MD, y_MC = grad_ND[seen_M], y_NC[seen_M]
        u_MC = (x_NC[seen_M].to(exact) - mean_C) * inverse_C
        slope_MC = (grad_MD @ weight_DC11.flatten(1)).to(exact) * (y_MC > 0)
        sum_C, along_C = slope_MC.sum(0), (slope_MC * u_MC).sum(0)
        gain_C = scale_C * inverse_C
        slant_C = -gain_C * inverse_C * along_C / pixels
        level_C = -gain_C * sum_C / pixels - slant_C * mean_C
        # BatchNorm's kernel for evaluation is the fast way to multiply and add numbers of a channel.
        same_C = torch.ones_like(mean_C)
        grad_x = F.batch_norm(x_BCHW, torch.zeros_like(mean_C), same_C, slant_C, level_C, training=False, eps=0.0)
        grad_x_NC = grad_x.permute(0, 2, 3, 1).flatten(0, 2)
        seen_MC = gain_C * (slope_MC - sum_C / pixels - u_MC * (along_C / pixels))
        grad_x_NC.index_copy_(0, seen_M, seen_MC.to(grad_x.dtype))
        grad_x = grad_x_NC.view(len(x_BCHW), *x_BCHW.shape[2:], -1).permute(0, 3, 1, 2)
        return grad_x, along_C, sum_C, (grad_MD.T @ y_MC).view_as(weight_DC11), grad_MD.sum(0), None


def _any_bit(x_ND: Tensor) -> Tensor:
    """(N,): whether a row holds anything but zeros; as bytes ten times as fast as a norm of bf16."""
    return x_ND.contiguous().view(torch.uint8).amax(dim=1) != 0


def _of_all(
    grad_BDHW: Tensor, x_BCHW: Tensor, y_BCHW: Tensor, scale_C: Tensor, mean_C: Tensor, inverse_C: Tensor,
    weight_DC11: Tensor, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """PyTorch's own gradients."""
    grad_y, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        grad_BDHW, y_BCHW, weight_DC11, [len(weight_DC11)], (1, 1), (0, 0), (1, 1), False, [0, 0], 1,
        [True, True, True],
    )  # fmt: skip
    grad_z = torch.ops.aten.threshold_backward(grad_y, y_BCHW, 0)
    grad_x, grad_scale, grad_shift = torch.ops.aten.native_batch_norm_backward(
        grad_z, x_BCHW, scale_C, None, None, mean_C, inverse_C, True, eps, [True, True, True]
    )
    return grad_x, grad_scale, grad_shift, grad_weight, grad_bias
