"""Mean teacher, CPS, CCT, UniMatch, AEL and U2PL against their equations; random draws are given."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.fidelity.given import (  # fmt: skip
    CLASSES,
    CLOSE,
    DIM,
    HEIGHT,
    WIDTH,
    a_batch,
    check,
    cost,
    drawn,
    given,
    labels,
    maps,
    mean_known,
    slope,
    softmax,
)
from tests.training.tiny import step
from training.method_parts.mixing import boxes
from training.method_parts.parts import pixel_mean
from training.methods.ael import copies, cuts
from training.methods.cct import AuxiliaryDecoder
from training.methods.u2pl import U2PL

EVERYWHERE = np.ones((2, HEIGHT, WIDTH), bool)


def test_mean_teacher_is_cross_entropy_and_100_times_the_squared_difference_of_probabilities():
    """Tarvainen & Valpola section 2; French et al. section 3; weight of CPS's code:
    L = CE(x_l) + 100 w(t) mean (p_s - p_t)^2 over pixels and classes of both kinds of image; w(0.05) = exp(-1.25)."""
    z, taught, y, here = maps(4), maps(4, seed=3), labels(2), step(done=0.05)
    trained = given("mean_teacher", here)
    trained.network.tell(z)
    trained.teacher.network.tell(taught)
    found = trained(a_batch(2, 2, views=1, target=y), here)
    counted = np.concatenate([y != 255, EVERYWHERE])

    def expected(x):
        apart = ((softmax(x) - softmax(taught)) ** 2).mean(1)
        return mean_known(x[:2], y) + 100 * np.exp(-1.25) * apart[counted].mean()

    check(found, trained.network.logits, expected, z)


@pytest.mark.parametrize("passes", ["separate", "joint"])
def test_cps_is_each_networks_label_for_the_other_over_labelled_and_pool_images(passes):
    """CPS section 3, L = L_s + lambda (L_cps^l + L_cps^u), code: one mean over the pixels of both kinds, lambda 6:
    sum_k CE(z_k, y) + 6 [CE(z_1, argmax z_2) + CE(z_2, argmax z_1)]; what nobody knows is left out (ours)."""
    z, other, y, here = maps(4), maps(4, seed=3), labels(2), step(methods={"cps": {"passes": passes}})
    trained = given("cps", here)
    for network, one in ((trained.network, z), (trained.second, other)):
        network.tell(*((one[:2], one[2:]) if passes == "separate" else (one,)))
    found = trained(a_batch(2, 2, target=y), here)
    known = np.concatenate([y != 255, EVERYWHERE])
    label = [np.where(known, one.argmax(1), 255) for one in (z, other)]

    def expected(*parts):
        half = len(parts) // 2
        x, x2 = np.concatenate(parts[:half]), np.concatenate(parts[half:])
        cross = mean_known(x, label[1]) + mean_known(x2, label[0])
        return mean_known(x[:2], y) + mean_known(x2[:2], y) + 6 * cross

    told = [*trained.network.logits, *trained.second.logits]
    check(found, told, expected, *(one.detach().numpy() for one in told))


@pytest.mark.parametrize("passes", ["separate", "joint"])
@pytest.mark.parametrize(
    ("ohem", "wrong", "freed"), [(None, 1, False), (0.7, 6, False), (0.7, 3, False), (0.7, 1, True)]
)
def test_labels_free_a_class_that_both_networks_of_cps_agree_on_only_where_few_pixels_are_hard(
    passes, ohem, wrong, freed
):
    """Why CPS collapses (docs/how_it_works/fidelity.md).  Both networks call a look of pixel b, with p_b = 0.51; its
    label is k, and it is a share h of all pixels.  The labels pull to k with (1 / h) h (1 - p_k) where OHEM counts
    these alone, else with h (1 - p_k); the other network pulls to b with lambda h p_k.  With lambda = 6, k wins only
    where OHEM counts less than about a sixth of the pixels (h is 1 to 6 of 12 here).  Neither passes nor rates are in
    it."""
    here = step(methods={"cps": {"passes": passes}}, ohem=ohem, ohem_keep=1)
    y, z = np.ones((2, 1, 12), np.uint8), np.zeros((4, 2, 1, 12))
    z[:, 1] = 30.0  # class 1 is sure and right everywhere, but ...
    y[..., :wrong], z[:, 1, :, :wrong] = 0, np.log(0.51 / 0.49)
    trained = given("cps", here)
    for network in (trained.network, trained.second):
        network.tell(*((z[:2], z[2:]) if passes == "separate" else (z,)))
    seen = np.ones((1, 2, 1, 12), bool)
    one = a_batch(2, 2, target=y, target_u=np.full((2, 1, 12), 255, np.uint8), seen=seen)
    torch.stack(list(trained(one, here).values())).sum().backward()
    pull = -sum(part.grad[:, 0, :, :wrong].sum().item() for part in trained.network.logits)
    share = wrong / 12
    expected = (1 if ohem else share) * 0.51 - 6 * share * 0.49
    assert pull == pytest.approx(expected, abs=1e-6)
    assert (pull > 0) == freed


class Told(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits))

    def forward(self, *_):
        return self.logits


def test_cct_is_cross_entropy_and_the_mean_squared_difference_of_auxiliary_decoders():
    """CCT equations 1 to 3: L = CE(x_l) + w(t) (1 / K) sum_k mean (p_k - |p|)^2, weight 30."""
    settings = {"noise": 1, "dropout": 1, "drop": 0, "vat": 0}
    here, z, y = step(methods={"cct": settings}, done=0.05), maps(4), labels(2)
    auxiliary = [maps(2, seed=seed) for seed in (4, 5)]
    trained = given("cct", here)
    trained.network.tell(z)
    trained.decoders = nn.ModuleList(Told(one) for one in auxiliary)
    found = trained(a_batch(2, 2, target=y), here)
    main = softmax(z[2:])

    def expected(x, *others):
        apart = np.mean([((softmax(one) - main) ** 2).mean() for one in others])
        return mean_known(x[:2], y) + 30 * np.exp(-1.25) * apart

    told = [trained.network.logits[0], *(one.logits for one in trained.decoders)]
    check(found, told, expected, z, *auxiliary)


@pytest.mark.parametrize(("kind", "sure"), [("relu", 1 / (1 + np.exp(-1))), ("linear", 1 / (1 + np.exp(-3)))])
def test_ccts_auxiliary_decoder_ends_in_a_relu_so_that_no_logit_is_below_0(kind, sure):
    """CCT's code: a 1x1 convolution to the classes, then convolution, ReLU and sub-pixel upsampling for each doubling.
    A convolution that gives (1, -2): p = 1 / (1 + e^-1) = .731; without the ReLU, ours, 1 / (1 + e^-3) = .953."""
    decoder = AuxiliaryDecoder(2, 2, kind)
    with torch.no_grad():
        decoder.classify.weight.copy_(torch.eye(2)[..., None, None])
        for number, conv in enumerate(decoder.expand):
            conv.weight.zero_()
            conv.bias.copy_(torch.tensor([1.0, -2.0]).repeat_interleave(4) if number else torch.zeros(8))
        p = decoder(torch.ones(1, 2, 3, 4), torch.Size((12, 16))).softmax(1)
    np.testing.assert_allclose(p[:, 0].numpy(), sure, rtol=1e-6)


def test_ccts_first_weights_make_every_doubling_repeat_its_pixels():
    """ICNR (Aitken et al. 2017): the four pixels of a place are equal at the start; so are those of both doublings."""
    decoder = AuxiliaryDecoder(5, 3)
    with torch.no_grad():
        for conv in decoder.expand:
            conv.bias.zero_()
        found = decoder(torch.randn(1, 5, 2, 3), torch.Size((8, 12)))
    blocks = found.reshape(1, 3, 2, 4, 3, 4)
    assert torch.equal(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))
    assert found.unique().numel() > 3


def test_unimatch_is_half_labels_and_half_strong_and_feature_views_of_the_weak_label():
    """UniMatch equations 4 to 6, code: L = 1/2 [CE(x_l) + 1/4 CE(s1) + 1/4 CE(s2) + 1/2 CE(fp)]; the threshold decides
    what is learned and not what is counted; s1 and s2 get boxes of the image before them, with its label."""
    here = step(methods={"unimatch": {"threshold": 0.5, "cutmix": 1.0}})
    z, strong, y = maps(6), maps(4, seed=3), labels(2)
    trained = given("unimatch", here)
    trained.network.tell(z, strong)
    found = trained(a_batch(2, 2, views=2, target=y), here)
    g = torch.Generator().manual_seed(0)
    masks = [boxes((2, HEIGHT, WIDTH), area=(0.02, 0.4), aspect=1 / 0.3, generator=g).numpy() for _ in range(2)]
    p = softmax(z[2:4])
    label, sure = p.argmax(1), p.max(1)

    def learn(x, mask):
        one, confidence = (np.where(mask, v[::-1], v) for v in (label, sure))
        return (cost(x, one) * (confidence >= 0.5)).mean()

    def expected(x, s):
        views = sum(learn(part, mask) for part, mask in zip((s[:2], s[2:]), masks, strict=True))
        return 0.5 * mean_known(x[:2], y) + 0.125 * views + 0.25 * learn(x[4:], np.zeros_like(EVERYWHERE))

    check(found, trained.network.logits, expected, z, strong)


def test_unimatch_v2_is_half_labels_and_half_two_strong_views_of_an_averaged_teachers_label():
    """UniMatch V2, code: L = 1/2 [CE(x_l) + 1/2 (CE(s1) + CE(s2))]; s1 and s2 get boxes of the image at the mirrored
    place, with the teacher's label and confidence of it; the threshold decides what is learned and not what counts."""
    here = step(methods={"unimatch_v2": {"threshold": 0.5, "cutmix": 1.0}})
    z, strong, taught, y = maps(2), maps(6, seed=3), maps(3, seed=4), labels(2)
    trained = given("unimatch_v2", here)
    trained.network.tell(z, strong)
    trained.teacher.network.tell(taught)
    found = trained(a_batch(2, 3, views=2, target=y), here)
    g = torch.Generator().manual_seed(0)
    masks = [boxes((3, HEIGHT, WIDTH), area=(0.02, 0.4), aspect=1 / 0.3, generator=g).numpy() for _ in range(2)]
    p = softmax(taught)

    def learn(x, mask):
        one, confidence = (np.where(mask, v[::-1], v) for v in (p.argmax(1), p.max(1)))
        return (cost(x, one) * (confidence >= 0.5)).mean()

    def expected(x, s):
        return 0.5 * (mean_known(x, y) + 0.5 * (learn(s[:3], masks[0]) + learn(s[3:], masks[1])))

    check(found, trained.network.logits, expected, z, strong)


def test_ael_samples_pool_pixels_by_class_and_weighs_them_by_squared_confidence():
    """AEL section 3.3: L_u = sum_i w_i CE_i / sum_i w_i, w_i = max(p_i)^2 Bernoulli(r_k), r_k = (1 - b_k) / max(1 - b);
    the bank b has moved by the step's labels before."""
    here = step(methods={"ael": {"copy_paste": 0.0, "cutmix": 0.0}})
    z, taught, y = maps(4), maps(2, seed=3), labels(2, ignored=0)
    trained = given("ael", here)
    trained.network.tell(z)
    trained.teacher.network.tell(taught)
    with torch.no_grad():
        trained.confidence.copy_(torch.tensor([0.9, 0.5, 0.2]))
        trained.sightings.fill_(5000)
    found = trained(a_batch(2, 2, target=y), here)
    own = np.exp(-cost(z[:2], y))
    bank = np.array([0.9, 0.5, 0.2])
    for k in range(CLASSES):
        bank[k] = 0.999 * bank[k] + 0.001 * own[y == k].mean()
    np.testing.assert_allclose(trained.confidence.numpy(), bank, **CLOSE)
    g, wanted = torch.Generator().manual_seed(0), torch.tensor([0.9, 0.5, 0.2], dtype=torch.float64)
    wanted = (1 - wanted).softmax(0)
    p = softmax(taught)
    label, sure = p.argmax(1), p.max(1)
    copies(torch.from_numpy(y), wanted, here.methods.ael, g)  # draws that change nothing here
    cuts(torch.from_numpy(label), torch.from_numpy(EVERYWHERE), wanted, here.methods.ael, g)
    chance = torch.rand(label.shape, generator=g).numpy()
    sampled = chance < ((1 - bank) / (1 - bank).max())[label]
    assert 0 < sampled.sum() < sampled.size
    weight = sure**2 * sampled
    check(
        found,
        trained.network.logits,
        lambda x: mean_known(x[:2], y) + (weight * cost(x[2:], label)).sum() / weight.sum(),
        z,
    )


def test_weights_of_ael_that_sum_to_less_than_1_still_divide_by_their_sum():
    """One pixel of confidence .5, cost 2: (.25 * 2) / .25 = 2.0 (a denominator of at least 1 would give .5)."""
    weight, cost_ = torch.tensor([0.25, 0.0]), torch.tensor([2.0, 7.0], requires_grad=True)
    found = pixel_mean(weight * cost_, weight > 0, weight, step())
    assert found.item() == pytest.approx(2.0, rel=1e-6)
    found.backward()
    assert cost_.grad.tolist() == pytest.approx([1.0, 0.0])


def test_u2pl_learns_reliable_pixels_scaled_up_and_leaves_out_the_rest():
    """U2PL equations 3 to 6: pool pixels whose teacher entropy lies below its percentile 100 - 20 (1 - t / T); L_u is
    their mean times all pixels over theirs.  t = 0.5 T, no CutMix, no anchors."""
    methods = {"u2pl": {"cutmix": 0.0, "confident": 1.0, "memory": 5, "unreliable": 0.6}}
    here, z, y = step(methods=methods, done=0.5), maps(4), labels(2)
    taught = maps(4, seed=3)
    trained = given("u2pl", here)
    embed = drawn(4, DIM, HEIGHT, WIDTH, seed=9)
    trained.network.tell(z, embeddings=[embed])
    trained.teacher.network.tell(taught[2:], taught, embeddings=[embed[2:], embed])
    found = trained(a_batch(2, 2, target=y), here)
    p = softmax(taught[2:])
    unsure = -(p * np.log(p)).sum(1)
    reliable = unsure < np.quantile(unsure, 1 - 0.6 * 0.5)
    assert 0 < reliable.sum() < reliable.size
    label, scarce = p.argmax(1), reliable.size / reliable.sum()

    def expected(x):
        return mean_known(x[:2], y) + scarce * cost(x[2:], label)[reliable].mean()

    check(found, trained.network.logits, expected, z)


def test_u2pls_contrast_is_infonce_between_class_means_and_the_memory():
    """U2PL equation 8: -log [e^(cos(z, z+) / tau) / (e^(cos(z, z+) / tau) + sum_j e^(cos(z, z_j) / tau))], mean over
    anchors and classes; anchors, positive and negatives as drawn."""
    methods = {"u2pl": {"memory": 6, "anchors": 4, "negatives": 3, "confident": 0.0}}
    here = step(methods=methods)
    trained = given("u2pl", here)
    assert isinstance(trained, U2PL)
    key, embed, stored = drawn(8, DIM, seed=1), drawn(8, DIM, seed=2), drawn(CLASSES, 6, DIM, seed=3)
    p, label = softmax(drawn(8, CLASSES, seed=4)), np.array([0, 0, 1, 1, 1, 2, 2, 255])
    with torch.no_grad():
        trained.memory.copy_(torch.from_numpy(stored))
        trained.entered.fill_(6)
    x = torch.from_numpy(embed).requires_grad_()
    arguments = (torch.from_numpy(key), torch.from_numpy(p), torch.from_numpy(label), here.methods.u2pl)
    found = trained.contrast(x, *arguments, torch.Generator().manual_seed(0))
    g = torch.Generator().manual_seed(0)
    draws = torch.rand(3, 4, generator=g).numpy(), torch.rand(3, 4, 3, generator=g).numpy()

    def unit(v):
        return v / np.linalg.norm(v, axis=-1, keepdims=True)

    def expected(values):
        total = 0.0
        for k in range(CLASSES):
            pixels = np.flatnonzero(label == k)
            query = unit(values[pixels[(draws[0][k] * len(pixels)).astype(int)]])
            positive = unit(key[pixels].mean(0))
            negative = unit(stored[k, (draws[1][k] * 6).astype(int)])
            logits = np.concatenate([(query @ positive)[:, None], np.einsum("ad,amd->am", query, negative)], 1) / 0.5
            total += -np.log(softmax(logits)[:, 0]).mean()
        return total / CLASSES

    np.testing.assert_allclose(found.item(), expected(embed), **CLOSE)
    found.backward()
    np.testing.assert_allclose(x.grad.numpy(), slope(expected, embed), rtol=1e-6, atol=1e-8)
