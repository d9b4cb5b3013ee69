"""A user's own acquisition: one function, named by import path, that scores every pixel from its probabilities."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from querying.errors import UserError
from querying.shown import cause
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


def own_acquisition(spec: str, folder: Path | None = None) -> Callable[[Tensor], Tensor]:
    """The function `package.module:function`: log-probabilities (B, C, H, W) float32 -> scores (B, H, W), higher where
    one should ask.  UserError, one line, where there is none, or where it gives something else for a small input.

    Looked for in PYTHONPATH and, after all else, in `folder`: there, a file of another library's name hides nothing.
    """
    where = f"query.acquisition={spec}"
    module, _, name = spec.partition(":")
    folder = folder or Path.cwd()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    before = set(sys.modules)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        what = f"can not be imported (is its folder in PYTHONPATH?): {error}"
        if isinstance(error, AttributeError):
            what = f"has no {name}"
        raise UserError(f"{where}: {module} {what}{_hidden(module, folder)}") from None
    except (Exception, SystemExit) as error:  # whatever the user's module does while it is imported
        raise UserError(f"{where}: importing {module}: {_said(error)}") from None
    if not callable(found):
        raise UserError(f"{where}: is not a function")
    _try(found, where)
    if spec not in _read:
        _read[spec] = own_sources(module, sorted(set(sys.modules) - before))
    return found  # type: ignore[no-any-return]


def _hidden(module: str, folder: Path) -> str:
    """Where a file of the user's has the name of another module, which is found first: that, and what to do."""
    top = module.partition(".")[0]
    there = getattr(sys.modules.get(top), "__file__", None) or "Python"
    for mine in (folder / f"{top}.py", folder / top):
        if top in sys.modules and mine.exists() and not Path(there).is_relative_to(mine):
            return f"; {mine} is not looked at, since {there} has its name: rename it"
    return ""


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
    return f"{type(error).__name__}: {cause(str(error), 200)}"
