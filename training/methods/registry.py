"""All methods by the name that a recipe uses (`train.method`)."""

from collections.abc import Callable

from torch import nn

from training.batch import Batch
from training.methods.parts import Parts, Step
from training.methods.self_training import self_training
from training.methods.supervised import supervised

Method = Callable[[nn.Module, Batch, Step], Parts]

METHODS: dict[str, Method] = {"supervised": supervised, "self_training": self_training}
