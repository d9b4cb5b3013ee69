"""Sampling obeys its laws; the contrast equals a loop over single cosines in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from querying.dataset.label_values import IGNORE
from training.losses.reco import contrast, prototypes, reco_loss, sample_indices

SETTINGS = {"temperature": 0.5, "queries": 32, "negatives": 64, "hard_threshold": 0.95}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def two_halves(classes=(0, 1), side: int = 8, dim: int = 4):
    """Left half classes[0], right half classes[1]; embeddings one-hot by half."""
    label = torch.full((1, side, side), classes[0], dtype=torch.uint8)
    label[..., side // 2 :] = classes[1]
    embed = torch.zeros(1, dim, side, side)
    embed[:, 0, :, : side // 2] = 1.0
    embed[:, 1, :, side // 2 :] = 1.0
    return embed, label


def random_batch(seed: int = 0, *, classes=(0, 2, 3, 7), dim: int = 6):
    """Embeddings of unequal length that lean towards their class, some pixels unknown, some sure."""
    generator = seeded(seed)
    label = torch.tensor(classes)[torch.randint(len(classes), (2, 6, 7), generator=generator)]
    embed = torch.randn(2, dim, 6, 7, generator=generator) * torch.rand(2, 1, 6, 7, generator=generator) * 3
    embed += torch.randn(9, dim, generator=generator)[label].permute(0, 3, 1, 2)
    label[torch.rand(label.shape, generator=generator) < 0.2] = IGNORE
    prob = torch.rand(label.shape, generator=generator) * 1.3
    return embed, label.byte(), prob


def flatten(embed, label, prob):
    return embed.permute(0, 2, 3, 1).flatten(0, 2), label.flatten(), prob.flatten() < SETTINGS["hard_threshold"]


def draw(embed, label, prob, seed: int = 0, **changed):
    pixel, label, hard = flatten(embed, label, prob)
    mean, classes = prototypes(pixel, label)
    settings = {key: value for key, value in SETTINGS.items() if key != "hard_threshold"}
    samples = sample_indices(label, hard, mean, classes, generator=seeded(seed), **{**settings, **changed})
    return samples, mean, classes


def naive_loss(embed, label, samples, classes, temperature: float) -> float:
    """Prototypes, cosines and InfoNCE one by one, in float64 NumPy."""
    pixel, label, _ = flatten(embed, label, torch.zeros(label.shape))
    pixel, label = pixel.detach().double().numpy(), label.numpy()
    cosine = lambda a, b: a @ b / np.sqrt((a @ a) * (b @ b))
    total = 0.0
    for group, anchor in enumerate(samples.anchor_J.tolist()):
        mean = pixel[label == classes[anchor].item()].mean(axis=0)
        losses = []
        for query, negatives in zip(samples.query_JQ[group], samples.negative_JQM[group], strict=True):
            positive = np.exp(cosine(pixel[query], mean) / temperature)
            rest = sum(np.exp(cosine(pixel[query], pixel[n]) / temperature) for n in negatives)
            losses.append(-np.log(positive / (positive + rest)))
        total += np.mean(losses)
    return total / len(classes)


def autograd_loss(embed, samples, mean, temperature: float):
    """The same from cosine_similarity, for its gradient; keys and prototypes are constants."""
    pixel = embed.permute(0, 2, 3, 1).flatten(0, 2)
    query = pixel[samples.query_JQ]
    positive = F.cosine_similarity(query, mean[samples.anchor_J].unsqueeze(1), dim=-1)
    negative = F.cosine_similarity(query.unsqueeze(2), pixel.detach()[samples.negative_JQM], dim=-1)
    logits = torch.cat([positive.unsqueeze(2), negative], dim=2) / temperature
    return (logits.logsumexp(2) - logits[..., 0]).mean(1).sum() / len(mean)


@pytest.mark.parametrize("temperature", [0.5, 0.07])
def test_value_and_gradient_equal_the_naive_float64_form_on_the_same_indices(temperature):
    embed, label, prob = random_batch()
    embed.requires_grad_()
    settings = {**SETTINGS, "temperature": temperature, "queries": 24, "negatives": 20}
    loss = reco_loss(embed, label, prob, **settings, generator=seeded(5))
    (gradient,) = torch.autograd.grad(loss, embed)

    samples, _, classes = draw(embed.detach(), label, prob, seed=5, temperature=temperature, queries=24, negatives=20)
    assert loss.item() == pytest.approx(naive_loss(embed, label, samples, classes, temperature), rel=1e-6)
    exact = embed.detach().double().requires_grad_()
    mean, _ = prototypes(exact.detach().permute(0, 2, 3, 1).flatten(0, 2), label.flatten())
    (expected,) = torch.autograd.grad(autograd_loss(exact, samples, mean, temperature), exact)
    torch.testing.assert_close(gradient.double(), expected, rtol=0, atol=2e-6 * expected.abs().max().item())


def test_gradient_equals_finite_differences_with_keys_and_prototypes_held_constant():
    embed, label, prob = random_batch(1)
    samples, mean, _ = draw(embed.double(), label, prob, queries=3, negatives=5)
    pixel = embed.double().permute(0, 2, 3, 1).flatten(0, 2)
    function = lambda moving: contrast(moving, pixel, mean, samples, temperature=0.5)
    assert torch.autograd.gradcheck(function, (pixel.clone().requires_grad_(),))


def test_a_negative_drawn_several_times_counts_several_times():
    embed, label, prob = random_batch(2)
    samples, mean, _ = draw(embed, label, prob, queries=9, negatives=300)
    pixel = embed.permute(0, 2, 3, 1).flatten(0, 2)
    loss = contrast(pixel, pixel, mean, samples, temperature=0.5)
    torch.testing.assert_close(loss, autograd_loss(embed, samples, mean, 0.5))


def test_separated_classes_reach_the_closed_form_value():
    """Every query meets its mean at cosine 1 and each of M negatives at cosine 0:
    loss = -log( e^(1/t) / (e^(1/t) + M) ),  t = 0.5, M = 64  ->  log(1 + 64 e^-2) = 2.2682
    """
    loss = reco_loss(*two_halves(), torch.zeros(1, 8, 8), **SETTINGS, generator=seeded())
    torch.testing.assert_close(loss, torch.log1p(64 * torch.exp(torch.tensor(-2.0))))


def test_a_class_without_a_hard_pixel_adds_zero_but_is_counted():
    embed, label = two_halves()
    prob = torch.where(label == 0, 0.2, 0.95)  # not below the threshold: not hard
    loss = reco_loss(embed, label, prob, **SETTINGS, generator=seeded())
    torch.testing.assert_close(loss, torch.log1p(64 * torch.exp(torch.tensor(-2.0))) / 2)


def test_prototypes_are_means_of_raw_embeddings():
    """Class 0 at (3, 0) and (0, 1): the raw mean points along (3, 1), the mean of directions along (1, 1)."""
    pixel = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [9.0, 9.0]])
    mean, classes = prototypes(pixel, torch.tensor([0, 0, 4, IGNORE], dtype=torch.uint8))
    assert classes.tolist() == [0, 4]
    assert mean.tolist() == [[1.5, 0.5], [-1.0, 0.0]]


@pytest.mark.parametrize("case", ["one class", "all ignored", "all sure"])
def test_degenerate_batches_give_zero_with_a_graph(case):
    embed, label = two_halves()
    embed.requires_grad_()
    prob = torch.zeros(1, 8, 8)
    if case == "one class":
        label.fill_(3)
    elif case == "all ignored":
        label.fill_(IGNORE)
    else:
        prob.fill_(1.0)
    loss = reco_loss(embed, label, prob, **SETTINGS, generator=seeded())
    loss.backward()
    assert loss.item() == 0
    assert not embed.grad.any()


def test_embeddings_that_are_no_numbers_give_a_loss_that_is_none():
    embed, label, prob = random_batch()
    embed[0, :, 0, 0] = torch.nan
    assert reco_loss(embed, label, prob, **SETTINGS, generator=seeded()).isnan()


def test_queries_are_hard_pixels_of_their_class_and_negatives_known_pixels_of_others():
    embed, label, prob = random_batch(3)
    prob[label == 3] = 1.0
    samples, _, classes = draw(embed, label, prob, queries=200)
    _, label, hard = flatten(embed, label, prob)
    anchor = classes[samples.anchor_J]
    assert anchor.tolist() == [0, 2, 7]
    assert (label[samples.query_JQ] == anchor.unsqueeze(1)).all()
    assert hard[samples.query_JQ].all()
    assert (label[samples.negative_JQM] != anchor.view(-1, 1, 1)).all()
    assert (label[samples.negative_JQM] != IGNORE).all()


@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-24])
def test_the_smallest_and_the_largest_random_number_stay_within_the_rules(monkeypatch, extreme):
    """The largest draw falls past neither the last pixel nor the last class, the smallest on no class of weight 0."""
    label = torch.arange(30).repeat_interleave(torch.tensor([1, 2, 32_769] * 10))
    mean, hard = torch.randn(30, 8, generator=seeded()), torch.ones(len(label), dtype=torch.bool)
    monkeypatch.setattr(torch, "rand", lambda *size, generator, device: torch.full(size, extreme, device=device))
    settings = {"temperature": 0.5, "queries": 2, "negatives": 2, "generator": seeded()}
    samples = sample_indices(label, hard, mean, torch.arange(30), **settings)
    assert (label[samples.query_JQ] == torch.arange(30).unsqueeze(1)).all()
    assert (label[samples.negative_JQM] != torch.arange(30).view(30, 1, 1)).all()


def test_every_hard_pixel_can_be_drawn_and_is_drawn_equally_often():
    embed, label, prob = random_batch(4)
    samples, _, classes = draw(embed, label, prob, queries=20_000, negatives=1)
    _, label, hard = flatten(embed, label, prob)
    for group, anchor in enumerate(samples.anchor_J):
        wanted = hard & (label == classes[anchor])
        share = torch.bincount(samples.query_JQ[group], minlength=len(label)) / 20_000
        torch.testing.assert_close(share, wanted / wanted.sum(), atol=0.015, rtol=0)


def test_negatives_follow_the_class_relation_first_and_are_uniform_within_a_class():
    embed, label, prob = random_batch(5)
    samples, mean, classes = draw(embed, label, prob, queries=500, negatives=200)
    label = label.flatten().numpy()
    unit = mean.double().numpy() / np.linalg.norm(mean.double().numpy(), axis=1, keepdims=True)
    for group, anchor in enumerate(samples.anchor_J.tolist()):
        weight = np.exp(unit @ unit[anchor] / SETTINGS["temperature"])
        weight[anchor] = 0
        weight /= weight.sum()
        expected = np.zeros(len(label))
        for c, w in zip(classes.tolist(), weight, strict=True):
            expected[label == c] = w / (label == c).sum()
        share = np.bincount(samples.negative_JQM[group].flatten(), minlength=len(label)) / 100_000
        np.testing.assert_allclose(share, expected, atol=0.004)


def test_gradient_reaches_hard_known_pixels_only():
    embed, label, prob = random_batch(6)
    embed.requires_grad_()
    reco_loss(embed, label, prob, **SETTINGS, generator=seeded()).backward()
    query = (label != IGNORE) & (prob < SETTINGS["hard_threshold"])
    assert not embed.grad.abs().sum(1)[~query].any()
    assert embed.grad.abs().sum(1)[query].any()


def test_same_generator_same_loss_whatever_the_memory_layout():
    embed, label, prob = random_batch(7)
    losses = [
        reco_loss(form, label.to(dtype), prob, **SETTINGS, generator=seeded(1))
        for form in (embed, embed.contiguous(memory_format=torch.channels_last))
        for dtype in (torch.uint8, torch.int64)
    ]
    assert len({loss.item() for loss in losses}) == 1
    assert losses[0].item() != reco_loss(embed, label, prob, **SETTINGS, generator=seeded(2)).item()


def test_class_numbers_are_names_not_quantities():
    embed, label, prob = random_batch(8, classes=(0, 1, 2, 3))
    renamed = torch.where(label == IGNORE, label, label * 20 + 5)
    losses = [reco_loss(embed, form, prob, **SETTINGS, generator=seeded()) for form in (label, renamed)]
    torch.testing.assert_close(losses[0], losses[1])


def test_autocast_and_half_precision_embeddings_are_contrasted_in_float32():
    embed, label, prob = random_batch(9)
    half = embed.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = reco_loss(half, label, prob, **SETTINGS, generator=seeded())
    loss.backward()
    assert loss.dtype == torch.float32
    assert half.grad.dtype == torch.bfloat16
    exact = reco_loss(half.detach().float(), label, prob, **SETTINGS, generator=seeded())
    torch.testing.assert_close(loss.detach(), exact)


def test_steps_downhill_separate_two_mixed_classes():
    generator = seeded()
    _, label = two_halves()
    embed = torch.randn(1, 4, 8, 8, generator=generator, requires_grad=True)
    losses = []
    for _ in range(30):
        loss = reco_loss(embed, label, torch.zeros(1, 8, 8), **SETTINGS, generator=generator)
        (gradient,) = torch.autograd.grad(loss, embed)
        embed = (embed - 50 * gradient).detach().requires_grad_()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
