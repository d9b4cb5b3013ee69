"""The interface of a method: networks, teachers and memories in one module, whose forward pass is the loss."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import nn

from training.batches.batch import Batch
from training.method_parts.parts import MethodContext, Parts
from training.network.segmenter import Segmenter
from training.settings.methods import MethodSettings

NewNetwork = Callable[[bool], Segmenter]
"""Builds a network, with a representation head where asked for; each call starts the heads from other values."""


class Method(nn.Module):
    """One way to train.

    All that it has to remember between steps is in its state dict (parameters and buffers), so a state that is saved
    holds it and a resumed training continues from it.  Several workers wrap the method as a whole: `forward` is called
    once a step, may pass through its networks as often as it likes, and must give every trained parameter a gradient.
    Before each call all buffers are copied from rank 0, those of a teacher included.
    """

    strong_views: ClassVar[int] = 0
    """How many strongly augmented views of each pool image it wants in `Batch.strong_u`."""
    one_forward: ClassVar[bool] = False
    """Calls `network` as a whole and once a step: on a GPU it can be a CUDA graph."""

    network: Segmenter

    def __init__(self, new_network: NewNetwork, context: MethodContext) -> None:
        """`context` is that of any step: its settings hold for the whole training."""
        super().__init__()
        self.network = new_network(False)

    @classmethod
    def views(cls, methods: MethodSettings) -> int | None:
        """Strong views of each pool image, for a method that labels the pool itself (`training.settings.traits`):
        `image_u` is then weakly augmented.  None: it takes no pool at all."""
        return cls.strong_views

    def forward(self, batch: Batch, context: MethodContext) -> Parts:
        raise NotImplementedError

    def after_step(self, number: int) -> None:
        """Called when the optimiser has made step `number` (from 0)."""

    def deployed(self) -> Segmenter:
        """The network that is evaluated and kept in the end."""
        return self.network

    def early(self) -> Mapping[int, Segmenter]:
        """Networks of earlier steps that are kept, too, by the number of finished steps."""
        return {}
