import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from querying.dataset.label_values import IGNORE
from tests.training.tiny import SMALL_U2PL, TinyNet, batch, method, step, total
from training.batches.batch import Batch
from training.fit.optim import set_lr
from training.methods.registry import METHODS
from training.network.deeplab import Output, normalise
from training.settings.training import ReCoSettings
from training.settings.traits import TRAITS

MILD = {"mean_teacher": {"weight": 1}, "cct": {"weight": 1}, "u2pl": SMALL_U2PL}
APART = {"self_training": {"mean": "apart"}}
NO_RECO = ReCoSettings(weight=0)


class Uniform(nn.Module):
    """Equal logits for three classes; no representation head."""

    def __init__(self, embedding, seed):
        super().__init__()

    def forward(self, x):
        return Output(torch.zeros(len(x), 3, 2, 2, requires_grad=True), None)


def test_every_row_names_a_method_of_its_own_and_other_rows_that_exist():
    assert len(set(METHODS.values())) == len(METHODS) == len(TRAITS)
    for name, traits in TRAITS.items():
        assert {traits.first or name, traits.later or name} <= set(TRAITS)
        assert not (traits.labels_pool and traits.first), "a method that labels the pool itself trains from cycle 0"
        assert traits.pool != "pseudo" or traits.first or traits.later, name


def test_uniform_logits_cost_the_logarithm_of_the_number_of_classes():
    """CE = ln 3 for every pixel, so for the mean over both streams, too; the pool's is weighted."""
    here = step(unlabelled_weight=0.5, methods=APART)
    parts = method("self_training", here, Uniform)(batch(), here)
    assert parts["ce"].item() == pytest.approx(math.log(3), rel=1e-6)
    assert parts["ce_u"].item() == pytest.approx(0.5 * math.log(3), rel=1e-6)
    assert set(method("supervised", here, Uniform)(batch(), here)) == {"ce"}


def test_the_cross_entropy_is_taken_at_full_resolution():
    one, here = batch(), step(NO_RECO)
    supervised = method("supervised", here)
    found = supervised(one._replace(image_u=one.image_u[:0], target_u=one.target_u[:0]), here)["ce"]
    assert found.item() == pytest.approx(-log_likelihoods(supervised, one.image, one.target).mean(), rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_weights_that_are_no_numbers_give_a_loss_that_is_none(name):
    """It is what ends a training that has diverged, with the right words."""
    here = step(done=0.5, methods={"u2pl": SMALL_U2PL})
    lost = method(name, here)
    for parameter in lost.parameters():
        parameter.data.fill_(torch.nan)
    assert total(lost(batch(pool=2, views=METHODS[name].strong_views), here)).isnan()


def log_likelihoods(method, image, target):
    """Of all known pixels."""
    logits = F.interpolate(method.network(normalise(image)).logits, target.shape[1:], mode="bilinear")
    log_p = logits.double().log_softmax(1).detach().numpy()
    places = zip(*(target != IGNORE).nonzero().T.tolist(), strict=True)
    return np.array([log_p[b, target[b, y, x], y, x] for b, y, x in places])


def test_a_cell_counts_as_many_pixels_as_it_has_in_supervised_training():
    one, here = batch(pool=3), step(NO_RECO)
    one.target_u[:, 2:] = IGNORE
    one.target_u[0] = IGNORE
    supervised = method("supervised", here)
    known = [log_likelihoods(supervised, *pair) for pair in ((one.image, one.target), (one.image_u, one.target_u))]
    assert [len(part) for part in known] == [128, 32]
    assert supervised(one, here)["ce"].item() == pytest.approx(-np.concatenate(known).mean(), rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_any_known_pixel_costs_nothing_and_still_has_a_graph(name):
    one, here = batch(pool=2, views=METHODS[name].strong_views), step(done=0.5)
    empty = one._replace(
        target=torch.full_like(one.target, IGNORE),
        target_u=torch.full_like(one.target_u, IGNORE),
        seen_u=torch.zeros_like(one.seen_u),
    )
    trained = method(name, here)
    loss = total(trained(empty, here))
    loss.backward()
    if name not in ("equal", "deal"):  # whose authors also count pixels without label
        assert loss.item() == 0.0
    assert all(p.grad is not None for p in trained.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", METHODS)
def test_every_trained_parameter_gets_a_gradient_no_other_and_the_loss_falls(name):
    one, here = (
        batch(pool=2, views=METHODS[name].strong_views),
        step(done=0.5, methods=MILD),
    )
    trained = method(name, here)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    others = {k: v.clone() for k, v in trained.state_dict().items() if k.startswith("teacher.")}
    optimizer = torch.optim.SGD([{"params": parameters, "lr_scale": 1.0}], lr=0.05, momentum=0.9)
    set_lr(optimizer, 0.05)
    losses = []
    for number in range(30):
        torch.manual_seed(number)
        loss = total(trained(one, here._replace(generator=torch.Generator().manual_seed(number))))
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in parameters)
        assert all(p.grad is None for p in trained.parameters() if not p.requires_grad)
        optimizer.step()
        if number == 0:  # only `after_step` moves a teacher
            assert all(torch.equal(trained.state_dict()[k], v) for k, v in others.items())
        trained.after_step(number)
        losses.append(loss.item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_an_empty_pool_leaves_the_supervised_loss():
    for mean in ("all", "known", "apart"):
        losses = []
        for name in ("self_training", "supervised"):
            here = step(methods={"self_training": {"mean": mean}})
            losses.append(total(method(name, here)(batch(pool=0), here)).item())
        assert losses[0] == losses[1]


def test_pool_pixels_that_are_ignored_do_not_count():
    """Only one pool pixel is known; its cross entropy is the pool's mean."""
    one, here = batch(), step(NO_RECO, APART)
    target_u = torch.full_like(one.target_u, IGNORE)
    target_u[0, 3, 4] = 2
    trained = method("self_training", here)
    found = trained(one._replace(target_u=target_u), here)["ce_u"]
    logits = F.interpolate(trained.network(normalise(one.image_u)).logits, (8, 8), mode="bilinear")
    assert found.item() == pytest.approx(-logits.log_softmax(1)[0, 2, 3, 4].item(), rel=1e-5)


def test_hard_pixels_alone_are_learned_where_the_recipe_says_so():
    one, here = batch(), step(NO_RECO, ohem=0.3, ohem_keep=5)
    trained = method("supervised", here)
    logits = F.interpolate(trained.network(normalise(one.image)).logits, (8, 8), mode="bilinear")
    p = logits.double().softmax(1).gather(1, one.target.long()[:, None]).flatten()
    hard = p[p <= max(0.3, p.sort().values[4])]
    assert 5 < len(hard) < len(p)
    assert trained(one, here)["ce"].item() == pytest.approx(-hard.log().mean().item(), rel=1e-5)
    hard = p[p <= p.sort().values[4]]  # pixels of equal probability stay together
    assert 5 <= len(hard) < 20
    fewer = step(NO_RECO, ohem=1e-6, ohem_keep=5)
    assert trained(one, fewer)["ce"].item() == pytest.approx(-hard.log().mean().item(), rel=1e-5)


def test_fewer_known_pixels_than_are_to_be_kept_are_all_learned():
    one, here = batch(), step(NO_RECO, ohem=0.3, ohem_keep=1000)
    one.target[0] = IGNORE
    trained = method("supervised", here)
    assert trained(one, here)["ce"].item() == pytest.approx(trained(one, step(NO_RECO))["ce"].item(), rel=1e-5)


def test_a_batch_moves_as_a_whole():
    one = batch(views=2)
    assert one.to(torch.device("cpu")) is one
    assert Batch(*one[:4]).strong_u.numel() == 0


def test_networks_of_a_method_start_from_other_values():
    pair = method("cps", step())
    assert not torch.equal(pair.network.head.weight, pair.second.head.weight)
    assert isinstance(pair.network, TinyNet)
