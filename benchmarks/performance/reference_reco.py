"""ReCo as research code computes it: loops over classes and queries draw the negatives, and for each class all keys of
all queries are gathered.  Written from the equations of Liu et al. 2021 (section 3), for comparison alone.

Shape suffixes: as in `training.losses.reco`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.losses.reco import ContrastIndices, prototypes
from training.settings.training import ReCoSettings


def reference_reco(
    embed_BDHW: Tensor, label_BHW: Tensor, prob_BHW: Tensor, settings: ReCoSettings, generator: torch.Generator
) -> Tensor:
    """The loss of a step, without its weight; differentiable in the embedding at the queries."""
    embed_PD = embed_BDHW.permute(0, 2, 3, 1).reshape(-1, embed_BDHW.shape[1])
    label_P = label_BHW.reshape(-1)
    mean_KD, class_K = prototypes(embed_PD.detach(), label_P)
    hard_P = prob_BHW.reshape(-1) < settings.hard_threshold
    samples = looped_samples(label_P, hard_P, mean_KD, class_K, settings, generator)
    return looped_contrast(embed_PD, mean_KD, samples, temperature=settings.temperature)


def looped_samples(
    label_P: Tensor, hard_P: Tensor, mean_KD: Tensor, class_K: Tensor, settings: ReCoSettings,
    generator: torch.Generator,
) -> ContrastIndices:  # fmt: skip
    """Drawn as `training.losses.reco.sample_indices` draws: classes by the similarity of the prototypes, pixels
    uniformly."""
    device = label_P.device
    members = [(label_P == number).nonzero().flatten() for number in class_K.tolist()]
    anchors, queries, negatives = [], [], []
    for own, member in enumerate(members):
        hard = member[hard_P[member]]
        if not len(hard):
            continue
        others = [number for number in range(len(members)) if number != own]
        similar = F.cosine_similarity(mean_KD[own].unsqueeze(0), mean_KD[others], dim=1)
        share = (similar / settings.temperature).softmax(dim=0).to(generator.device)
        drawn = torch.multinomial(
            share.expand(settings.queries, -1), settings.negatives, replacement=True, generator=generator
        )
        rows = []
        for classes in drawn:
            pixels = []
            for place, number in enumerate(others):
                wanted = int((classes == place).sum())
                spots = torch.randint(
                    len(members[number]), (wanted,), generator=generator, device=generator.device
                ).to(device)  # fmt: skip
                pixels.append(members[number][spots])
            rows.append(torch.cat(pixels))
        spots = torch.randint(len(hard), (settings.queries,), generator=generator, device=generator.device)
        anchors.append(own)
        queries.append(hard[spots.to(device)])
        negatives.append(torch.stack(rows))
    return ContrastIndices(torch.tensor(anchors, device=device), torch.stack(queries), torch.stack(negatives))


def looped_contrast(embed_PD: Tensor, mean_KD: Tensor, samples: ContrastIndices, *, temperature: float) -> Tensor:
    """Mean over the classes of the cross entropy of a query's cosines with its class and its negatives."""
    constant_PD = embed_PD.detach()
    total = embed_PD.new_zeros(())
    for anchor, query_Q, negative_QM in zip(*samples, strict=True):
        positive_Q1D = mean_KD[anchor].expand(len(query_Q), 1, -1)
        key_QXD = torch.cat([positive_Q1D, constant_PD[negative_QM]], dim=1)
        cosine_QX = F.cosine_similarity(embed_PD[query_Q].unsqueeze(1), key_QXD, dim=2)
        total = total + F.cross_entropy(cosine_QX / temperature, torch.zeros_like(query_Q))
    return total / len(mean_KD)
