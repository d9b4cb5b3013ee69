"""Networks, batches and steps small enough to calculate by hand."""

import itertools

import torch
from torch import nn

from querying.dataset.label_values import IGNORE
from training.batches.batch import Batch
from training.method_parts.parts import MethodContext
from training.methods.registry import METHODS
from training.network.deeplab import Output, Widths
from training.settings.methods import MethodSettings
from training.settings.training import ReCoSettings, TrainSettings

CLASSES = 3
SMALL_U2PL = {"memory": 40, "anchors": 5, "negatives": 6, "low_rank": 2, "contrast": 1.0}


class TinyNet(nn.Module):
    """Logits and embeddings at 1/`stride` of the size."""

    def __init__(self, classes=CLASSES, embedding=True, stride=4, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.low = nn.Conv2d(3, 8, stride, stride=stride)
        self.deep = nn.Conv2d(8, 8, 1)
        self.head = nn.Conv2d(16, classes, 1)
        self.embed = nn.Conv2d(16, 4, 1) if embedding else None

    def forward(self, x):
        return self.decode(*self.encode(x), size=x.shape[2:])

    def encode(self, x):
        low = self.low(x).relu()
        return low, self.deep(low).relu()

    def decode(self, *maps, size=None):
        return self.fit(self.heads(*self.neck(*maps)), size)

    def fit(self, output, size):
        return output

    def padded(self, size):
        return tuple(size)

    def neck(self, low, deep):
        return deep, low

    def heads(self, deep, low):
        h = torch.cat([low, deep], dim=1)
        return Output(self.head(h), self.embed(h) if self.embed is not None else None)

    def widths(self):
        return Widths(self.head.out_channels, 8, self.embed.out_channels if self.embed is not None else 0)


def method(name, make_step, net=TinyNet, seed=0, **changes):
    """A method on tiny networks, each from its own first values."""
    seeds = itertools.count(seed)
    return METHODS[name](lambda embedding: net(embedding=embedding, seed=next(seeds), **changes), make_step)


def batch(known=IGNORE, pool=1, views=0, seed=0):
    """Two labelled images and `pool` others of four patches each, whose class is that of their strongest colour."""
    g = torch.Generator().manual_seed(seed)

    def noisy(image):
        return image // 2 + torch.randint(0, 128, image.shape, dtype=torch.uint8, generator=g)

    colour = torch.randint(0, 256, (2 + pool, 3, 2, 2), dtype=torch.uint8, generator=g)
    colour = colour.repeat_interleave(4, 2).repeat_interleave(4, 3)
    image, target = noisy(colour), colour.argmax(1).to(torch.uint8)
    if known != IGNORE:
        target[:] = known
    strong = noisy(image[2:].expand(views, -1, -1, -1, -1))
    seen = torch.rand(1 + views, pool, 8, 8, generator=g) < 0.9
    return Batch(image[:2], target[:2], image[2:], target[2:], strong, seen)


def step(reco=None, methods=None, done=0.0, **train):
    return MethodContext(
        TrainSettings(**train),
        reco or ReCoSettings(queries=8, negatives=8),
        torch.Generator().manual_seed(0),
        lambda n: n,
        MethodSettings.model_validate(methods or {}),
        done,
    )


def total(parts):
    return torch.stack(list(parts.values())).sum()
