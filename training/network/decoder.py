"""The decoder: above all its 3x3 convolution over upsampled ASPP features and low-level features, in a cheap form.

Convolution and bilinear upsampling are both linear, so the ASPP channels can be multiplied by the nine taps where they
are small, and upsampled and shifted afterwards by two dense matrices, one per axis.  Parameters and function are the
same; the arithmetic falls 2.5 to 4 times.

Shape suffixes: B = images, A = ASPP channels, L = low-level channels, O = output channels, h and w = rows and columns
at the encoder's stride, H and W = at stride 4, T = taps along one axis (3).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from querying.base.forms import plain_forms
from training.kernels.few_pixels import _End, _Running


@lru_cache(maxsize=128)
def upsample_shift_matrix(
    size_in: int, size_out: int, dtype: torch.dtype, device: torch.device, align_corners: bool = False
) -> Tensor:
    """(T, size_out, size_in): row y of tap t is row y + t - 1 of bilinear upsampling, zero where that lies outside."""
    with torch.inference_mode(False), torch.no_grad():  # cached here, used again where autograd saves it
        eye = torch.eye(size_in, dtype=torch.float64).unsqueeze(0)
        up = F.interpolate(eye, size=size_out, mode="linear", align_corners=align_corners)[0].T
        taps = torch.zeros(3, size_out, size_in, dtype=torch.float64)
        taps[0, 1:] = up[:-1]
        taps[1] = up
        taps[2, :-1] = up[1:]
        return taps.to(device, dtype)


def traced_shift_matrix(
    size_in: int, size_out: int, dtype: torch.dtype, device: torch.device, align_corners: bool = False
) -> Tensor:
    """The same in operations whose sizes may be symbols, for the export: bilinear weights are 1 - distance, or 0."""
    place = torch.arange(size_in, dtype=torch.float64, device=device)
    row = torch.arange(size_out, dtype=torch.float64, device=device)
    row = row * ((size_in - 1) / (size_out - 1)) if align_corners else (row + 0.5) * (size_in / size_out) - 0.5
    row = torch.minimum(row.clamp(min=0.0), place[-1:])
    up = (1 - (row[:, None] - place[None]).abs()).clamp(min=0.0)
    none = torch.zeros_like(up[:1])
    return torch.stack([torch.cat([none, up[:-1]]), up, torch.cat([up[1:], none])]).to(dtype)


class UpsampleConcatConv(nn.Conv2d):
    """conv3x3(concat[upsample(aspp), low]), zero padding, with the parameters of an ordinary nn.Conv2d(A + L, O, 3)."""

    def __init__(self, aspp_channels: int, low_channels: int, out_channels: int) -> None:
        super().__init__(aspp_channels + low_channels, out_channels, 3, padding=1, bias=False)
        self.aspp_channels = aspp_channels
        self.fused = True
        """False: the plain form, the reference of tests and benchmarks."""
        self.align_corners = False
        self.matrix: Callable[[int, int, torch.dtype, torch.device, bool], Tensor] = upsample_shift_matrix

    def forward(self, aspp_BAhw: Tensor, low_BLHW: Tensor) -> Tensor:  # type: ignore[override]
        """(B, A, h, w), (B, L, H, W) -> (B, O, H, W)."""
        if self.fused and not plain_forms():
            return self._fused(aspp_BAhw, low_BLHW)
        up_BAHW = F.interpolate(aspp_BAhw, size=low_BLHW.shape[-2:], mode="bilinear", align_corners=self.align_corners)
        return F.conv2d(torch.cat([up_BAHW, low_BLHW], dim=1), self.weight, self.bias, padding=1)

    def _fused(self, aspp_BAhw: Tensor, low_BLHW: Tensor) -> Tensor:
        batch, channels, h, w = aspp_BAhw.shape
        H, W = low_BLHW.shape[-2:]
        out = self.out_channels
        low_BOHW = F.conv2d(low_BLHW, self.weight[:, channels:], self.bias, padding=1)
        kind = (low_BOHW.dtype, low_BOHW.device, self.align_corners)  # with autocast what that gives
        rows_THh, columns_TWw = self.matrix(h, H, *kind), self.matrix(w, W, *kind)
        # All nine taps of every small pixel, laid out so that each axis is contracted without another copy.
        kernel_TATO = self.weight[:, :channels].permute(2, 1, 3, 0).reshape(3, channels, 3 * out)
        tap_BThwTO = aspp_BAhw.permute(0, 2, 3, 1).reshape(batch, 1, h * w, channels) @ kernel_TATO
        rows_HTh = rows_THh.transpose(0, 1).reshape(1, H, 3 * h)
        tall_BHwTO = torch.bmm(rows_HTh.expand(batch, -1, -1), tap_BThwTO.view(batch, 3 * h, w * 3 * out))
        columns_WwT = columns_TWw.permute(1, 2, 0).reshape(1, W, w * 3)
        # In place without gradients, for which autograd would copy the map once more.
        add = torch.baddbmm if torch.is_grad_enabled() else Tensor.baddbmm_
        sum_BHWO = add(
            low_BOHW.permute(0, 2, 3, 1).reshape(batch * H, W, out),
            columns_WwT.expand(batch * H, -1, -1),
            tall_BHwTO.view(batch * H, w * 3, out),
        )
        return sum_BHWO.view(batch, H, W, out).permute(0, 3, 1, 2)


class Classifier(nn.Module):
    """1x1 convolution of ASPP's map alone: the whole decoder of DeepLabv3 (Chen et al. 2017, section 3.3)."""

    def __init__(self, aspp_channels: int, out_channels: int) -> None:
        super().__init__()
        self.out = nn.Conv2d(aspp_channels, out_channels, 1)

    def forward(self, aspp_BAhw: Tensor, low_BLHW: Tensor) -> Tensor:
        """(B, A, h, w) -> (B, out_channels, h, w); the low-level map is not looked at."""
        return self.out(aspp_BAhw)  # type: ignore[no-any-return]


class Head(nn.Module):
    """3x3 convolution over both feature maps, BatchNorm, ReLU, 1x1 convolution."""

    def __init__(self, aspp_channels: int, low_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = UpsampleConcatConv(aspp_channels, low_channels, channels)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)
        self.out = nn.Conv2d(channels, out_channels, 1)

    def forward(self, aspp_BAhw: Tensor, low_BLHW: Tensor) -> Tensor:
        """(B, A, h, w), (B, L, H, W) -> (B, out_channels, H, W)."""
        return self.end(self.conv(aspp_BAhw, low_BLHW))

    def end(self, x_BCHW: Tensor) -> Tensor:
        """What follows the 3x3 convolution."""
        return self.out(self.act(self.bn(x_BCHW)))  # type: ignore[no-any-return]


class DeepHead(Head):
    """DEAL's class head, by its authors' code: a second 3x3 convolution, and dropout behind both."""

    def __init__(self, aspp_channels: int, low_channels: int, channels: int, out_channels: int) -> None:
        super().__init__(aspp_channels, low_channels, channels, out_channels)
        self.dropout = nn.Dropout(0.5)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.act2 = nn.ReLU(inplace=True)
        self.dropout2 = nn.Dropout(0.2)

    def end(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.conv2(self.dropout(self.act(self.bn(x_BCHW))))
        return self.out(self.dropout2(self.act2(self.bn2(x_BCHW))))  # type: ignore[no-any-return]


class RepresentationHead(Head):
    """A head for losses that see few pixels; the function is the other's."""

    def end(self, x_BCHW: Tensor) -> Tensor:
        norm = self.bn
        here = x_BCHW.device.type == "cpu" and torch.is_grad_enabled() and type(norm) is nn.BatchNorm2d
        if not (here and norm.training) or plain_forms():
            return super().end(x_BCHW)
        assert self.out.bias is not None
        assert norm.num_batches_tracked is not None
        assert norm.momentum is not None
        autocast = torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False):
            dtype = torch.get_autocast_dtype("cpu") if autocast else x_BCHW.dtype
            running = _Running(norm.running_mean, norm.running_var, norm.momentum, norm.eps)
            out = (self.out.weight.to(dtype), self.out.bias.to(dtype))
            y_BDHW: Tensor = _End.apply(x_BCHW.to(dtype), norm.weight, norm.bias, *out, running)
            norm.num_batches_tracked.add_(1)
            return y_BDHW
