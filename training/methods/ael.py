"""AEL (Hu et al. 2021): the classes that the network knows least are pasted, cut out and learned most.

L = CE(x_l) + w sum_i w_i CE_i / sum_i w_i over the pool's pixels i, where w_i = p_i^2 * Bernoulli(r_k); k is the
averaged teacher's label of the pixel, p_i its confidence, and r_k = (1 - b_k) / max(1 - b).  The bank b_k averages over
the steps the student's mean probability of class k on labelled pixels of k.
Copy-paste: with probability 0.5 a labelled image gets another one's pixels of three classes drawn from softmax(1 - b).
CutMix: each pool image gets a box around a connected part of a class, drawn likewise, out of an image that shows it.
All donors come from the same batch as the image, where the published code looks through the whole data set.

The teacher is in evaluation mode, and is what is deployed.  Further differences: docs/how_it_works/method.md.

Shape suffixes: B = images, D = images as donors, C = classes, N = draws, H and W = pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from querying.labels.pseudo_labels import top_class
from training.batches.batch import Batch
from training.losses.upsampled import full_size, wide
from training.method_parts.method import Method, NewNetwork
from training.method_parts.mixing import boxes, component, mix, span
from training.method_parts.parts import MethodContext, Parts, pixel_mean, supervise
from training.method_parts.teacher import Teacher
from training.network.deeplab import normalise
from training.network.segmenter import Segmenter
from training.settings.methods import AELSettings


class AEL(Method):
    confidence: Tensor
    """(C,): the bank b; 0 for a class that no label has shown yet."""
    sightings: Tensor
    """(C,): the steps whose labels showed the class."""

    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        super().__init__(new_network, context)
        self.teacher = Teacher(self.network)
        self.decay = context.methods.ael.decay
        classes = self.network.widths().classes
        self.register_buffer("confidence", torch.zeros(classes))
        self.register_buffer("sightings", torch.zeros(classes, dtype=torch.int64))

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        settings: AELSettings = context.methods.ael
        known, size = len(batch.image), batch.target.shape[1:]
        wanted_C = (1 - self.confidence).softmax(0)

        paste = copies(batch.target, wanted_C, settings, context.generator)
        image, target = mix(batch.image, paste), mix(batch.target, paste)

        taught = full_size(self.teacher(normalise(batch.image_u)).logits, size, context.align_corners)
        sure_u, label_u = top_class(wide(taught).softmax(1))
        box, donor = cuts(label_u, batch.seen_u[0], wanted_C, settings, context.generator)
        image_u, label_u, sure_u, seen_u = (
            mix(one, box, donor) for one in (batch.image_u, label_u, sure_u, batch.seen_u[0])
        )

        logits = full_size(self.network(normalise(torch.cat([image, image_u]))).logits, size, context.align_corners)
        self.observe(logits[:known], target, context)

        chance_u = torch.rand(label_u.shape, generator=context.generator, device=context.generator.device)
        sampled_u = seen_u & (chance_u.to(label_u.device) < self.rate()[label_u])
        weight_u = sure_u.pow(settings.focus) * sampled_u
        cost_u = F.cross_entropy(wide(logits[known:]), label_u, reduction="none")
        learned_u = sampled_u & (sure_u >= settings.threshold)
        return {
            "ce": supervise(logits[:known], target, context),
            "equalised": settings.weight * pixel_mean(weight_u * cost_u, learned_u, weight_u, context),
        }

    def after_step(self, number: int) -> None:
        self.teacher.follow(self.network, number, self.decay)

    def deployed(self) -> Segmenter:
        return self.teacher.network

    @torch.no_grad()
    def observe(self, logits_BCHW: Tensor, target_BHW: Tensor, context: MethodContext) -> None:
        """The classes that the labels show move in the bank, by their mean over the global batch."""
        class_C = torch.arange(len(self.confidence), device=target_BHW.device)
        is_BCHW = target_BHW.unsqueeze(1) == class_C.view(-1, 1, 1)
        sum_C = wide(logits_BCHW).softmax(1).masked_fill(~is_BCHW, 0.0).sum((0, 2, 3))
        sum_C, count_C = context.mean_count(torch.stack([sum_C, is_BCHW.sum((0, 2, 3)).to(sum_C.dtype)]))
        shown_C = count_C > 0
        self.sightings += shown_C
        keep_C = (1 - 1 / self.sightings.clamp_min(1)).clamp_max(context.methods.ael.momentum)  # the teacher's ramp
        moved_C = keep_C * self.confidence + (1 - keep_C) * sum_C / count_C.where(shown_C, 1.0)
        self.confidence.copy_(moved_C.where(shown_C, self.confidence))

    def rate(self) -> Tensor:
        """(C,): r; the worst class that was shown has 1, as one that never was."""
        lack_C = 1 - self.confidence
        worst = lack_C.where(self.sightings > 0, 0.0).amax()
        return (lack_C / worst.clamp_min(1e-12)).clamp_max(1.0)


def copies(target_BHW: Tensor, wanted_C: Tensor, settings: AELSettings, generator: torch.Generator) -> Tensor:
    """(B, H, W): where the image before it shows a class that is to be pasted."""
    batch = len(target_BHW)
    drawn_BN = torch.multinomial(wanted_C, batch * settings.pasted, replacement=True, generator=generator)
    shows_BNHW = target_BHW.roll(1, dims=0).unsqueeze(1) == drawn_BN.view(batch, -1, 1, 1)
    return shows_BNHW.any(1) & _chosen(target_BHW, settings.copy_paste, generator)


def cuts(
    label_BHW: Tensor, seen_BHW: Tensor, wanted_C: Tensor, settings: AELSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """A box (B, H, W) for each image, and which other one it shows: one with enough of a drawn class, if there is one.

    The box lies around a part of the class; it has half the image's area at a random place where that is too small.
    """
    batch, pixels = len(label_BHW), label_BHW[0].numel()
    class_B = torch.multinomial(wanted_C, batch, replacement=True, generator=generator)
    is_BDHW = (label_BHW == class_B.view(-1, 1, 1, 1)) & seen_BHW
    other_BD = ~torch.eye(batch, dtype=torch.bool, device=label_BHW.device)
    holds_BD = other_BD & (is_BDHW.sum((2, 3)) >= settings.held * pixels)
    holds_BD = torch.where(holds_BD.any(1, keepdim=True), holds_BD, other_BD)
    donor_B = torch.multinomial(holds_BD.float(), 1, generator=generator).squeeze(1)

    part_BHW = component(is_BDHW[torch.arange(batch, device=donor_B.device), donor_B], generator=generator)
    around_BHW = span(part_BHW.any(2)).unsqueeze(2) & span(part_BHW.any(1)).unsqueeze(1)
    anywhere_BHW = boxes(label_BHW.shape, area=(0.5, 0.5), generator=generator).to(label_BHW.device)
    large_B = part_BHW.sum((1, 2)) > settings.component * pixels
    box_BHW = torch.where(large_B.view(-1, 1, 1), around_BHW, anywhere_BHW)
    return box_BHW & _chosen(label_BHW, settings.cutmix, generator), donor_B


def _chosen(like_BHW: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """(B, 1, 1): True with `probability`."""
    uniform = torch.rand(len(like_BHW), 1, 1, generator=generator, device=generator.device)
    return uniform.to(like_BHW.device) < probability
