"""What a network makes of images of some size, found before anything starts by passing it one without memory.

An encoder of the user's own really runs, since its function may make tensors where it likes.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

import torch

from querying.base.errors import UserError, ran_out_of_memory
from querying.base.own_code import said
from training.network.deeplab import build_model
from training.network.segmenter import Segmenter
from training.settings.training import ModelSettings

LARGEST = 1024
"""Side of the largest image with which a least size is looked for."""


class Grid(NamedTuple):
    """Height and width of ..."""

    padded: tuple[int, int]
    """... what the encoder sees of an image, in pixels,"""
    cells: tuple[int, int]
    """... and of the logits that the decoder makes of it."""


def logit_grid(settings: ModelSettings, size: tuple[int, int]) -> Grid:
    """That of an image of this height and width.  UserError, one line, where the network takes none so small."""
    try:
        return _grid(settings, size)
    except (Exception, SystemExit) as error:  # whatever timm's network, or the user's, does
        if ran_out_of_memory(error) or isinstance(error, UserError):
            raise
        raise UserError(f"{_name(settings)}: takes no images of {size[0]}x{size[1]} pixels: {said(error)}") from None


def check_sizes(settings: ModelSettings, sizes: Iterable[tuple[str, tuple[int, int]]]) -> None:
    """UserError, one line, where the network takes no images of one of these sizes, each behind what asks for it; with
    the least side that goes."""
    for asked, size in sizes:
        try:
            logit_grid(settings, size)
        except UserError as error:
            least = least_side(settings, min(size))
            if least is None:
                raise UserError(f"{asked}: {error}") from None
            raise UserError(
                f"{asked}: {size[0]}x{size[1]} pixels are too few, {_name(settings)} needs at least {least} a side:"
                " make them larger, or take another encoder"
            ) from None


def least_side(settings: ModelSettings, too_small: int) -> int | None:
    """Of the square images that the network takes, the side of the smallest; None where there is none to be found."""
    below, side = too_small - 1, max(1, too_small)
    while not _takes(settings, side):
        below, side = side, 2 * side
        if side > LARGEST:
            return None
    while side - below > 1:
        middle = (below + side) // 2
        below, side = (below, middle) if _takes(settings, middle) else (middle, side)
    return side


def _takes(settings: ModelSettings, side: int) -> bool:
    try:
        logit_grid(settings, (side, side))
    except UserError:
        return False
    return True


@lru_cache(maxsize=64)
def _grid(settings: ModelSettings, size: tuple[int, int]) -> Grid:
    network, device = _network(settings), "cpu" if settings.own_encoder else "meta"
    with torch.random.fork_rng([]), torch.device(device), torch.inference_mode():
        found = network.heads(*network.neck(*network.encode(torch.zeros(1, 3, *size)))).logits
    height, width = found.shape[2:]
    return Grid(network.padded(size), (height, width))


@lru_cache(maxsize=1)
def _network(settings: ModelSettings) -> Segmenter:
    with torch.random.fork_rng([]), torch.device("cpu" if settings.own_encoder else "meta"):
        return build_model(settings, 2, embedding=False).eval()


def _name(settings: ModelSettings) -> str:
    return f"model.backbone={settings.backbone}"
