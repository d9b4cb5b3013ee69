"""CutMix (Yun et al. 2019) within a batch: boxes of each image are replaced by those of another image.

Shape suffixes: B = images, L = places along an axis, H and W = pixels.
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


def mix(own: Tensor, mask_BHW: Tensor, donor_B: Tensor | None = None) -> Tensor:
    """Another image where the mask is True; images, labels or masks (B, ...).

    It is the image number `donor_B`, or else the one before it (the last one, for the first).
    """
    assert len(own) >= 2, "CutMix needs another image in the batch"
    mask = mask_BHW.to(own.device)
    other = own.roll(1, dims=0) if donor_B is None else own[donor_B]
    return torch.where(mask if own.dim() == 3 else mask.unsqueeze(1), other, own)


def component(mask_BHW: Tensor, *, generator: torch.Generator, pieces: int = 16) -> Tensor:
    """The connected part (4 neighbours) of each mask around a random pixel of it; nothing of an empty one.

    Reaches as far as paths of `pieces` straight pieces, the first of which is horizontal.
    """
    noise = torch.rand(mask_BHW.shape, generator=generator, device=generator.device).to(mask_BHW.device)
    first_B1 = noise.masked_fill(~mask_BHW, -1.0).flatten(1).argmax(1, keepdim=True)
    part_BHW = torch.zeros_like(mask_BHW).flatten(1).scatter(1, first_B1, True).view_as(mask_BHW) & mask_BHW
    run_of = {axis: (~mask_BHW).cumsum(axis).clamp_max(mask_BHW.shape[axis] - 1) for axis in (1, 2)}
    for piece in range(pieces):
        axis = 2 - piece % 2
        run_BHW = run_of[axis]  # one number from a gap to the next
        found = torch.zeros_like(run_BHW).scatter_add(axis, run_BHW, part_BHW.long())
        part_BHW = (found.gather(axis, run_BHW) > 0) & mask_BHW
    return part_BHW


def span(mask_BL: Tensor) -> Tensor:
    """All from the first to the last that is True."""
    return (mask_BL.cumsum(1) > 0) & (mask_BL.flip(1).cumsum(1) > 0).flip(1)
