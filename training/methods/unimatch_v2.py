"""UniMatch V2 (Yang et al. 2025): two strong views, each with half of the encoder's channels, learn what an averaged
teacher says of the weak view.

L = 1/2 [CE(x_l) + 1/2 CE(s1) + 1/2 CE(s2)].  The teacher averages parameters and buffers, is in evaluation mode and is
what is deployed.  s1 and s2 are two looks of one weak view; each gets a box of the image at the mirrored place of the
batch, with that image's label and confidence.  Pixels below the threshold cost nothing but count in the mean.  What
the encoder gives is multiplied by 2 m for s1 and by 2 (1 - m) for s2, m drawn per image and channel and the same at all
places and in all maps of one width (all four of a plain transformer, the published form; an encoder whose maps differ
in width gets an m for each width); half of the pairs, rounded down, keep all channels.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.labels.pseudo_labels import top_class
from training.batches.batch import Batch
from training.losses.upsampled import full_size, wide
from training.method_parts.method import Method, NewNetwork
from training.method_parts.mixing import boxes, mix
from training.method_parts.parts import MethodContext, Parts, pixel_mean, supervise
from training.method_parts.teacher import Teacher
from training.network.deeplab import normalise
from training.network.segmenter import Segmenter
from training.settings.methods import UniMatchV2Settings


class UniMatchV2(Method):
    strong_views = 2

    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        super().__init__(new_network, context)
        self.teacher = Teacher(self.network)
        self.decay = context.methods.unimatch_v2.decay

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        settings: UniMatchV2Settings = context.methods.unimatch_v2
        size = batch.target.shape[1:]

        def upsampled(logits: Tensor) -> Tensor:
            return full_size(logits, size, context.align_corners)

        taught = upsampled(self.teacher(normalise(batch.image_u)).logits)
        confidence, label = top_class(wide(taught).softmax(1))
        area = (settings.area.low, settings.area.high)
        masks = [
            boxes(label.shape, area=area, aspect=1 / 0.3, probability=settings.cutmix, generator=context.generator)
            for _ in batch.strong_u
        ]
        mirrored = torch.arange(len(label) - 1, -1, -1, device=label.device)
        mixed = torch.cat([mix(view, mask, mirrored) for view, mask in zip(batch.strong_u, masks, strict=True)])

        logits_x = self.network(normalise(batch.image)).logits
        maps = complementary(self.network.encode(normalise(mixed)), settings.whole, context.generator)
        logits_s = upsampled(self.network.decode(*maps, size=size).logits).chunk(2)

        def learn(logits: Tensor, mask: Tensor, seen: Tensor) -> Tensor:
            sure, seen = mix(confidence, mask, mirrored) >= settings.threshold, mix(seen, mask, mirrored)
            cost = F.cross_entropy(wide(logits), mix(label, mask, mirrored), reduction="none")
            return pixel_mean(cost, seen & sure, seen, context)

        s1, s2 = (learn(*view) for view in zip(logits_s, masks, batch.seen_u[1:], strict=True))
        return {"ce": 0.5 * supervise(logits_x, batch.target, context), "strong": 0.25 * (s1 + s2)}

    def after_step(self, number: int) -> None:
        self.teacher.follow(self.network, number, self.decay)

    def deployed(self) -> Segmenter:
        return self.teacher.network


def complementary(maps: Sequence[Tensor], whole: float, generator: torch.Generator) -> list[Tensor]:
    """Maps (2P, C, h, w) of P pairs of views, all first views before all second ones: a random half of the channels
    doubled in the first and the others in the second; a share `whole` of the pairs, rounded down, is left as it is."""
    pairs = len(maps[0]) // 2

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, device=generator.device)

    left = uniform(pairs).argsort()[: int(pairs * whole)]
    factors: dict[int, Tensor] = {}
    for width in dict.fromkeys(one.shape[1] for one in maps):
        first_PC = 2.0 * (uniform(pairs, width) < 0.5)
        first_PC[left] = 1.0
        factors[width] = torch.cat([first_PC, 2.0 - first_PC])[:, :, None, None]
    return [one * factors[one.shape[1]].to(one) for one in maps]
