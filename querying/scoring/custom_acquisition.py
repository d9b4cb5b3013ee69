"""A user's own acquisition: one function, named by import path, that scores every pixel from its probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from querying.base.errors import UserError
from querying.base.own_code import load_own, said

if TYPE_CHECKING:
    from torch import Tensor

PROBE = (2, 3, 4, 5)
"""Images, classes, rows and columns of the probabilities that a function is tried with."""


def own_acquisition(spec: str, folder: Path | None = None) -> Callable[[Tensor], Tensor]:
    """The function `package.module:function`: log-probabilities (B, C, H, W) float32 -> scores (B, H, W), higher where
    one should ask.  UserError, one line, where there is none, or where it gives something else for a small input."""
    where = f"query.acquisition={spec}"
    found = load_own("query.acquisition", spec, folder)
    if not callable(found):
        raise UserError(f"{where}: is not a function")
    _try(found, where)
    return found  # type: ignore[no-any-return]


def _try(function: Callable[[Tensor], Tensor], where: str) -> None:
    import torch

    log_p_BCHW = torch.randn(PROBE, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1)
    try:
        with torch.inference_mode():
            score: object = function(log_p_BCHW.clone())
    except (Exception, SystemExit) as error:  # whatever the user's function does
        raise UserError(f"{where}: {said(error)}") from None
    expected = (PROBE[0], *PROBE[2:])
    if not isinstance(score, torch.Tensor) or tuple(score.shape) != expected or not score.is_floating_point():
        what = f"{score.dtype} {tuple(score.shape)}" if isinstance(score, torch.Tensor) else type(score).__name__
        raise UserError(f"{where}: gives {what} for log-probabilities {PROBE}, not a float tensor {expected}")
    if not torch.isfinite(score).all():
        raise UserError(f"{where}: gives numbers that are not finite")
