"""CCT, cross-consistency training (Ouali et al. 2020): decoders of disturbed features agree with the main one.

L = CE(x_l) + w(t) * mean_k mean (p_k - p_main)^2 over the pool; p_main carries no gradient, w ramps up.

One encoder and ASPP serve all.  Each auxiliary decoder (a 1x1 convolution to the classes, then twice a 1x1
convolution, a ReLU and sub-pixel upsampling, to stride 4) sees the pool's ASPP features in its own disturbance: noise,
whole channels dropped, the strongest places dropped, or pushed where its prediction changes most (VAT).  Published for
VOC alone; guided CutOut and the context and object masks need a background class, which street scenes have not, so they
are left out.  The squared difference is taken at stride 4.
"""

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.batches.batch import Batch
from training.losses.upsampled import wide
from training.method_parts.method import Method, NewNetwork
from training.method_parts.parts import MethodContext, Parts, pixel_mean, ramp_up, supervise
from training.network.deeplab import normalise
from training.settings.methods import CCTSettings


class CCT(Method):
    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        super().__init__(new_network, context)
        settings = context.methods.cct
        counts = {"noise": settings.noise, "dropout": settings.dropout, "drop": settings.drop, "vat": settings.vat}
        self.disturbances = [name for name, count in counts.items() for _ in range(count)]
        widths = self.network.widths()
        self.decoders = nn.ModuleList(
            AuxiliaryDecoder(widths.features, widths.classes, settings.decoder, doublings=widths.doublings)
            for _ in self.disturbances
        )

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        settings: CCTSettings = context.methods.cct
        known = len(batch.image)
        image = normalise(torch.cat([batch.image, batch.image_u]))
        features, *others = self.network.neck(*self.network.encode(image))
        output = self.network.heads(features, *others)
        logits, logits_x = output.logits, self.network.fit(output, image.shape[2:]).logits[:known]
        size = logits.shape[2:]
        seen_B1HW = batch.seen_u[:1].float().transpose(0, 1)
        seen_B1HW = _pad(seen_B1HW, self.network.padded(image.shape[2:]))  # nobody has seen the padding
        seen = F.interpolate(seen_B1HW, size, mode="nearest")[:, 0] > 0

        own_u, p_main = wide(features[known:]), wide(logits[known:].detach()).softmax(1)
        apart: list[Tensor] = []
        with torch.autocast(own_u.device.type, enabled=False):
            for name, module in zip(self.disturbances, self.decoders, strict=True):
                decoder = cast("AuxiliaryDecoder", module)
                disturbed = disturb(name, own_u, decoder, settings, context.generator)
                apart.append((decoder(disturbed, size).softmax(1) - p_main).square().mean(1))
        weight = settings.weight * ramp_up(context.done, settings.ramp)
        return {
            "ce": supervise(logits_x, batch.target, context),
            "consistency": weight * pixel_mean(torch.stack(apart).mean(0), seen, seen, context),
        }


class AuxiliaryDecoder(nn.Module):
    def __init__(
        self, channels: int, classes: int, kind: Literal["relu", "linear"] = "relu", *, doublings: int = 2
    ) -> None:
        super().__init__()
        self.classify = nn.Conv2d(channels, classes, 1, bias=False)
        convs = [nn.Conv2d(classes, 4 * classes, 1) for _ in range(doublings)]
        self.expand = nn.ModuleList(convs)
        self.activate = nn.ReLU() if kind == "relu" else nn.Identity()
        if kind == "relu":
            nn.init.kaiming_normal_(self.classify.weight, nonlinearity="relu")
            for conv in convs:
                _same_for_the_four(conv.weight)

    def forward(self, features_BAhw: Tensor, size: torch.Size) -> Tensor:
        """(B, A, h, w) -> logits (B, C, *size), by doublings and, where these do not fit exactly, interpolation."""
        x = self.classify(features_BAhw)
        for conv in self.expand:
            x = F.pixel_shuffle(self.activate(conv(x)), 2)
        return F.interpolate(x, size, mode="bilinear", align_corners=False)


def _pad(map_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Zeros at the right and bottom, up to this size."""
    height, width = (new - old for new, old in zip(size, map_BCHW.shape[2:], strict=True))
    return F.pad(map_BCHW, (0, width, 0, height)) if height or width else map_BCHW


@torch.no_grad()
def _same_for_the_four(weight: Tensor) -> None:
    """First weights under which a doubling is nearest-neighbour interpolation (ICNR, Aitken et al. 2017)."""
    one = torch.empty(len(weight) // 4, *weight.shape[1:])
    nn.init.kaiming_normal_(one)
    weight.copy_(one.repeat_interleave(4, dim=0))


def disturb(
    name: str, features_BAhw: Tensor, decoder: AuxiliaryDecoder, settings: CCTSettings, generator: torch.Generator
) -> Tensor:
    """The features (float32) as a decoder sees them; the gradient goes through, but not into how they are changed."""

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, device=generator.device).to(features_BAhw.device)

    batch, channels, height, width = features_BAhw.shape
    if name == "noise":  # the same for every image, in proportion to the feature
        noise = (2 * uniform(1, channels, height, width) - 1) * settings.noise_size
        return features_BAhw * (1 + noise)
    if name == "dropout":
        kept = uniform(batch, channels, 1, 1) >= settings.dropout_rate
        return features_BAhw * kept / (1 - settings.dropout_rate)
    if name == "drop":
        strength_B1hw = features_BAhw.detach().mean(1, keepdim=True)
        low, high = settings.drop_above
        bound = strength_B1hw.amax((2, 3), keepdim=True) * (low + (high - low) * uniform(1, 1, 1, 1))
        return features_BAhw * (strength_B1hw < bound)
    assert name == "vat"
    return features_BAhw + adversarial(features_BAhw.detach(), decoder, settings, uniform(*features_BAhw.shape) - 0.5)


def adversarial(features_BAhw: Tensor, decoder: AuxiliaryDecoder, settings: CCTSettings, first: Tensor) -> Tensor:
    """The direction, of length `vat_size` for each image, that changes the decoder's prediction most (Miyato 2018):
    one power iteration from `first`."""
    size = torch.Size(side << len(decoder.expand) for side in features_BAhw.shape[2:])
    with torch.enable_grad():
        step_BAhw = (settings.vat_probe * _unit(first)).requires_grad_()
        p = decoder(features_BAhw, size).detach().softmax(1)
        log_q = decoder(features_BAhw + step_BAhw, size).log_softmax(1)
        # KL(p || q) but for p's entropy, which is constant.
        (direction,) = torch.autograd.grad(-(p * log_q).sum(), step_BAhw)
    return settings.vat_size * _unit(direction)


def _unit(x_BAhw: Tensor) -> Tensor:
    return F.normalize(x_BAhw.flatten(1), dim=1).view_as(x_BAhw)
