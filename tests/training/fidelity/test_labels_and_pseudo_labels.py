"""Supervised training, S4AL+ and ST++: cross entropy, and over how many pixels its mean runs."""

import numpy as np
import pytest
import torch

from tests.training.fidelity.given import CLASSES, CLOSE, Given, a_batch, check, cost, given, labels, maps, mean_known
from tests.training.tiny import step
from training.batches.batch import Batch
from training.methods.registry import METHODS
from training.settings.training import ReCoSettings

PLAIN = ReCoSettings(weight=0)


def test_supervised_is_the_mean_over_labelled_pixels():
    """L = (1 / |known|) sum_i -log p_i(y_i), over whole images and bought cells alike."""
    z, y, y_u = maps(3), labels(2), labels(1, seed=1, ignored=0.8)
    trained = given("supervised", step(PLAIN))
    trained.network.tell(z)
    check(
        trained(a_batch(2, 1, target=y, target_u=y_u), step(PLAIN)),
        trained.network.logits,
        lambda x: mean_known(x, np.concatenate([y, y_u])),
        z,
    )


@pytest.mark.parametrize("keep", [1, 5])
def test_hard_pixels_are_those_below_the_threshold_and_at_least_so_many(keep):
    """OHEM (CPS's, U2PL's and AEL's code): known pixels with p_i(y_i) <= max(0.7, k-th smallest), and their mean."""
    z, y, here = 2 * maps(2), labels(2), step(PLAIN, ohem=0.2, ohem_keep=keep)
    trained = given("supervised", here)
    trained.network.tell(z)

    def expected(x):
        p = np.exp(-cost(x, y))[y != 255]
        hard = p <= max(0.2, np.sort(p)[keep - 1])
        return -np.log(p[hard]).mean()

    check(trained(a_batch(2, 0, target=y), here), trained.network.logits, expected, z)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_s4al_plus_is_one_mean_over_all_pixels_of_labelled_and_pool_images(weight):
    """S4AL+ section 3.2, code: labelled and pool images are one batch of N pixels, ignored ones too (they cost 0):
    L = (1 / N) [sum_l -log p(y) + sum_u -log p(yhat)]."""
    z, y, y_u, here = maps(5), labels(2), labels(3, seed=1, ignored=0.4), step(PLAIN, unlabelled_weight=weight)
    trained = given("self_training", here)
    trained.network.tell(z)
    found = trained(a_batch(2, 3, target=y, target_u=y_u), here)
    total = 5 * y[0].size
    check(
        found,
        trained.network.logits,
        lambda x: (cost(x[:2], y).sum() + weight * cost(x[2:], y_u).sum()) / total,
        z,
    )


def test_at_the_audits_shares_our_two_means_weigh_a_pixel_364_and_232_percent():
    """2 labelled and 4 pool images of 1,000 pixels, 82.5 % and 64.7 % of them known: a labelled pixel weighs 1 / 1,650
    in our sum of two means and 1 / 6,000 in the authors' mean, a pool pixel 1 / 2,588 and 1 / 6,000."""
    image = torch.zeros(6, 3, 20, 50, dtype=torch.uint8)
    target = torch.full((6, 1000), 255, dtype=torch.uint8)
    target[:2, :825], target[2:, :647] = 0, 0
    target = target.view(6, 20, 50)
    one, gradients = Batch(image[:2], target[:2], image[2:], target[2:]), {}
    for name, methods in (("authors", {}), ("ours", {"self_training": {"mean": "apart"}})):
        here = step(PLAIN, methods)
        trained = METHODS["self_training"](lambda _: Given(), here)
        trained.network.tell(np.zeros((6, CLASSES, 20, 50)))
        torch.stack(list(trained(one, here).values())).sum().backward()
        gradients[name] = trained.network.logits[0].grad[:, 0, 0, 0].numpy()
    np.testing.assert_allclose(gradients["authors"], -(1 - 1 / CLASSES) / 6000, **CLOSE)
    ratio = gradients["ours"] / gradients["authors"]
    np.testing.assert_allclose(ratio, [6000 / 1650] * 2 + [6000 / 2588] * 4, **CLOSE)
    assert [round(float(ratio[0]), 2), round(float(ratio[-1]), 2)] == [3.64, 2.32]


def test_st_plus_plus_students_are_one_mean_over_the_known_pixels_of_both():
    """ST++ section 3.1, code: labelled and pseudo-labelled images are one list, and L the mean over known pixels."""
    here = step(PLAIN, {"self_training": {"mean": "known"}})
    z, y, y_u = maps(4), labels(2), labels(2, seed=1, ignored=0.1)
    trained = given("self_training", here)
    trained.network.tell(z)
    check(
        trained(a_batch(2, 2, target=y, target_u=y_u), here),
        trained.network.logits,
        lambda x: mean_known(x, np.concatenate([y, y_u])),
        z,
    )
