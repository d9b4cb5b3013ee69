import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from querying.labels import IGNORE
from training.batch import Batch
from training.methods.parts import Step
from training.methods.registry import METHODS
from training.model import Output
from training.optim import set_lr
from training.settings import ReCoSettings, TrainSettings


class TinyNet(nn.Module):
    """Logits and embeddings at a quarter of the size."""

    def __init__(self, classes=3, embedding=True):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 8, 4, stride=4)
        self.head = nn.Conv2d(8, classes, 1)
        self.embed = nn.Conv2d(8, 4, 1) if embedding else None

    def forward(self, x):
        h = self.body(x).relu()
        return Output(self.head(h), self.embed(h) if self.embed is not None else None)


class Uniform(nn.Module):
    """Equal logits for three classes; no representation head."""

    def forward(self, x):
        return Output(torch.zeros(len(x), 3, 2, 2, requires_grad=True), None)


def batch(known=IGNORE, pool=1):
    g = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=g)
    target = torch.randint(0, 3, (4, 8, 8), dtype=torch.uint8, generator=g)
    if known != IGNORE:
        target[:] = known
    return Batch(image[:2], target[:2], image[2 : 2 + pool], target[2 : 2 + pool])


def step(**changes):
    return Step(
        TrainSettings(**changes), ReCoSettings(queries=8, negatives=8), torch.Generator().manual_seed(0), lambda n: n
    )


def test_uniform_logits_cost_the_logarithm_of_the_number_of_classes():
    """CE = ln 3 for every pixel, so for the mean over both streams, too; the pool's is weighted."""
    parts = METHODS["self_training"](Uniform(), batch(), step(unlabelled_weight=0.5))
    assert parts["ce"].item() == pytest.approx(math.log(3), rel=1e-6)
    assert parts["ce_u"].item() == pytest.approx(0.5 * math.log(3), rel=1e-6)
    assert set(METHODS["supervised"](Uniform(), batch(), step())) == {"ce"}


def test_the_cross_entropy_is_taken_at_full_resolution():
    net, one = TinyNet(embedding=False), batch()
    found = METHODS["supervised"](net, one, step())["ce"]
    from training.model import normalise

    logits = F.interpolate(net(normalise(one.image)).logits, (8, 8), mode="bilinear", align_corners=False)
    log_p = logits.double().log_softmax(1)
    expected = (
        -sum(log_p[b, one.target[b, y, x].item(), y, x] for b in range(2) for y in range(8) for x in range(8)) / 128
    )
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_any_known_pixel_costs_nothing_and_still_has_a_graph(name):
    net = TinyNet()
    empty = Batch(*(torch.full_like(t, IGNORE) if t.dim() == 3 else t for t in batch()))
    loss = torch.stack(list(METHODS[name](net, empty, step()).values())).sum()
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_gets_a_gradient_and_the_loss_falls(name):
    net = TinyNet()
    optimizer = torch.optim.SGD([{"params": list(net.parameters()), "lr_scale": 1.0}], lr=0.05, momentum=0.9)
    set_lr(optimizer, 0.05)
    losses = []
    for _ in range(30):
        loss = torch.stack(list(METHODS[name](net, batch(), step()).values())).sum()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in net.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_an_empty_pool_leaves_the_supervised_loss():
    net = TinyNet()
    a = METHODS["self_training"](net, batch(pool=0), step())
    b = METHODS["supervised"](net, batch(pool=0), step())
    assert {k: v.item() for k, v in a.items()} == {k: v.item() for k, v in b.items()}


def test_pool_pixels_that_are_ignored_do_not_count():
    """Only one pool pixel is known; its cross entropy is the pool's mean."""
    net, one = TinyNet(embedding=False), batch()
    target_u = torch.full_like(one.target_u, IGNORE)
    target_u[0, 3, 4] = 2
    found = METHODS["self_training"](net, one._replace(target_u=target_u), step())["ce_u"]
    from training.model import normalise

    logits = F.interpolate(net(normalise(one.image_u)).logits, (8, 8), mode="bilinear", align_corners=False)
    assert found.item() == pytest.approx(-logits.log_softmax(1)[0, 2, 3, 4].item(), rel=1e-5)
