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

STRIPE_FLOATS = 2**18
"""Of a stripe's logits: 1 MB stays in a core's cache until its scores and labels are found."""


class Rows(NamedTuple):
    """How some rows of full size come from the head's."""

    first: int
    last: int
    weight_Sh: Tensor
    """Bilinear weights of the head's rows first to last, this one not included."""


def log_probabilities(logits: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Logits (B, C, h, w), one per scale and each of its own size -> float32 (B, C, H, W)."""
    if logits[0].device.type == "cpu":
        images = zip(*(z_BChw.split(1) for z_BChw in logits), strict=True)
        return torch.cat([torch.cat(list(stripes(image, height, width)), dim=2) for image in images])
    size = (height, width)
    full = [F.interpolate(z_BChw.float(), size, mode="bilinear", align_corners=False) for z_BChw in logits]
    mean = full[0]
    for other in full[1:]:
        mean = mean + other
    return (mean / len(full)).log_softmax(dim=1)


def stripes(logits: Sequence[Tensor], height: int, width: int) -> Iterator[Tensor]:
    """The same of one image on a CPU, in stripes (1, C, S, W) from top to bottom.

    What is computed from a stripe finds it in the cache.  The rows of all scales are added up by one matrix product.
    """
    wide = [
        F.interpolate(z_1Chw.float(), (z_1Chw.shape[2], width), mode="bilinear", align_corners=False)[0]
        for z_1Chw in logits
    ]
    step = max(1, STRIPE_FLOATS // (wide[0].shape[0] * width))
    plans = [row_plan(z_ChW.shape[1], height, step) for z_ChW in wide]
    for at_scales in zip(*plans, strict=True):
        rows_CXW = torch.cat([z_ChW[:, rows.first : rows.last] for z_ChW, rows in zip(wide, at_scales, strict=True)], 1)
        weight_SX = torch.cat([rows.weight_Sh for rows in at_scales], 1) / len(wide)
        yield (weight_SX @ rows_CXW).log_softmax(dim=0).unsqueeze(0)


@lru_cache(maxsize=32)
def row_plan(rows_in: int, rows_out: int, step: int) -> list[Rows]:
    """For each stripe of `step` rows of full size, the rows that it needs and with what weight."""
    plan = []
    for weight_Sh in bilinear(rows_in, rows_out).split(step):
        needed = weight_Sh.any(dim=0).nonzero().flatten()
        first, last = int(needed[0]), int(needed[-1]) + 1
        plan.append(Rows(first, last, weight_Sh[:, first:last].contiguous()))
    return plan


@lru_cache(maxsize=32)
def bilinear(size_in: int, size_out: int) -> Tensor:
    """float32 weights (size_out, size_in) of bilinear upsampling along an axis, as `F.interpolate` has them."""
    with torch.inference_mode(False):
        eye = torch.eye(size_in, dtype=torch.float64).unsqueeze(0)
        return F.interpolate(eye, size=size_out, mode="linear", align_corners=False)[0].T.float()
