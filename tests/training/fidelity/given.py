"""Networks that give what they are told, so that a loss is a function of known logits; and NumPy to derive it again.

Every test of this folder takes the authors' equation from a paper or from what public code was seen to compute, writes
it in NumPy in float64, and holds the method to it: its value and its gradient in every logit (central differences of
the NumPy function), both to 1e-6.
"""

import itertools

import numpy as np
import torch
from torch import nn

from training.batches.batch import Batch
from training.methods.registry import METHODS
from training.network.deeplab import Output, Widths

CLASSES, HEIGHT, WIDTH, DIM = 3, 2, 3, 4
IGNORE = 255
CLOSE = {"rtol": 1e-6, "atol": 1e-8}


class Given(nn.Module):
    """Each call gives the next logits (B, C, H, W), and embeddings where there are some, whatever the image."""

    def __init__(self):
        super().__init__()
        self.logits, self.embeddings, self.calls = nn.ParameterList(), nn.ParameterList(), 0

    def tell(self, *logits, embeddings=()):
        for known, told in ((self.logits, logits), (self.embeddings, embeddings)):
            known.extend([nn.Parameter(torch.as_tensor(one)) for one in told])

    def forward(self, image):
        return self.heads(image, image)

    def encode(self, image):
        return torch.zeros(len(image), 1, 1, 1, dtype=torch.float64), image

    def neck(self, low, deep):
        return deep.double(), low

    def decode(self, low, deep, size=None):
        return self.heads(low, deep)

    def fit(self, output, size):
        return output

    def padded(self, size):
        return tuple(size)

    def heads(self, deep, low):
        number, self.calls = self.calls, self.calls + 1
        return Output(self.logits[number], self.embeddings[number] if len(self.embeddings) else None)

    def widths(self):
        return Widths(CLASSES, 3, DIM)


def given(name, here):
    return METHODS[name](lambda embedding: Given(), here).double()


def drawn(*shape, seed=0, size=1.5):
    return size * np.random.default_rng(seed).standard_normal(shape)


def maps(images, seed=0):
    """Logits (images, C, H, W)."""
    return drawn(images, CLASSES, HEIGHT, WIDTH, seed=seed)


def labels(images, seed=0, ignored=0.25):
    """(images, H, W) of uint8, some of them unknown."""
    rng = np.random.default_rng(100 + seed)
    found = rng.integers(0, CLASSES, (images, HEIGHT, WIDTH)).astype(np.uint8)
    found[rng.random(found.shape) < ignored] = IGNORE
    return found


def a_batch(known=2, pool=2, views=0, target=None, target_u=None, seen=None):
    """Black images; all else as told."""
    image = torch.zeros(known + pool, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    target = labels(known) if target is None else target
    target_u = np.full((pool, HEIGHT, WIDTH), IGNORE, np.uint8) if target_u is None else target_u
    seen = np.ones((1 + views, pool, HEIGHT, WIDTH), bool) if seen is None else seen
    strong = torch.zeros(views, pool, 3, HEIGHT, WIDTH, dtype=torch.uint8)
    known_, pool_ = torch.from_numpy(target), torch.from_numpy(target_u)
    return Batch(image[:known], known_, image[known:], pool_, strong, torch.from_numpy(seen))


def softmax(z, axis=1):
    e = np.exp(z - z.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def cost(z, label):
    """-log p of the label at every pixel; 0 where it is unknown."""
    log_p = np.log(softmax(z))
    own = np.take_along_axis(log_p, np.where(label == IGNORE, 0, label)[:, None].astype(int), 1)[:, 0]
    return np.where(label == IGNORE, 0.0, -own)


def mean_known(z, label):
    return cost(z, label).sum() / (label != IGNORE).sum()


def slope(function, at, step=1e-5):
    """The gradient of a function of one array."""
    found = np.zeros_like(at)
    for place in itertools.product(*map(range, at.shape)):
        up, down = at.copy(), at.copy()
        up[place] += step
        down[place] -= step
        found[place] = (function(up) - function(down)) / (2 * step)
    return found


def check(parts, told, expected, *arrays):
    """`parts` of a method against the function `expected` of `arrays`, which were told as the parameters `told`."""
    total = torch.stack(list(parts.values())).sum()
    np.testing.assert_allclose(total.item(), expected(*arrays), **CLOSE)
    total.backward()
    for number, (parameter, array) in enumerate(zip(told, arrays, strict=True)):

        def along(x, number=number):
            return expected(*(x if place == number else one for place, one in enumerate(arrays)))

        grad = np.zeros_like(array) if parameter.grad is None else parameter.grad.numpy()
        np.testing.assert_allclose(grad, slope(along, array), rtol=1e-6, atol=1e-8)
