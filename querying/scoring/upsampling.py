"""Logits of a head -> log-probabilities of every pixel: bilinear upsampling, the mean over the scales, log-softmax.

Shape suffixes: B = images, C = classes, H and W = pixels, h and w = the head's pixels, S = rows of a stripe,
X = the head's rows that it needs, of all scales.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.base.forms import plain_forms

STRIPE_FLOATS = 2**18
"""Numbers of a stripe's logits: 1 MB stays in a core's cache until its scores and labels are found."""


class Rows(NamedTuple):
    """How the rows of a stripe come from the head's."""

    needed: list[slice]
    """At each scale."""
    weight_SX: Tensor
    """Bilinear weights of these rows, over the number of scales."""


def log_probabilities(logits: Sequence[Tensor], height: int, width: int, align_corners: bool = False) -> Tensor:
    """Logits (B, C, h, w), one per scale and each of its own size -> float32 (B, C, H, W)."""
    if logits[0].device.type == "cpu" and not plain_forms():
        images = zip(*(z_BChw.split(1) for z_BChw in logits), strict=True)
        stripes_of = (
            [z_SCW.log_softmax(dim=1) for z_SCW in stripes(image, height, width, align_corners)] for image in images
        )
        return torch.stack([torch.cat(parts).transpose(0, 1) for parts in stripes_of])
    size = (height, width)
    full = [F.interpolate(z_BChw.float(), size, mode="bilinear", align_corners=align_corners) for z_BChw in logits]
    mean = full[0]
    for other in full[1:]:
        mean = mean + other
    return (mean / len(full)).log_softmax(dim=1)


def stripes(logits: Sequence[Tensor], height: int, width: int, align_corners: bool = False) -> Iterator[Tensor]:
    """The mean of one image's logits at full size on a CPU, in stripes (S, C, W) from top to bottom.

    What is computed from a stripe finds it in the cache.  The rows of all scales are added up by one matrix product.
    """
    wide = [
        F.interpolate(z_1Chw.float(), (z_1Chw.shape[2], width), mode="bilinear", align_corners=align_corners)[0]
        .transpose(0, 1)
        .contiguous()
        for z_1Chw in logits
    ]
    classes = wide[0].shape[1]
    step = max(1, STRIPE_FLOATS // (classes * width))
    for needed, weight_SX in row_plan(tuple(len(z_hCW) for z_hCW in wide), height, step, align_corners):
        rows = [z_hCW[part].flatten(1) for z_hCW, part in zip(wide, needed, strict=True)]
        yield (weight_SX @ (torch.cat(rows) if rows[1:] else rows[0])).view(-1, classes, width)


@lru_cache(maxsize=32)
def row_plan(rows_in: tuple[int, ...], rows_out: int, step: int, align_corners: bool = False) -> list[Rows]:
    """The rows of each scale that each stripe of `step` rows of full size needs, and with what weight."""
    plan = []
    for at_scales in zip(*(bilinear(rows, rows_out, align_corners).split(step) for rows in rows_in), strict=True):
        counts = [weight_Sh.any(dim=0).nonzero().flatten() for weight_Sh in at_scales]
        needed = [slice(int(row[0]), int(row[-1]) + 1) for row in counts]
        weight_SX = torch.cat([weight_Sh[:, part] for weight_Sh, part in zip(at_scales, needed, strict=True)], 1)
        plan.append(Rows(needed, weight_SX / len(rows_in)))
    return plan


@lru_cache(maxsize=32)
def bilinear(size_in: int, size_out: int, align_corners: bool = False) -> Tensor:
    """float32 weights (size_out, size_in) of bilinear upsampling along an axis, as `F.interpolate` has them."""
    with torch.inference_mode(False):
        eye = torch.eye(size_in, dtype=torch.float64).unsqueeze(0)
        return F.interpolate(eye, size=size_out, mode="linear", align_corners=align_corners)[0].T.float()
