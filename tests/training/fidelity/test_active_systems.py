"""EquAL, DEAL and S4AL as their authors train them."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.fidelity.given import CLOSE, a_batch, check, cost, given, labels, maps, mean_known, softmax
from tests.training.tiny import step
from training.batches.batch import Batch
from training.methods.s4al import half_of_the_classes


def test_equal_is_cross_entropy_of_both_views_and_two_squared_errors_of_logits():
    """EquAL section 3 and code: with z of the image and z' of its mirror image, mirrored back,
    L = CE(z, y) + CE(z', y) + mean (z - |z'|)^2 + mean (z' - |z|)^2; |.| is constant, means over pixels and classes.
    The value is twice one squared error, the gradient in each view that of one."""
    z, mirrored, y, y_u, here = maps(3), maps(3, seed=5), labels(2), labels(1, seed=1, ignored=0.7), step()
    trained = given("equal", here)
    trained.network.tell(np.concatenate([z, mirrored]))
    found = trained(a_batch(2, 1, target=y, target_u=y_u), here)
    both = np.concatenate([y, y_u])
    back, constant, fixed = mirrored[..., ::-1], z.copy(), mirrored[..., ::-1].copy()
    np.testing.assert_allclose(
        torch.stack(list(found.values())).sum().item(),
        mean_known(z, both) + mean_known(back, both) + 2 * ((z - back) ** 2).mean(),
        **CLOSE,
    )

    def to_differentiate(x):
        own, other = x[:3], x[3:, ..., ::-1]
        apart = ((own - fixed) ** 2).mean() + ((other - constant) ** 2).mean()
        return mean_known(own, both) + mean_known(other, both) + apart

    check(found, trained.network.logits, to_differentiate, np.concatenate([z, mirrored]))


def test_logits_2_0_and_0_2_cost_8_where_our_squared_distance_of_probabilities_is_116():
    """The audit's hand value: (2, 0) against (0, 2) at one pixel: 4 + 4; |p - p'|^2 = 2 tanh(1)^2 = 1.16."""
    z = np.zeros((2, 2, 1, 1))
    z[0, 0], z[1, 1] = 2, 2
    image = torch.zeros(1, 3, 1, 1, dtype=torch.uint8)
    one = Batch(image, torch.zeros(1, 1, 1, dtype=torch.uint8), image[:0], torch.zeros(0, 1, 1, dtype=torch.uint8))
    for methods, expected in (({}, 8.0), ({"equal": {"distance": "probabilities"}}, 2 * np.tanh(1) ** 2)):
        here = step(methods=methods)
        trained = given("equal", here)
        trained.network.tell(z)
        assert trained(one, here)["consistency"].item() == pytest.approx(expected, rel=1e-6)
    assert 2 * np.tanh(1) ** 2 == pytest.approx(1.16, abs=0.001)


def test_equal_looks_at_no_image_of_which_nothing_is_labelled():
    """The pool of the first training is empty: it takes no views of images that nobody has annotated."""
    trained = given("equal", step())
    assert trained.views(step().methods) is None
    assert trained.views(step(methods={"equal": {"images": "all"}}).methods) == 0


class Told(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits))

    def forward(self, _):
        return self.logits


def deal_loss(d_logit, wrong):
    """w_right mean_right -log(1 - d) + w_wrong mean_wrong -log d, w = 1 / sqrt(n + 1) over their sum."""
    d = 1 / (1 + np.exp(-d_logit))
    weight = 1 / np.sqrt(np.array([(~wrong).sum(), wrong.sum()]) + 1)
    right_part, wrong_part = (x.mean() if x.size else 0.0 for x in (-np.log(1 - d[~wrong]), -np.log(d[wrong])))
    return (weight / weight.sum()) @ [right_part, wrong_part]


@pytest.mark.parametrize("all_right", [False, True])
def test_deal_balances_right_and_wrong_pixels_by_the_root_of_their_numbers(all_right):
    """DEAL section 3.2 and code: pixels without label count as right; the mask and the weights are constant."""
    z, d, y, here = maps(2), maps(2, seed=3)[:, :1], labels(2), step()
    if all_right:
        y = z.argmax(1).astype(np.uint8)
    wrong = (y != 255) & (z.argmax(1) != y)
    assert (wrong.sum() == 0) == all_right
    trained = given("deal", here)
    trained.network.tell(z)
    trained.network.difficulty = Told(d)
    check(
        trained(a_batch(2, 0, target=y), here),
        [trained.network.logits[0], trained.network.difficulty.logits],
        lambda x, x_d: mean_known(x, y) + deal_loss(x_d[:, 0], wrong),
        z,
        d,
    )


def test_a_tenth_of_the_pixels_wrong_at_2_nats_cost_1523():
    """The audit's hand value: 1,000 pixels, binary cross entropy 2.0 on the 100 wrong and 0.1 on the others: weights
    0.251 and 0.749, so 1.523; ours, a mean with the shares as weights: 0.189."""
    wrong = np.arange(1000) < 100
    d = np.where(wrong, np.exp(-2.0), 1 - np.exp(-0.1))
    logit = np.log(d / (1 - d)).reshape(1, 1, 20, 50)
    z = np.zeros((1, 2, 20, 50))
    z[:, 0] = 1
    target = torch.from_numpy(wrong.reshape(1, 20, 50).astype(np.uint8))
    image = torch.zeros(1, 3, 20, 50, dtype=torch.uint8)
    one = Batch(image, target, image[:0], target[:0])
    for methods, expected in (({}, 1.523), ({"deal": {"balance": "share"}}, 0.189)):
        here = step(methods=methods)
        trained = given("deal", here)
        trained.network.tell(z)
        trained.network.difficulty = Told(logit)
        assert trained(one, here)["difficulty"].item() == pytest.approx(expected, abs=5e-4)
    assert deal_loss(logit.ravel(), wrong) == pytest.approx(1.523, abs=5e-4)


def test_s4al_weighs_a_mixed_image_by_its_share_of_sure_pixels_and_a_pixel_by_its_confidence():
    """S4AL section 3.2 and code: pseudo-label, image and confidence are mixed class by class; with s_b the share of
    pixels of confidence >= 0.97, L = CE(x_l) + (1 / pixels) sum_b s_b sum_i p_i CE_i.  The draw of classes is given."""
    here = step(methods={"s4al": {"cold_start": 0, "threshold": 0.6}}, done=0.5)
    taught, z, y = 2 * maps(2, seed=7), maps(4), labels(2)
    trained = given("s4al", here)
    trained.network.tell(z)
    trained.teacher.network.tell(taught)
    found = trained(a_batch(2, 2, views=1, target=y), here)
    p = softmax(taught)
    label, sure = p.argmax(1), p.max(1)
    seen = torch.ones(2, 2, 3, dtype=torch.bool)
    own = half_of_the_classes(torch.from_numpy(label), seen, 3, torch.Generator().manual_seed(0)).numpy()
    label_m, sure_m = (np.where(own, one, one[::-1]) for one in (label, sure))
    share = (sure_m >= 0.6).mean((1, 2))
    assert 0 < share.min() < 1

    def expected(x):
        return mean_known(x[:2], y) + (share[:, None, None] * sure_m * cost(x[2:], label_m)).sum() / label.size

    check(found, trained.network.logits, expected, z)


def test_the_cold_start_of_s4al_is_15_times_the_cross_entropy():
    """Code: 1.5 CE(x_l) alone in the first 10 epochs."""
    here, z, y = step(), maps(2), labels(2)
    trained = given("s4al", here)
    trained.network.tell(z)
    found = trained(a_batch(2, 2, views=1, target=y), here)
    check(found, trained.network.logits, lambda x: 1.5 * mean_known(x, y), z)
