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
    in bf16 that of its weight is wrong, sometimes NaN; the gradient in the input of a strided one takes 20 times as
    long in bf16 as in float32.
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
        if x_BCHW.device.type != "cpu" or not torch.is_grad_enabled() or not (autocast or self.keeps_size):
            return super().forward(x_BCHW)
        with torch.autocast("cpu", enabled=False):
            dtype = torch.get_autocast_dtype("cpu") if autocast else x_BCHW.dtype
            x_BCHW, weight_C1KK = x_BCHW.to(dtype), self.weight.to(dtype)
            if self.keeps_size:
                y_BCHW: Tensor = _Dilated.apply(x_BCHW, weight_C1KK, self.dilation[0])
            else:
                y_BCHW = _Strided.apply(x_BCHW, weight_C1KK, self.stride, self.padding, self.dilation)
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


class _Strided(torch.autograd.Function):
    """A depthwise convolution in half precision whose gradient in the input is computed in float32."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, x_BCHW: Tensor, weight_C1KK: Tensor,
        stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(x_BCHW, weight_C1KK)
        ctx.place = (stride, padding, dilation)  # type: ignore[attr-defined]
        return F.conv2d(x_BCHW, weight_C1KK, None, stride, padding, dilation, len(weight_C1KK))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x_BCHW, weight_C1KK = ctx.saved_tensors  # type: ignore[attr-defined]
        stride, padding, dilation = ctx.place  # type: ignore[attr-defined]

        def gradients(grad: Tensor, x: Tensor, weight: Tensor, *, of: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
            found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
                grad, x, weight, None, stride, padding, dilation, False, [0, 0], len(weight), of
            )
            return found

        grad_x, grad_weight = None, None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            shape_BCHW = torch.empty_like(x_BCHW, dtype=torch.float32)  # its values have no part in this gradient
            grad_x, _, _ = gradients(grad_BCHW.float(), shape_BCHW, weight_C1KK.float(), of=[True, False, False])
            grad_x = grad_x.to(x_BCHW.dtype)
        if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            _, grad_weight, _ = gradients(grad_BCHW, x_BCHW, weight_C1KK, of=[False, True, False])
        return grad_x, grad_weight, None, None, None


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
