"""ReCo against its equation, for given draws of queries and negatives."""

import numpy as np
import torch

from tests.training.fidelity.given import CLOSE, DIM, drawn, slope
from training.losses.reco import contrast, prototypes, sample_indices


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def test_reco_is_infonce_of_hard_pixels_with_class_means_and_drawn_negatives():
    """ReCo equation 1 (code: cosines, tau 0.5), S4AL+ equation 1: over the classes present,
    L = mean_c mean_q -log [e^(cos(q, mu_c) / tau) / (e^(cos(q, mu_c) / tau) + sum_k e^(cos(q, n_k) / tau))]; only the
    queries carry gradient."""
    embed, label = drawn(12, DIM), np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2])
    hard = torch.tensor([True, False, True, True, True, False, True, False, False, False, False, False])
    x = torch.from_numpy(embed).requires_grad_()
    key, labels = x.detach(), torch.from_numpy(label)
    mean, classes = prototypes(key, labels)
    settings = {"temperature": 0.5, "queries": 4, "negatives": 5}
    drawn_ = sample_indices(labels, hard, mean, classes, **settings, generator=torch.Generator().manual_seed(0))
    assert drawn_.anchor_J.tolist() == [0, 1]  # class 2 has no hard pixel: it adds nothing and is counted
    found = contrast(x, key, mean, drawn_, temperature=0.5)

    def expected(values):
        total = 0.0
        for row, c in enumerate(drawn_.anchor_J.tolist()):
            positive = unit(embed[label == c].mean(0))
            for q, pixel in enumerate(drawn_.query_JQ[row].tolist()):
                query = unit(values[pixel])
                pull = np.exp(query @ positive / 0.5)
                push = np.exp(unit(embed[drawn_.negative_JQM[row, q].numpy()]) @ query / 0.5).sum()
                total -= np.log(pull / (pull + push)) / 4
        return total / 3

    np.testing.assert_allclose(found.item(), expected(embed), **CLOSE)
    found.backward()
    np.testing.assert_allclose(x.grad.numpy(), slope(expected, embed), rtol=1e-6, atol=1e-8)


def test_the_relation_of_classes_is_a_softmax_of_the_cosines_of_their_means():
    """ReCo section 3.2: a negative's class j is drawn with softmax_{j != c} cos(mu_c, mu_j) / tau: shares of 20,000."""
    mean = torch.tensor([[1.0, 0.0], [0.8, 0.6], [-1.0, 0.1]])
    labels = torch.arange(3).repeat_interleave(50)
    settings = {"temperature": 0.5, "queries": 100, "negatives": 200, "generator": torch.Generator().manual_seed(0)}
    found = sample_indices(labels, labels == 0, mean, torch.arange(3), **settings)
    share = np.bincount(labels[found.negative_JQM.flatten()].numpy(), minlength=3) / 20_000
    logits = unit(mean.numpy())[1:] @ unit(mean.numpy())[0] / 0.5
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(share, [0, *expected], atol=0.01)
