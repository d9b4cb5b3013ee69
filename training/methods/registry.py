"""All methods by the name that a recipe uses (`train.method`)."""

import importlib
from pathlib import Path

from querying.base.errors import UserError
from querying.base.own_code import load_own
from training.method_parts.method import Method
from training.settings.traits import TRAITS


def _load(implementation: str) -> type[Method]:
    module, _, name = implementation.partition(":")
    found: type[Method] = getattr(importlib.import_module(module), name)
    return found


METHODS: dict[str, type[Method]] = {name: _load(traits.implementation) for name, traits in TRAITS.items()}


def method_class(name: str, folder: Path | None = None) -> type[Method]:
    """One of METHODS, or the user's own `package.module:Class`, which may lie in `folder`; UserError where that is no
    Method."""
    if name in METHODS:
        return METHODS[name]
    found = load_own("train.method", name, folder)
    if not (isinstance(found, type) and issubclass(found, Method)):
        raise UserError(f"train.method={name}: is no subclass of training.method_parts.method.Method")
    return found
