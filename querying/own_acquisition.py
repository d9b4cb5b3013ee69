"""A user's own acquisition: one function, named by import path, that scores every pixel from its probabilities."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from querying.errors import UserError
from querying.sources import Sources, own_sources

if TYPE_CHECKING:
    from torch import Tensor

PROBE = (2, 3, 4, 5)
"""Images, classes, rows and columns of the probabilities that a function is tried with."""
_read: dict[str, Sources] = {}
"""Function -> the source that it had when this process imported it."""


def read_source(spec: str) -> Sources:
    """What the function is made from, as it was when this process imported it; where it did not, as it is now."""
    return _read.get(spec) or own_sources(spec.partition(":")[0])


def own_acquisition(spec: str) -> Callable[[Tensor], Tensor]:
    """The function `package.module:function`: log-probabilities (B, C, H, W) float32 -> scores (B, H, W), higher where
    one should ask.  UserError, one line, where there is none, or where it gives something else for a small input."""
    where = f"query.acquisition={spec}"
    module, _, name = spec.partition(":")
    before = set(sys.modules)
    try:
        found = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise UserError(f"{where}: {module} can not be imported (is its folder in PYTHONPATH?): {error}") from None
    except AttributeError:
        raise UserError(f"{where}: {module} has no {name}") from None
    except (Exception, SystemExit) as error:  # whatever the user's module does while it is imported
        raise UserError(f"{where}: importing {module}: {_said(error)}") from None
    if not callable(found):
        raise UserError(f"{where}: is not a function")
    _try(found, where)
    if spec not in _read:
        _read[spec] = own_sources(module, sorted(set(sys.modules) - before))
    return found  # type: ignore[no-any-return]


def _try(function: Callable[[Tensor], Tensor], where: str) -> None:
    import torch

    log_p_BCHW = torch.randn(PROBE, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    try:
        with torch.inference_mode():
            score = function(log_p_BCHW.clone())
    except (Exception, SystemExit) as error:  # whatever the user's function does
        raise UserError(f"{where}: {_said(error)}") from None
    expected = (PROBE[0], *PROBE[2:])
    if not isinstance(score, torch.Tensor) or tuple(score.shape) != expected or not score.is_floating_point():
        what = f"{score.dtype} {tuple(score.shape)}" if isinstance(score, torch.Tensor) else type(score).__name__
        raise UserError(f"{where}: gives {what} for log-probabilities {PROBE}, not a float tensor {expected}")
    if not torch.isfinite(score).all():
        raise UserError(f"{where}: gives numbers that are not finite")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
