"""Dilated and strided depthwise convolutions on a CPU, where PyTorch's own gradients are slow or wrong.

Shape suffixes: B = images, C = channels, H and W = rows and columns, K = taps along an axis.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable


class SparseDepthwiseConv(nn.Conv2d):
    """A dilated or strided depthwise convolution, with its own gradient on a CPU.

    In torch 2.15 (channels last) the gradient of a dilated one takes 2 to 10 times as long as that of a dense one, and
    in bf16 that of its weight is wrong, sometimes NaN; that of a strided one takes up to eight times as long in bf16.
    So what is dilated takes another way to its gradient, and what is strided stays in float32 under autocast.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            conv.bias is not None,
        )
        self.weight, self.bias = conv.weight, conv.bias
        kernel, dilation = self.kernel_size[0], self.dilation[0]
        assert conv.groups == conv.in_channels == conv.out_channels, "each channel has its own kernel"
        self.keeps_size = (
            self.stride == (1, 1)
            and self.kernel_size == (kernel, kernel)
            and kernel % 2 == 1
            and self.dilation == (dilation, dilation)
            and self.padding == (kernel // 2 * dilation, kernel // 2 * dilation)
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled("cpu")
        ours = autocast or (self.keeps_size and torch.is_grad_enabled())
        if x_BCHW.device.type != "cpu" or not ours:
            return super().forward(x_BCHW)
        with torch.autocast("cpu", enabled=False):
            if not self.keeps_size:
                return super().forward(x_BCHW.float())
            dtype = torch.get_autocast_dtype("cpu") if autocast else x_BCHW.dtype
            y_BCHW: Tensor = _Dilated.apply(x_BCHW.to(dtype), self.weight.to(dtype), self.dilation[0])
            return y_BCHW if self.bias is None else y_BCHW + self.bias.to(dtype).view(-1, 1, 1)


class _Dilated(torch.autograd.Function):
    """A depthwise convolution with dilation d that keeps the size.  The gradient in its input is the convolution of the
    output's with the mirrored kernel; that in its weight is the one of a dense convolution on the d * d grids of every
    d-th pixel, which do not see each other."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_BCHW: Tensor, weight_C1KK: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_C1KK)
        ctx.dilation = dilation  # type: ignore[attr-defined]
        return _convolved(x_BCHW, weight_C1KK, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_BCHW, weight_C1KK = ctx.saved_tensors  # type: ignore[attr-defined]
        dilation: int = ctx.dilation  # type: ignore[attr-defined]
        grad_x, grad_weight = None, None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            grad_x = _convolved(grad_BCHW, weight_C1KK.flip(2, 3), dilation)
        if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            margin = [weight_C1KK.shape[2] // 2] * 2
            _, grad_weight, _ = torch.ops.aten.convolution_backward(
                _grids(grad_BCHW, dilation), _grids(x_BCHW, dilation), weight_C1KK, None,
                [1, 1], margin, [1, 1], False, [0, 0], len(weight_C1KK), [False, True, False],
            )  # fmt: skip
        return grad_x, grad_weight, None


def _convolved(x_BCHW: Tensor, weight_C1KK: Tensor, dilation: int) -> Tensor:
    margin = weight_C1KK.shape[2] // 2 * dilation
    return F.conv2d(x_BCHW, weight_C1KK, padding=margin, dilation=dilation, groups=len(weight_C1KK))


def _grids(x_BCHW: Tensor, step: int) -> Tensor:
    """Every `step`-th pixel as an image of its own: (step * step * B, C, H', W'), zeros where a grid is shorter."""
    batch, channels, height, width = x_BCHW.shape
    rows, columns = -(-height // step), -(-width // step)
    grids = x_BCHW.new_zeros(step, step, batch, rows, columns, channels)
    x_BHWC = x_BCHW.permute(0, 2, 3, 1)
    for y in range(step):
        for x in range(step):
            grid = x_BHWC[:, y::step, x::step]
            grids[y, x, :, : grid.shape[1], : grid.shape[2]] = grid
    return grids.view(-1, rows, columns, channels).permute(0, 3, 1, 2)
