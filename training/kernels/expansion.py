"""Expanding 1x1 convolution, BatchNorm and activation as one convolution in training on a CPU.

A 1x1 convolution is linear in a pixel's channels, so the mean and variance of what it gives follow from the mean and
the covariance of what it reads.  Where it expands (MobileNetV2: six times), what it reads is small: BatchNorm becomes
part of the weights before the large map exists, and the maps between the layers are neither written nor kept.  Same
function, same gradients.

Plain form: the three layers, one after the other.  Compared in tests/training/kernels/test_expansion.py; paid for by
the rows `step_fp32` and `step_bf16` of `make bench`.

Shape suffixes: B = images, C = channels in, O = channels out, H and W = rows and columns, N = pixels of a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import InvertedResidual
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from querying.base.forms import plain_forms
from training.kernels.activations import ACTIVATIONS
from training.kernels.precision import onednn_takes

WIDER = 2
"""Channels out for each one in, from which on this is the faster way,"""
PIXELS = 8
"""and pixels of a batch for each entry of the covariance."""


class ExpandingBlock(InvertedResidual):
    """timm's inverted residual block with its first three layers in one."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """As timm has it, without what MobileNetV2 lacks (see `join_expansions`)."""
        if isinstance(self.bn1, BatchNormAct2d):
            x_BOHW = expand(self.conv_pw, self.bn1, self.bn1.act, x_BCHW)
        else:  # folded, or over several workers
            x_BOHW = self.bn1(self.conv_pw(x_BCHW))
        y_BCHW = self.bn3(self.conv_pwl(self.bn2(self.conv_dw(x_BOHW))))
        return self.drop_path(y_BCHW) + x_BCHW if self.has_skip else y_BCHW  # type: ignore[no-any-return]


def join_expansions(encoder: nn.Module) -> None:
    """Let every block of an encoder that can do so compute its expansion in one; names and weights stay."""
    for block in encoder.modules():
        if type(block) is InvertedResidual and block.conv_s2d is None:
            plain = all(isinstance(part, nn.Identity) for part in (block.aa, block.se, block.bn1.drop))
            if plain and joins(block.conv_pw, block.bn1, block.bn1.act):
                block.__class__ = ExpandingBlock  # a new block would draw weights, and have other names


def joins(conv: nn.Module, norm: nn.Module, act: nn.Module) -> bool:
    """Whether `expand` can take the three, and is the faster way."""
    if type(conv) is not nn.Conv2d or type(norm) not in (nn.BatchNorm2d, BatchNormAct2d):
        return False
    assert isinstance(norm, nn.BatchNorm2d)
    pointwise = (conv.kernel_size, conv.stride, conv.padding, conv.groups) == ((1, 1), (1, 1), (0, 0), 1)
    known = norm.affine and norm.track_running_stats and norm.momentum is not None and type(act) in ACTIVATIONS
    return pointwise and conv.bias is None and known and conv.out_channels >= WIDER * conv.in_channels


def expand(conv: nn.Conv2d, norm: nn.BatchNorm2d, act: nn.Module, x_BCHW: Tensor) -> Tensor:
    """act(norm(conv(x))): (B, C, H, W) -> (B, O, H, W).

    In one where it is a training step on a CPU; else, and where `norm` has become another kind, layer by layer.
    """
    pixels = x_BCHW.numel() // x_BCHW.shape[1]
    here = x_BCHW.device.type == "cpu" and torch.is_grad_enabled() and norm.training and not plain_forms()
    if not (here and pixels >= PIXELS * conv.in_channels**2 and joins(conv, norm, act)):
        x_BOHW = norm(conv(x_BCHW))
        return x_BOHW if isinstance(norm, BatchNormAct2d) else act(x_BOHW)  # type: ignore[no-any-return]
    autocast = torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", enabled=False):
        x_BCHW = x_BCHW.to(torch.get_autocast_dtype("cpu")) if autocast else x_BCHW
        name, limits = ACTIVATIONS[type(act)]
        y_BOHW: Tensor
        y_BOHW, mean_O, var_O = _Expansion.apply(
            x_BCHW, conv.weight, norm.weight, norm.bias, norm.eps, _Limits(name, *limits)
        )
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    with torch.no_grad():
        norm.running_mean.lerp_(mean_O, norm.momentum)
        norm.running_var.lerp_(var_O * (pixels / (pixels - 1)), norm.momentum)
        norm.num_batches_tracked.add_(1)
    return y_BOHW


class _Limits(NamedTuple):
    """An activation that cuts: as oneDNN calls it, and where."""

    name: str
    low: float = 0.0
    high: float = float("inf")

    def convolve(self, x_BCHW: Tensor, weight_OC11: Tensor, bias_O: Tensor) -> Tensor:
        if not onednn_takes(x_BCHW.dtype):
            sum_BOHW = F.conv2d(x_BCHW, weight_OC11) + bias_O[:, None, None]  # of bf16 in float32, as oneDNN adds it
            return F.hardtanh(sum_BOHW.to(x_BCHW.dtype), self.low, self.high)
        limits = [self.low, self.high] if self.name == "hardtanh" else []
        cut: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x_BCHW, weight_OC11, bias_O, (0, 0), (1, 1), (1, 1), 1, self.name, limits, ""
        )
        return cut


class _Expansion(torch.autograd.Function):
    """(activation of BatchNorm of the 1x1 convolution, its mean and variance of each channel before BatchNorm).

    What is as small as the weights is computed in float64, the covariance of float32 too: a variance is a difference.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, x_BCHW: Tensor, weight_OC11: Tensor, scale_O: Tensor, shift_O: Tensor, eps: float,
        limits: _Limits,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        batch, channels = x_BCHW.shape[:2]
        exact = torch.float32 if x_BCHW.dtype == torch.bfloat16 else torch.float64
        x_BNC = x_BCHW.permute(0, 2, 3, 1).reshape(batch, -1, channels).to(exact)
        mean_C = x_BNC.mean(dim=(0, 1))
        x_BNC = x_BNC - mean_C
        covariance_CC = torch.bmm(x_BNC.transpose(1, 2), x_BNC).double().sum(0) / (x_BNC.numel() // channels)
        weight_OC = weight_OC11.flatten(1).double()
        mean_O, var_O = weight_OC @ mean_C.double(), ((weight_OC @ covariance_CC) * weight_OC).sum(1)
        inverse_O = (var_O + eps).rsqrt()
        joined_OC = (weight_OC * (scale_O * inverse_O)[:, None]).to(x_BCHW.dtype)
        bias_O = (shift_O - joined_OC.double() @ mean_C.double()).to(torch.promote_types(x_BCHW.dtype, torch.float32))
        y_BOHW = limits.convolve(x_BCHW, joined_OC[..., None, None], bias_O)
        x_BCHW = x_BNC.to(x_BCHW.dtype).view(batch, *x_BCHW.shape[2:], channels).permute(0, 3, 1, 2)
        if not torch.isfinite(var_O).all():
            y_BOHW.fill_(torch.nan)  # oneDNN's activations turn NaN into numbers, which hides a training that diverges
        ctx.save_for_backward(x_BCHW, y_BOHW, weight_OC11, scale_O, inverse_O, covariance_CC)
        ctx.limits = limits  # type: ignore[attr-defined]
        mean_O, var_O = mean_O.to(scale_O.dtype), var_O.to(scale_O.dtype)
        ctx.mark_non_differentiable(mean_O, var_O)
        return y_BOHW, mean_O, var_O

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad_BOHW: Tensor, _mean: Tensor, _var: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, None, None]:
        """With z = BatchNorm's output, u its normalised input, x centred and n pixels, BatchNorm's gradient is

            scale / sigma * (dz - sum(dz) / n - u sum(dz u) / n)

        and u = W x / sigma: all sums over pixels follow from sum(dz) and sum(dz x), and no map of u is needed.
        """
        x_BCHW, y_BOHW, weight_OC11, scale_O, inverse_O, covariance_CC = ctx.saved_tensors  # type: ignore[attr-defined]
        limits: _Limits = ctx.limits  # type: ignore[attr-defined]
        dtype, pixels = x_BCHW.dtype, x_BCHW.numel() // x_BCHW.shape[1]
        grad_BOHW = grad_BOHW.contiguous(memory_format=torch.channels_last)
        grad_BOHW = torch.ops.aten.hardtanh_backward(grad_BOHW, y_BOHW, limits.low, limits.high)
        rows_NO = grad_BOHW.permute(0, 2, 3, 1).flatten(0, 2)
        sum_O = rows_NO.T.mv(rows_NO.new_ones(pixels)).double()  # ten times as fast as `sum` in bf16
        product_OC = torch.ops.aten.convolution_backward(
            grad_BOHW, x_BCHW, weight_OC11.to(dtype), None, (1, 1), (0, 0), (1, 1), False, [0, 0], 1,
            [False, True, False],
        )[1].flatten(1).double()  # fmt: skip
        weight_OC, gain_O = weight_OC11.flatten(1).double(), scale_O * inverse_O
        along_O = (weight_OC * product_OC).sum(1) * inverse_O
        grad_weight_OC = gain_O[:, None] * (product_OC - (along_O * inverse_O)[:, None] * (weight_OC @ covariance_CC))
        grad_x = None
        if ctx.needs_input_grad[0]:  # type: ignore[attr-defined]
            back_CO = (gain_O[:, None] * weight_OC).T
            along_CC = (weight_OC * (gain_O * inverse_O * along_O / pixels)[:, None]).T @ weight_OC
            grad_x = F.conv2d(x_BCHW, -along_CC.to(dtype)[..., None, None], -(back_CO @ sum_O / pixels).to(dtype))
            grad_x += F.conv2d(grad_BOHW, back_CO.to(dtype)[..., None, None])
        return (
            grad_x, grad_weight_OC.view_as(weight_OC11).to(weight_OC11.dtype), along_O.to(scale_O.dtype),
            sum_O.to(scale_O.dtype), None, None,
        )  # fmt: skip
