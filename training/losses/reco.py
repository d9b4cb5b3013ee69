"""Regional contrast (ReCo, Liu et al. 2021): pull a hard pixel to the mean of its class, push it off similar classes.

Shape suffixes: B = images, D = embedding, H and W = cells of the feature map, P = B * H * W of them in that order,
K = classes present, J = those of them that have a hard pixel, Q = queries per class, M = negatives per query,
N = J * Q queries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from querying.base.forms import plain_forms
from querying.dataset.label_values import IGNORE

EPS = 1e-12  # a zero embedding has cosine 0 with everything, as in F.normalize


class ContrastIndices(NamedTuple):
    """What one step contrasts, as indices only."""

    anchor_J: Tensor
    """Row of the prototypes (K, D) that each group of queries belongs to."""
    query_JQ: Tensor
    """Pixels, 0..P-1."""
    negative_JQM: Tensor
    """Pixels, 0..P-1."""


def reco_loss(
    embed_BDHW: Tensor,
    label_BHW: Tensor,
    prob_BHW: Tensor,
    *,
    temperature: float,
    queries: int,
    negatives: int,
    hard_threshold: float,
    generator: torch.Generator,
) -> Tensor:
    """InfoNCE of hard pixels against class prototypes; a scalar >= 0 in float32 (S4AL+ eq. 1, with cosines).

    `label_BHW` holds class indices or IGNORE; `prob_BHW` is the student's probability of that class.  The mean runs
    over the queries of a class, then over the classes present: one without a hard pixel adds zero but is counted.
    Gradient flows through the queries only.  With fewer than two classes, zero that still carries a graph.
    """
    with torch.autocast(embed_BDHW.device.type, enabled=False):
        embed_PD = embed_BDHW.permute(0, 2, 3, 1).reshape(-1, embed_BDHW.shape[1])
        label_P = label_BHW.reshape(-1)
        key_PD = embed_PD.detach().to(torch.promote_types(embed_PD.dtype, torch.float32))
        mean_KD, class_K = prototypes(key_PD, label_P)
        samples = None
        if len(class_K) >= 2:
            samples = sample_indices(
                label_P,
                prob_BHW.reshape(-1) < hard_threshold,
                mean_KD,
                class_K,
                temperature=temperature,
                queries=queries,
                negatives=negatives,
                generator=generator,
            )
        if samples is None or not len(samples.anchor_J):
            return embed_BDHW.sum().to(key_PD.dtype) * 0.0
        return contrast(embed_PD, key_PD, mean_KD, samples, temperature=temperature)


def prototypes(key_PD: Tensor, label_P: Tensor) -> tuple[Tensor, Tensor]:
    """Mean embedding (K, D) of each class present, and which classes these are (K,)."""
    label_P = label_P.long()
    total_CD = key_PD.new_zeros(IGNORE + 1, key_PD.shape[1]).index_add_(0, label_P, key_PD)
    count_C = torch.bincount(label_P, minlength=IGNORE + 1)
    class_K = count_C[:IGNORE].nonzero().flatten()
    return total_CD[class_K] / count_C[class_K].unsqueeze(1), class_K


def sample_indices(
    label_P: Tensor,
    hard_P: Tensor,
    mean_KD: Tensor,
    class_K: Tensor,
    *,
    temperature: float,
    queries: int,
    negatives: int,
    generator: torch.Generator,
) -> ContrastIndices:
    """Draw hard pixels of each class, and for each of them negatives: first their class, then a pixel of it.

    A negative's class follows the softmax of cos(prototypes) / temperature over the *other* classes.  All draws are
    with replacement.  Random numbers are drawn on the generator's device, so a CPU generator gives any device the same.
    """
    by_class_P = label_P.argsort(stable=True)  # the pixels of each class lie together, IGNORE last
    hard_pixel = by_class_P[hard_P[by_class_P]]
    count_K, start_K = _segments(label_P, class_K)
    hard_count_K, hard_start_K = _segments(label_P[hard_P], class_K)
    anchor_J = hard_count_K.nonzero().flatten()
    num_anchors = len(anchor_J)

    def uniform(count: int) -> Tensor:
        draw = torch.rand(num_anchors, count, generator=generator, device=generator.device)
        return draw.to(label_P.device)

    query_JQ = hard_pixel[
        hard_start_K[anchor_J].unsqueeze(1) + _spot(uniform(queries), hard_count_K[anchor_J].unsqueeze(1))
    ]
    unit_KD = F.normalize(mean_KD, dim=1)
    relation_KK = (unit_KD @ unit_KD.T / temperature).fill_diagonal_(-torch.inf).softmax(dim=1)
    bound_JK = relation_KK[anchor_J].cumsum(dim=1)
    bound_JK = (bound_JK / bound_JK[:, -1:]).float()  # ends in exactly 1, so no draw falls past the last class
    other_JX = torch.searchsorted(bound_JK, uniform(queries * negatives), right=True)
    other_JX = other_JX.clamp_max_(len(class_K) - 1)  # past the last where a prototype is NaN, as the loss then is
    negative_JX = by_class_P[start_K[other_JX] + _spot(uniform(queries * negatives), count_K[other_JX])]
    return ContrastIndices(anchor_J, query_JQ, negative_JX.view(num_anchors, queries, negatives))


def contrast(
    embed_PD: Tensor, key_PD: Tensor, mean_KD: Tensor, samples: ContrastIndices, *, temperature: float
) -> Tensor:
    """Loss of `samples`; differentiable in `embed_PD` at the queries, `key_PD` (its values) is constant."""
    if plain_forms():
        return plain_contrast(embed_PD, key_PD, mean_KD, samples, temperature=temperature)
    query_ND = embed_PD.index_select(0, samples.query_JQ.flatten()).to(key_PD.dtype)
    inverse_norm_P = torch.linalg.vector_norm(key_PD, dim=1).clamp_min_(EPS).reciprocal_()
    positive_JD = F.normalize(mean_KD, dim=1, eps=EPS)[samples.anchor_J]
    num_queries = samples.query_JQ.shape[1]
    total: Tensor = _InfoNCE.apply(
        F.normalize(query_ND, dim=1, eps=EPS),
        positive_JD.repeat_interleave(num_queries, dim=0),
        key_PD,
        inverse_norm_P,
        samples.negative_JQM.flatten(0, 1),
        temperature,
    )
    return total / (num_queries * len(mean_KD))


def plain_contrast(
    embed_PD: Tensor, key_PD: Tensor, mean_KD: Tensor, samples: ContrastIndices, *, temperature: float
) -> Tensor:
    """The same with PyTorch's gradient, all keys gathered."""
    query_JQD = F.normalize(embed_PD[samples.query_JQ].to(key_PD.dtype), dim=-1)
    negative_JQMD = F.normalize(key_PD[samples.negative_JQM], dim=-1)
    positive_JQ = torch.einsum("jqd,jd->jq", query_JQD, F.normalize(mean_KD[samples.anchor_J], dim=-1))
    negative_JQM = torch.einsum("jqd,jqmd->jqm", query_JQD, negative_JQMD)
    logit = torch.cat([positive_JQ.unsqueeze(2), negative_JQM], dim=2) / temperature
    loss_JQ = logit.logsumexp(dim=2) - logit[..., 0]
    return loss_JQ.mean(dim=1).sum() / len(mean_KD)


class _InfoNCE(torch.autograd.Function):
    """Sum over queries of -log softmax(cosines / temperature)[positive], and its gradient in the queries.

    Both are embedding-bag kernels, which read the keys where they lie: no N x M x D tensor exists at any time.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        query_ND: Tensor,
        positive_ND: Tensor,
        key_PD: Tensor,
        inverse_norm_P: Tensor,
        negative_NM: Tensor,
        temperature: float,
    ) -> Tensor:
        positive_N = (query_ND * positive_ND).sum(dim=1) / temperature
        scale_NM = inverse_norm_P[negative_NM].div_(temperature)
        logit_NM = _dot_with_each(query_ND, key_PD, negative_NM).mul_(scale_NM)
        normaliser_N = torch.logaddexp(logit_NM.logsumexp(dim=1), positive_N)
        weight_NM = logit_NM.sub_(normaliser_N.unsqueeze(1)).exp_().mul_(scale_NM)
        grad_ND = F.embedding_bag(negative_NM, key_PD, mode="sum", per_sample_weights=weight_NM)
        pull_N = (positive_N - normaliser_N).expm1() / temperature  # probability of the positive, minus one
        grad_ND.addcmul_(positive_ND, pull_N.unsqueeze(1))
        ctx.save_for_backward(grad_ND)
        return (normaliser_N - positive_N).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (grad_ND,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return grad_ND * grad, None, None, None, None, None


def _dot_with_each(query_ND: Tensor, key_PD: Tensor, index_NM: Tensor) -> Tensor:
    """(N, M): query n times key index[n, m].  It is what a weighted embedding bag computes as its weights' gradient."""
    rows, samples = index_NM.shape
    bag_N = torch.arange(rows, device=index_NM.device)
    dot = torch.ops.aten._embedding_bag_per_sample_weights_backward  # no public name gives it without a forward pass
    weights: Tensor = dot(query_ND, key_PD, index_NM.flatten(), bag_N * samples, bag_N.repeat_interleave(samples), 0)
    return weights.view(rows, samples)


def _segments(label: Tensor, class_K: Tensor) -> tuple[Tensor, Tensor]:
    """How many pixels each class has, and where it starts in a list sorted by class."""
    count_C = torch.bincount(label.long(), minlength=IGNORE + 1)
    return count_C[class_K], (count_C.cumsum(0) - count_C)[class_K]


def _spot(uniform: Tensor, count: Tensor) -> Tensor:
    """0..count-1 from float32 draws in 0..1 - 2^-24, whose product with a count below 2^24 never rounds up to it."""
    return (uniform * count).long()
