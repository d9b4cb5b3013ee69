"""CutMix (Yun et al. 2019) within a batch: boxes of each image are replaced by those of the image before it.

Shape suffixes: B = images, H and W = pixels.
"""

import torch
from torch import Tensor


def boxes(
    shape_BHW: tuple[int, int, int] | torch.Size,
    *,
    count: int = 1,
    area: tuple[float, float],
    probability: float = 1.0,
    aspect: float | None = None,
    generator: torch.Generator,
) -> Tensor:
    """Masks (B, H, W), True inside `count` boxes, with `probability` for each image, else False everywhere.

    Together an image's boxes have a share of its pixels that is drawn from `area` (less where they overlap).  Height
    over width is log-uniform: within what fits into the image (French et al. 2020), or in 1 / `aspect` ... `aspect`
    as far as it fits.  Boxes lie inside the image.
    """
    batch, height, width = shape_BHW
    device = generator.device

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, device=device, dtype=torch.float64)

    low, high = area
    share_B1 = low + (high - low) * uniform(batch, 1)
    part_BN = (share_B1 / count).expand(batch, count)
    if aspect is None:  # the height's share is between the box's own share and 1
        tall_BN = part_BN ** uniform(batch, count)
    else:
        ratio_BN = aspect ** (2 * uniform(batch, count) - 1)
        tall_BN = (part_BN * ratio_BN * width / height).sqrt()
    tall_BN = tall_BN.maximum(part_BN).clamp_max(1)
    sides = [(tall_BN * height).round(), (part_BN / tall_BN * width).round()]
    use_B = uniform(batch) < probability
    inside = use_B.view(batch, 1, 1, 1)
    for axis, (extent, side_BN) in enumerate(zip((height, width), sides, strict=True)):
        start_BN = (uniform(batch, count) * (extent - side_BN + 1)).floor()
        place = torch.arange(extent, device=device)
        covered = (place >= start_BN.unsqueeze(2)) & (place < (start_BN + side_BN).unsqueeze(2))
        inside = inside & (covered.unsqueeze(3) if axis == 0 else covered.unsqueeze(2))
    return inside.any(dim=1)


def mix(own: Tensor, mask_BHW: Tensor) -> Tensor:
    """The image before it (the last one, for the first) where the mask is True; images, labels or masks (B, ...)."""
    assert len(own) >= 2, "CutMix needs another image in the batch"
    mask = mask_BHW.to(own.device)
    return torch.where(mask if own.dim() == 3 else mask.unsqueeze(1), own.roll(1, dims=0), own)
