"""Dilated and strided depthwise convolutions on a CPU, where PyTorch's own gradients are slow or wrong.

Plain form: `nn.Conv2d`.  Compared in tests/training/kernels/test_depthwise.py; paid for by the rows `step_fp32` and
`step_bf16` of `make bench`.

Shape suffixes: B = images, C = channels, H and W = rows and columns, K = taps along an axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from querying.base.forms import plain_forms


def computes(conv: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether `SparseDepthwiseConv` is the same function, and another gradient than PyTorch's: a plain layer with a
    kernel of its own for every channel, square and odd, zeros around the image, stride or dilation."""
    if type(conv) is not nn.Conv2d or not conv.groups == conv.in_channels == conv.out_channels > 1:
        return False
    rows, columns = conv.kernel_size
    plain = conv.padding_mode == "zeros" and isinstance(conv.padding, tuple) and rows == columns and rows % 2 == 1
    return plain and max(*conv.stride, *conv.dilation) > 1


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
        assert conv.groups == conv.in_channels == conv.out_channels, "each channel has its own kernel"
        assert isinstance(conv.padding, tuple), "a margin is known before the image"
        self.place = _Place(self.stride, conv.padding, self.dilation)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled("cpu")
        own = (autocast or max(self.dilation) > 1) and not plain_forms()
        if x_BCHW.device.type != "cpu" or not torch.is_grad_enabled() or not own:
            return super().forward(x_BCHW)
        with torch.autocast("cpu", enabled=False):
            dtype = torch.get_autocast_dtype("cpu") if autocast else x_BCHW.dtype
            y_BCHW: Tensor = _Convolution.apply(x_BCHW.to(dtype), self.weight.to(dtype), self.place)
            return y_BCHW if self.bias is None else y_BCHW + self.bias.to(dtype).view(-1, 1, 1)


class _Place(NamedTuple):
    """Along rows and columns."""

    stride: tuple[int, ...]
    margin: tuple[int, ...]
    dilation: tuple[int, ...]


class _Convolution(torch.autograd.Function):
    """The gradient in the input is the convolution of the output's, spread to the input's pixels, with the mirrored
    kernel."""

    @staticmethod
    def forward(ctx: FunctionCtx, x_BCHW: Tensor, weight_C1KK: Tensor, place: _Place) -> Tensor:
        ctx.save_for_backward(x_BCHW, weight_C1KK)
        ctx.place = place  # type: ignore[attr-defined]
        return F.conv2d(x_BCHW, weight_C1KK, None, *place, groups=len(weight_C1KK))

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_BCHW, weight_C1KK = ctx.saved_tensors  # type: ignore[attr-defined]
        place: _Place = ctx.place  # type: ignore[attr-defined]
        grad_x, grad_weight = None, None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            reach = [step * (taps - 1) for step, taps in zip(place.dilation, weight_C1KK.shape[2:], strict=True)]
            sides = [side + 2 * m - r for side, m, r in zip(x_BCHW.shape[2:], place.margin, reach, strict=True)]
            margin = [r - m for r, m in zip(reach, place.margin, strict=True)]
            grad_x = F.conv2d(
                _spread(grad_BCHW, place.stride, sides), weight_C1KK.flip(2, 3), None, 1, margin, place.dilation,
                len(weight_C1KK),
            )  # fmt: skip
        if ctx.needs_input_grad[1]:  # type: ignore[attr-defined]
            grad_weight = _weight_gradient(grad_BCHW, x_BCHW, weight_C1KK, place)
        return grad_x, grad_weight, None


def _weight_gradient(grad_BCHW: Tensor, x_BCHW: Tensor, weight_C1KK: Tensor, place: _Place) -> Tensor:
    """PyTorch's own; of a dilated convolution that of a dense one on the grids of every d-th pixel, which do not see
    each other."""
    dilation, taps = place.dilation[0], weight_C1KK.shape[2]
    margin = taps // 2 * dilation
    keeps_size = place == ((1, 1), (margin, margin), (dilation, dilation)) and x_BCHW.shape == grad_BCHW.shape
    if keeps_size and dilation > 1:
        grad_BCHW, x_BCHW = _grids(grad_BCHW, dilation), _grids(x_BCHW, dilation)
        place = _Place((1, 1), (taps // 2, taps // 2), (1, 1))
    elif max(place.dilation) > 1 or x_BCHW.shape[3] < weight_C1KK.shape[3]:  # wrong in bf16, narrow ones if strided
        dtype = torch.promote_types(x_BCHW.dtype, torch.float32)
        grad_BCHW, x_BCHW = grad_BCHW.to(dtype), x_BCHW.to(dtype)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        grad_BCHW, x_BCHW, weight_C1KK.to(x_BCHW.dtype), None, *place, False, [0, 0], len(weight_C1KK),
        [False, True, False],
    )  # fmt: skip
    return found[1].to(weight_C1KK.dtype)


def _spread(x_BChw: Tensor, stride: Sequence[int], sides: Sequence[int]) -> Tensor:
    """(B, C, *sides), zeros between the pixels of a map that is `stride` times as small."""
    if max(stride) == 1:
        return x_BChw
    spread_BCHW = x_BChw.new_zeros(len(x_BChw), *sides, x_BChw.shape[1]).permute(0, 3, 1, 2)
    spread_BCHW[:, :, :: stride[0], :: stride[1]] = x_BChw
    return spread_BCHW


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
