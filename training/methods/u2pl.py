"""U2PL (Wang et al. 2022): unreliable pseudo-labels are not learned, but say which classes a pixel is not.

L = CE(x_l) + w_u L_u + w_c L_c.  An averaged teacher labels the pool, then half its images get a box of another.
L_u: cross entropy of the pixels whose teacher entropy is below its percentile 100 - 20 (1 - t/T), weighted by the
     number of all pixels over the number of these.
L_c: per class, anchors are labelled or reliable pixels of it to which the teacher gives it more than 0.3; the positive
     is their mean, the negatives come from a memory of the class.  Into the memory go labelled pixels of other classes
     that rank it among their first 3, and unreliable pixels that rank it 4th to 20th.
All as in the paper's equations; in its code the negatives of labelled images are always empty, and those of the pool
must have the class as their pseudo-label.  The teacher is in evaluation mode, and is what is deployed.

Shape suffixes as in `training.losses.reco`: P = pixels at stride 4, C = classes, D = embedding, K = classes with a
loss, A = anchors of each, M = negatives of each anchor, S = memory places.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from querying.dataset.label_values import IGNORE
from querying.labels.pseudo_labels import top_class
from training.batches.batch import Batch
from training.losses.upsampled import full_size, wide
from training.method_parts.method import Method, NewNetwork
from training.method_parts.mixing import boxes, mix
from training.method_parts.parts import MethodContext, Parts, pixel_mean, supervise
from training.method_parts.teacher import Teacher
from training.network.deeplab import normalise
from training.network.segmenter import Segmenter
from training.settings.methods import U2PLSettings


class U2PL(Method):
    memory: Tensor
    """(C, S, D): teacher embeddings of pixels that are not of the class."""
    entered: Tensor
    """(C,): how many have ever entered; the next one takes the place `entered` modulo S."""

    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        nn.Module.__init__(self)
        self.network = new_network(True)
        self.teacher = Teacher(self.network)
        self.decay = context.methods.u2pl.decay
        widths = self.network.widths()
        self.register_buffer("memory", torch.zeros(widths.classes, context.methods.u2pl.memory, widths.embedding))
        self.register_buffer("entered", torch.zeros(widths.classes, dtype=torch.int64))

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        settings: U2PLSettings = context.methods.u2pl
        known, size = len(batch.image), batch.target.shape[1:]

        _, label_u = top_class(full_size(self.teacher(normalise(batch.image_u)).logits, size, context.align_corners))
        mask = boxes(label_u.shape, area=(0.5, 0.5), probability=settings.cutmix, generator=context.generator)
        image_u, label_u, seen_u = (mix(one, mask) for one in (batch.image_u, label_u, batch.seen_u[0]))

        x = normalise(torch.cat([batch.image, image_u]))
        taught, output = self.teacher(x), self.network(x)
        logits = full_size(output.logits, size, context.align_corners)

        entropy_u = entropy(full_size(taught.logits[known:], size, context.align_corners)).masked_fill(
            ~seen_u, torch.nan
        )
        bound = entropy_u.flatten().nanquantile(1 - settings.unreliable * (1 - context.done))
        reliable, unreliable = entropy_u < bound, entropy_u >= bound  # neither, where nothing is seen
        cost_u = F.cross_entropy(wide(logits[known:]), label_u, reduction="none")
        scarce = reliable.numel() / context.mean_count(reliable.sum().float()).clamp_min(1e-12)

        nothing_u = torch.full_like(label_u, IGNORE)
        truth = torch.cat([batch.target.long(), nothing_u])
        label = torch.cat([batch.target.long(), label_u.where(reliable, nothing_u)])
        unsure = torch.cat([torch.zeros_like(batch.target, dtype=torch.bool), unreliable])
        truth_P, label_P, unsure_P = (_shrink(one, output.logits) for one in (truth, label, unsure))
        p_PC = _pixels(taught.logits).softmax(1)
        assert output.embedding is not None
        assert taught.embedding is not None
        with torch.autocast(x.device.type, enabled=False):
            key_PD = _pixels(taught.embedding)
            self.remember(key_PD, negatives(p_PC, truth_P, unsure_P, settings))
            contrast = self.contrast(_pixels(output.embedding), key_PD, p_PC, label_P, settings, context.generator)
        return {
            "ce": supervise(logits[:known], batch.target, context),
            "reliable": settings.weight * scarce * pixel_mean(cost_u, reliable, reliable, context),
            "contrast": settings.contrast * contrast,
        }

    def after_step(self, number: int) -> None:
        self.teacher.follow(self.network, number, self.decay)

    def deployed(self) -> Segmenter:
        return self.teacher.network

    def remember(self, key_PD: Tensor, not_PC: Tensor) -> None:
        """Each class's pixels enter its memory in order, the oldest leave."""
        places = self.memory.shape[1]
        class_N, pixel_N = not_PC.T.nonzero(as_tuple=True)
        count_C = not_PC.sum(0)
        number_N = torch.arange(len(class_N), device=class_N.device) - (count_C.cumsum(0) - count_C)[class_N]
        stays_N = number_N >= count_C[class_N] - places  # of more than there are places, the last ones
        class_N, pixel_N, number_N = class_N[stays_N], pixel_N[stays_N], number_N[stays_N]
        self.memory[class_N, (self.entered[class_N] + number_N) % places] = key_PD[pixel_N].to(self.memory.dtype)
        self.entered += count_C

    def contrast(
        self,
        embed_PD: Tensor,
        key_PD: Tensor,
        p_PC: Tensor,
        label_P: Tensor,
        settings: U2PLSettings,
        generator: torch.Generator,
    ) -> Tensor:
        """InfoNCE with cosines; mean over anchors, then over the classes present (one without anchors adds zero)."""
        is_PC = label_P.unsqueeze(1) == torch.arange(p_PC.shape[1], device=p_PC.device)
        anchor_PC = is_PC & (p_PC > settings.confident)
        filled_C = self.entered.clamp_max(self.memory.shape[1])
        class_K = (anchor_PC.any(0) & (filled_C > 0)).nonzero().flatten()
        if not len(class_K):
            return embed_PD.sum() * 0.0

        def draw(count_K: Tensor, *shape: int) -> Tensor:
            """Numbers below each class's count."""
            uniform = torch.rand(len(class_K), *shape, generator=generator, device=generator.device)
            uniform, count_K = uniform.to(count_K.device), count_K.view(-1, *[1] * len(shape))
            return (uniform * count_K).long().clamp_max(count_K - 1)

        count_C = anchor_PC.sum(0)
        pixel_N = anchor_PC.T.nonzero(as_tuple=True)[1]  # class by class
        start_K = (count_C.cumsum(0) - count_C)[class_K]
        anchor_KA = pixel_N[start_K.unsqueeze(1) + draw(count_C[class_K], settings.anchors)]
        place_KAM = draw(filled_C[class_K], settings.anchors, settings.negatives)
        mean_KD = anchor_PC.T[class_K].to(key_PD.dtype) @ key_PD / count_C[class_K].unsqueeze(1)

        query_KAD = F.normalize(embed_PD[anchor_KA], dim=2)
        other_KAMD = F.normalize(self.memory[class_K.view(-1, 1, 1), place_KAM], dim=3)
        alike_KA1 = query_KAD @ F.normalize(mean_KD, dim=1).unsqueeze(2)
        cosine_KAX = torch.cat([alike_KA1, (other_KAMD @ query_KAD.unsqueeze(3)).squeeze(3)], dim=2)
        loss_KA = -(cosine_KAX / settings.temperature).log_softmax(2)[:, :, 0]
        return loss_KA.mean(1).sum() / is_PC.any(0).sum()


def entropy(logits_BCHW: Tensor) -> Tensor:
    """In nats, float32 or wider; finite whatever the logits."""
    log_p = wide(logits_BCHW).log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def negatives(p_PC: Tensor, truth_P: Tensor, unsure_P: Tensor, settings: U2PLSettings) -> Tensor:
    """(P, C): which pixels are certainly not of which class, but not obviously so."""
    rank_PC = p_PC.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    class_C = torch.arange(p_PC.shape[1], device=p_PC.device)
    other_PC = (truth_P != IGNORE).unsqueeze(1) & (truth_P.unsqueeze(1) != class_C)
    far_PC = (rank_PC >= settings.low_rank) & (rank_PC < settings.high_rank)
    return (other_PC & (rank_PC < settings.low_rank)) | (unsure_P.unsqueeze(1) & far_PC)


def _pixels(map_BXhw: Tensor) -> Tensor:
    return wide(map_BXhw.permute(0, 2, 3, 1).flatten(0, 2))


def _shrink(map_BHW: Tensor, like_BChw: Tensor) -> Tensor:
    """(P,) of labels or masks, nearest-downsampled to the resolution of `like`."""
    small = F.interpolate(map_BHW[:, None].float(), like_BChw.shape[2:], mode="nearest")
    return small.flatten().to(map_BHW.dtype)
