"""Strong augmentation of a batch where the network computes: `augment.with_look` in torch, equal but for rounding.

On a GPU the loader's threads then only cut and scale; the colours, most of the cost, are a few kernels per image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from training.batches.augment_cpu import LUMA, blur_weights
from training.batches.batch import Batch
from training.batches.strong_view import Look


def with_looks(batch: Batch) -> Batch:
    """The batch as the CPU would have augmented it: `looks` applied to `image_u`, which stays weak where a method wants
    views of it."""
    if not batch.looks.numel():
        return batch
    views = [apply_looks(batch.image_u, looks_BN) for looks_BN in batch.looks]
    bare = batch._replace(looks=batch.looks[:0])
    return bare._replace(strong_u=torch.stack(views)) if batch.seen_u.numel() else bare._replace(image_u=views[0])


def apply_looks(image_BCHW: Tensor, looks_BN: Tensor) -> Tensor:
    """uint8 images (B, 3, H, W) and a row of `Look` for each, on the CPU, so that no value is waited for."""
    looks = [Look.of_row(row) for row in looks_BN.tolist()]
    out_BCHW = image_BCHW.clone(memory_format=torch.contiguous_format)
    blurred = [number for number, look in enumerate(looks) if look.sigma]
    if blurred:
        found = gaussian_blur(torch.stack([image_BCHW[i] for i in blurred]), [looks[i].sigma for i in blurred])
        for number, image_CHW in zip(blurred, found, strict=True):
            out_BCHW[number] = image_CHW
    for image_CHW, look in zip(out_BCHW, looks, strict=True):
        if look.coloured:
            image_CHW.copy_(colour_jitter(image_CHW, look))
        if any(look.hole):
            image_CHW[(slice(None), *look.box)] = 0
    return out_BCHW


def gaussian_blur(image_BCHW: Tensor, sigmas: list[float]) -> Tensor:
    """As `augment.gaussian_blur`, bit for bit: every product and sum is a whole number below 2^24."""
    weights = [blur_weights(sigma) for sigma in sigmas]
    radius = max(len(weight) for weight in weights) - 1
    taps_BT = torch.zeros(len(weights), 2 * radius + 1)
    for taps_T, weight in zip(taps_BT, weights, strict=True):
        half = torch.from_numpy(weight.astype("float32"))
        taps_T[radius : radius + len(half)] = half
        taps_T[radius - len(half) + 1 : radius + 1] = half.flip(0)
    batch, channels, height, width = image_BCHW.shape
    taps = taps_BT.to(image_BCHW.device, non_blocking=True).repeat_interleave(channels, 0)
    x = image_BCHW.float().reshape(1, batch * channels, height, width)
    axes = (
        ((-1, 1, 2 * radius + 1, 1), (0, 0, radius, radius)),
        ((-1, 1, 1, 2 * radius + 1), (radius, radius, 0, 0)),
    )
    with torch.autocast(x.device.type, enabled=False):  # bfloat16 would make 256 of a white pixel, which is black
        for shape, margin in axes:
            x = F.conv2d(F.pad(x, margin, mode="reflect"), taps.reshape(shape), groups=batch * channels)
            x = ((x + 128) / 256).floor()
    return x.reshape(image_BCHW.shape).to(torch.uint8)


def colour_jitter(image_CHW: Tensor, look: Look) -> Tensor:
    """As `augment.colour_jitter`; rounding may differ in the last level."""
    x_CHW = image_CHW.float()
    for operation in look.order:
        if operation == 0:
            x_CHW = x_CHW * look.brightness
        elif operation == 1:
            x_CHW = x_CHW * look.contrast + _luma(x_CHW).mean() * (1 - look.contrast)
        elif operation == 2:
            x_CHW = x_CHW * look.saturation + _luma(x_CHW) * (1 - look.saturation)
        else:
            x_CHW = _turn_hue(x_CHW, look.hue)
        x_CHW = x_CHW.clamp(0, 255)
    if look.grey:
        x_CHW = _luma(x_CHW).expand_as(x_CHW)
    return (x_CHW + 0.5).to(torch.uint8)


def _luma(x_CHW: Tensor) -> Tensor:
    red, green, blue = (float(weight) for weight in LUMA)
    return x_CHW[0] * red + x_CHW[1] * green + x_CHW[2] * blue


def _turn_hue(x_CHW: Tensor, turn: float) -> Tensor:
    """Rotate the hue by `turn` of a full circle, keeping value and chroma of the HSV hexagon."""
    red, green, blue = x_CHW
    value, chroma = x_CHW.amax(0), x_CHW.amax(0) - x_CHW.amin(0)
    safe = chroma.clamp_min(1e-6)
    by_blue = torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4)
    sector = torch.where(value == red, (green - blue) / safe, by_blue) + 6 * turn
    phase_C11 = _phases(x_CHW.device)
    k_CHW = ((sector + phase_C11) / 6).remainder(1) * 6
    return value - torch.minimum(k_CHW, 4 - k_CHW).clamp(0, 1) * chroma


def _phases(device: torch.device) -> Tensor:
    return 5 - 2 * torch.arange(3, device=device).view(3, 1, 1)
