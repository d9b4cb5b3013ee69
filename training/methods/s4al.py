"""S4AL (Rangnekar, Kanan, Hoffman, WACV 2023): a mean teacher labels pool images, which are mixed class by class.

L = CE(x_l) + w (U(ClassMix) + U(biased ClassMix)), and 1.5 CE(x_l) alone in the first 10 epochs.
U = sum_b s_b sum_i p_i CE(k_i) / (pixels that are seen): k_i is the teacher's label of pixel i of the mixed image b and
p_i its confidence; s_b is the share of the image's pixels with p_i >= 0.97.  In a bought cell k_i is the truth, p_i 1.
ClassMix (Olsson et al. 2021): the pixels of half an image's classes, rounded down, stay; the others are the next one's.
Biased ClassMix, from cycle 1 and epoch 30 on: of a replayed pool image the pixels of 3 frequent and 2 or 3 rare
classes, drawn anew for each image, are pasted.

As published, by the authors' code (aneesh3108/S4AL; its commands ask for the weights p_i): all of the above, with its
numbers and lists of classes, and the teacher's decay of 0.99.  Ours:
- Replay.  The authors keep the names of pool images in a buffer of 50 (CamVid) or 500 (Cityscapes).  Each is taken out
  once, some 12 or 125 steps after it came, augmented anew, and labelled by the teacher of that moment: donors are as
  many random pool images, whatever their classes.  Here each donates at once, to the next image of its batch: as many
  random donors, as often, and nothing to remember between steps.
- One pass over labelled and mixed images, so that BatchNorm sees both; the teacher in evaluation mode, its buffers
  averaged, too.  The student sees the recipe's strong view; what that hides is neither mixed in nor learned.
- The teacher is deployed and evaluated, so it is also the one that a query asks (the authors ask the student).
- Bought pixels that are void are labelled by the teacher (the authors ignore them).

Shape suffixes: B = images, C = classes, H and W = pixels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.base.errors import UserError
from querying.dataset.label_values import IGNORE
from querying.labels.pseudo_labels import top_class
from training.batches.batch import Batch
from training.losses.upsampled import full_size, wide
from training.method_parts.method import Method, NewNetwork
from training.method_parts.mixing import mix
from training.method_parts.parts import MethodContext, Parts, pixel_mean, supervise
from training.method_parts.teacher import Teacher
from training.network.deeplab import normalise
from training.network.segmenter import Segmenter
from training.settings.systems import S4ALSettings


class Labelled(NamedTuple):
    """Images (B, 3, H, W) with labels, their confidence, and where they are seen, (B, H, W)."""

    image: Tensor
    label: Tensor
    sure: Tensor
    seen: Tensor

    def mixed(self, foreign_BHW: Tensor, donor_B: Tensor) -> "Labelled":
        """Image `donor_B` where `foreign_BHW`."""
        return Labelled(*(mix(one, foreign_BHW, donor_B) for one in self))


class S4AL(Method):
    strong_views = 1

    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        super().__init__(new_network, context)
        self.teacher = Teacher(self.network)
        settings = context.methods.s4al
        self.decay = settings.decay
        self.classes = self.network.widths().classes
        unknown = [number for number in (*settings.frequent, *settings.rare) if number >= self.classes]
        if unknown:
            raise UserError(
                f"methods.s4al: class {unknown[0]} is to be pasted, but the data have {self.classes} classes"
            )

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        settings: S4ALSettings = context.methods.s4al
        epoch = context.done * context.train.epochs + 1e-6  # else a first step could round to the epoch before
        if epoch < settings.cold_start:
            ce = supervise(self.network(normalise(batch.image)).logits, batch.target, context)
            return {"ce": settings.cold_weight * ce, "mixed": torch.zeros_like(ce), "replayed": torch.zeros_like(ce)}

        known, size, g = len(batch.image), batch.target.shape[1:], context.generator
        pool = self.taught(batch, context.align_corners)
        order_B = torch.arange(len(pool.image), device=pool.image.device)
        own_BHW = half_of_the_classes(pool.label, pool.seen, self.classes, g)
        learned = [pool.mixed(~own_BHW, order_B.roll(-1))]
        if settings.rare and context.cycle >= 1 and epoch >= settings.replay_from:
            donor_B = order_B.roll(1)
            drawn_BC = frequent_and_rare(len(order_B), self.classes, settings, g)
            learned.append(pool.mixed(among(drawn_BC, pool.label, pool.seen)[donor_B], donor_B))

        images = torch.cat([batch.image, *(one.image for one in learned)])
        logits = full_size(self.network(normalise(images)).logits, size, context.align_corners)
        costs = [
            settings.weight * consistency(part, one, settings, context)
            for part, one in zip(logits[known:].chunk(len(learned)), learned, strict=True)
        ]
        return {
            "ce": supervise(logits[:known], batch.target, context),
            "mixed": costs[0],
            "replayed": costs[1] if len(costs) > 1 else torch.zeros_like(costs[0]),
        }

    def after_step(self, number: int) -> None:
        self.teacher.follow(self.network, number, self.decay)

    def deployed(self) -> Segmenter:
        return self.teacher.network

    def taught(self, batch: Batch, align_corners: bool = False) -> Labelled:
        """The pool's strong views under the teacher's labels of the weak ones, and the truth of bought cells."""
        logits = full_size(self.teacher(normalise(batch.image_u)).logits, batch.image_u.shape[2:], align_corners)
        sure, label = top_class(wide(logits).softmax(1))
        bought = batch.target_u != IGNORE
        label = torch.where(bought, batch.target_u.long(), label)
        return Labelled(batch.strong_u[0], label, sure.masked_fill(bought, 1.0), batch.seen_u[1])


def consistency(logits_BCHW: Tensor, taught: Labelled, settings: S4ALSettings, context: MethodContext) -> Tensor:
    """U of the module's equation; a scalar >= 0."""
    cost = F.cross_entropy(wide(logits_BCHW), taught.label, reduction="none")
    sure_B = ((taught.sure >= settings.threshold) & taught.seen).sum((1, 2))
    share_B = sure_B / taught.seen.sum((1, 2)).clamp_min(1)
    return pixel_mean(share_B.view(-1, 1, 1) * taught.sure * cost, taught.seen, taught.seen, context)


def half_of_the_classes(label_BHW: Tensor, seen_BHW: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """(B, H, W): the pixels of half the classes, rounded down, that an image shows where it is seen."""
    count_BC = torch.zeros(len(label_BHW), classes, dtype=torch.int64, device=label_BHW.device)
    shows_BC = count_BC.scatter_add(1, label_BHW.flatten(1), seen_BHW.flatten(1).long()) > 0
    rank_BC = _random_rank(shows_BC, generator)
    return among(rank_BC < shows_BC.sum(1, keepdim=True) // 2, label_BHW, seen_BHW)


def frequent_and_rare(batch: int, classes: int, settings: S4ALSettings, generator: torch.Generator) -> Tensor:
    """(B, C): True for the classes that are drawn for each image, without replacement, of either kind."""
    drawn_BC = torch.zeros(batch, classes, dtype=torch.bool, device=generator.device)
    for group, count in ((settings.frequent, settings.frequent_pasted), (settings.rare, settings.rare_pasted)):
        in_group_BC = torch.zeros_like(drawn_BC)
        in_group_BC[:, list(group)] = True
        drawn_BC |= in_group_BC & (_random_rank(in_group_BC, generator) < count)
    return drawn_BC


def among(drawn_BC: Tensor, label_BHW: Tensor, seen_BHW: Tensor) -> Tensor:
    """(B, H, W): where an image is seen and its label is drawn."""
    drawn_BC = drawn_BC.to(label_BHW.device)
    return drawn_BC.gather(1, label_BHW.flatten(1)).view_as(label_BHW) & seen_BHW


def _random_rank(first_BC: Tensor, generator: torch.Generator) -> Tensor:
    """(B, C): a random order of each row, from 0, in which those that are True come first."""
    chance_BC = torch.rand(first_BC.shape, generator=generator, device=generator.device).to(first_BC.device)
    return chance_BC.masked_fill(~first_BC, 2.0).argsort(1).argsort(1)
