"""All methods by the name that a recipe uses (`train.method`)."""

import importlib

from training.methods.method import Method
from training.traits import TRAITS


def _load(implementation: str) -> type[Method]:
    module, _, name = implementation.partition(":")
    found: type[Method] = getattr(importlib.import_module(module), name)
    return found


METHODS: dict[str, type[Method]] = {name: _load(traits.implementation) for name, traits in TRAITS.items()}
