"""UniMatch V2: its loss in NumPy and float64, its masks, its teacher."""

import numpy as np
import pytest
import torch
from torch import nn

from querying.dataset.label_values import IGNORE
from tests.training.tiny import TinyNet, batch, method, step, total
from training.method_parts.mixing import boxes
from training.methods.unimatch_v2 import complementary
from training.network.deeplab import normalise


def relu(x):
    return np.maximum(x, 0)


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def cost(p, label):
    return -np.log(np.take_along_axis(p, label[:, None].astype(int), 1)[:, 0])


def tiny_logits(network, images, factors=None):
    """The tiny network (three matrices at each pixel) with its two maps multiplied by (B, 8) numbers."""
    state = {name: tensor.double().numpy() for name, tensor in network.state_dict().items()}

    def matrix(name, x):
        return np.einsum("oc,bchw->bohw", state[f"{name}.weight"][..., 0, 0], x) + state[f"{name}.bias"][:, None, None]

    low = relu(matrix("low", normalise(images).double().numpy()))
    deep = relu(matrix("deep", low))
    both = [x if factors is None else x * factors[:, :, None, None] for x in (low, deep)]
    return matrix("head", np.concatenate(both, axis=1))


def pixelwise(here):
    trained = method("unimatch_v2", here, stride=1)
    torch.manual_seed(3)
    with torch.no_grad():  # a teacher that says something else
        for parameter in trained.teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return trained


def of_step(pool, whole):
    """The draws of a step: the boxes of the two views, the pairs that stay whole, the channels of the others."""
    g = torch.Generator().manual_seed(0)
    masks = [boxes((pool, 8, 8), area=(0.02, 0.4), aspect=1 / 0.3, generator=g).numpy() for _ in range(2)]
    left = torch.rand(pool, generator=g).argsort()[: int(pool * whole)].numpy()
    first = np.where(torch.rand(pool, 8, generator=g).numpy() < 0.5, 2.0, 0.0)
    first[left] = 1
    return masks, np.concatenate([first, 2 - first])


@pytest.mark.parametrize(("pool", "whole"), [(2, 0.5), (3, 0.5), (3, 0.0)])
def test_the_loss_is_that_of_the_paper(pool, whole):
    """L = 1/2 [CE(x_l) + 1/2 (CE(s1) + CE(s2))]; unsure pixels cost nothing but are counted, unseen ones are not."""
    one = batch(pool=pool, views=2)
    one.target[0, :3] = IGNORE
    here = step(methods={"unimatch_v2": {"threshold": 0.5, "cutmix": 1.0, "whole": whole}})
    trained = pixelwise(here)
    found = trained(one, here)

    known = (one.target != IGNORE).numpy()
    p_x = softmax(tiny_logits(trained.network, one.image))
    ce = cost(p_x, np.where(known, one.target.numpy(), 0))[known].mean()
    assert found["ce"].item() == pytest.approx(ce / 2, rel=1e-5)

    taught = softmax(tiny_logits(trained.teacher.network, one.image_u))
    label, confidence = taught.argmax(1), taught.max(1)
    assert (label != tiny_logits(trained.network, one.image_u).argmax(1)).any()
    masks, factors = of_step(pool, whole)
    views = []
    for view, mask in enumerate(masks):

        def mixed(own, mask=mask):
            return np.where(mask if own.ndim == 3 else mask[:, None], own[::-1], own)

        p = softmax(
            tiny_logits(
                trained.network,
                torch.from_numpy(mixed(one.strong_u[view].numpy())),
                factors[view * pool : (view + 1) * pool],
            )
        )
        sure, seen = mixed(confidence) >= 0.5, mixed(one.seen_u[1 + view].numpy())
        assert 0 < (sure & seen).sum() < seen.sum() < seen.size
        views.append(cost(p, mixed(label))[sure & seen].sum() / seen.sum())
    assert found["strong"].item() == pytest.approx(sum(views) / 4, rel=1e-5)
    assert set(found) == {"ce", "strong"}


def test_nothing_flows_into_the_teacher():
    here = step(methods={"unimatch_v2": {"threshold": 0.0}})
    trained = pixelwise(here)
    total(trained(batch(pool=2, views=2), here)).backward()
    assert all(parameter.grad is None for parameter in trained.teacher.parameters())
    assert trained.network.deep.weight.grad.abs().sum() > 0


def test_two_views_of_a_pair_share_the_channels_out_and_half_of_the_pairs_keep_all():
    pairs, widths = 9, (16, 16, 16, 16)
    maps = [torch.ones(2 * pairs, width, 2, 3) for width in widths]
    found = complementary(maps, 0.5, torch.Generator().manual_seed(4))
    first, second = found[0].split(pairs)
    assert torch.equal(first + second, torch.full_like(first, 2.0))
    assert set(found[0].unique().tolist()) == {0.0, 1.0, 2.0}
    assert all(torch.equal(one, found[0]) for one in found)  # the same for all levels
    assert torch.equal(found[0], found[0][:, :, :1, :1].expand_as(found[0]))  # and all places
    whole = (first == 1).flatten(1).all(1)
    assert whole.sum() == 4  # of nine, rounded down
    assert not (first[~whole] == 1).any()  # per image, all or none
    assert len({tuple(row) for row in first[~whole, :, 0, 0].tolist()}) == 5  # drawn for each image


def test_half_of_the_channels_are_drawn_and_any_pair_may_be_the_whole_one():
    g = torch.Generator().manual_seed(0)
    dropped, whole = 0.0, set()
    for _ in range(60):
        (one,) = complementary([torch.ones(4, 50, 1, 1)], 0.5, g)
        number = int((one[0] != 1).any())  # pair 0 or 1 stays whole
        whole.add(number)
        dropped += (one[1 - number] == 0).double().mean().item() / 60
    assert whole == {0, 1}
    assert dropped == pytest.approx(0.5, abs=0.03)


def test_maps_that_differ_in_width_have_a_mask_each_and_keep_their_type():
    maps = [torch.ones(4, width, 2, 2, dtype=torch.bfloat16) for width in (8, 8, 40)]
    narrow, same, wide = complementary(maps, 0.0, torch.Generator().manual_seed(1))
    assert torch.equal(narrow, same)
    assert set(wide.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(wide[:2] + wide[2:], torch.full_like(wide[:2], 2.0))
    assert not torch.equal(narrow, wide[:, :8])
    assert wide.dtype == torch.bfloat16


class Normed(TinyNet):
    """With a BatchNorm, whose statistics are averaged, too."""

    def __init__(self, **changes):
        super().__init__(**changes)
        self.deep = nn.Sequential(self.deep, nn.BatchNorm2d(8))


def test_the_average_of_parameters_and_statistics_is_what_is_deployed():
    here = step()
    trained = method("unimatch_v2", here, Normed)
    teacher = trained.teacher.network
    assert trained.deployed() is teacher
    names = ("head.weight", "deep.1.running_mean")
    expected = {name: teacher.state_dict()[name].double().numpy().copy() for name in names}
    for number in (0, 1, 2, 248, 249, 250, 5000):
        keep = min(1 - 1 / (number + 1), 0.996)
        with torch.no_grad():
            trained.network.head.weight.add_(number + 1.0)
            trained.network.deep[1].running_mean.add_(0.5)
        trained.after_step(number)
        for name in names:
            expected[name] = keep * expected[name] + (1 - keep) * trained.network.state_dict()[name].double().numpy()
            np.testing.assert_allclose(teacher.state_dict()[name].numpy(), expected[name], rtol=1e-5)
    trained.train()
    assert not any(module.training for module in teacher.modules())
