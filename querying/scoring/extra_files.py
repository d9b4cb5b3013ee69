"""What some selections need to know beside the scores: one more file per shard, written only when it is asked for.

`classes-*.arrow` (class-balanced selection), `mixtures-*.arrow` (diverse selection), `features-*.arrow` (core-set).

Shape suffixes: C = classes, H and W = pixels, R = regions, D = features, N = images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pyarrow as pa

from querying.base.arrow_file import scored_file
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import REGION_CLASSES, VECTORS
from querying.labels.regions import RegionGrid
from querying.settings import Extra

if TYPE_CHECKING:
    from torch import Tensor

SCHEMAS: dict[Extra, pa.Schema] = {"classes": REGION_CLASSES, "mixtures": VECTORS, "features": VECTORS}


class Features(Protocol):
    """What the core-set needs of a network beside its ordinary pass."""

    def with_features(self, images_BCHW: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Logits as ever, and float32 features (B, D): the deepest map's mean over each image."""


def majority_classes(log_p_1CHW: Tensor, grid: RegionGrid) -> np.ndarray:
    """The class that most pixels of a region are predicted to be, uint8 (R,), the dominant label of Cai et al. 2021;
    IGNORE where the image has no pixel of it.

    Of classes with as many pixels, the more probable: their numbers should decide nothing."""
    import torch.nn.functional as F

    classes = log_p_1CHW.shape[1]
    one_hot_CHW = F.one_hot(log_p_1CHW[0].argmax(dim=0), classes).permute(2, 0, 1).float().contiguous()
    share_CR, p_CR = grid.mean(one_hot_CHW).double(), grid.mean(log_p_1CHW[0].exp()).double()
    class_R = (share_CR + p_CR / (2 * grid.size**2)).argmax(dim=0).cpu().numpy().astype(np.uint8)
    class_R[grid.areas() == 0] = IGNORE
    return class_R


def class_mixtures(log_p_1CHW: Tensor, grid: RegionGrid) -> np.ndarray:
    """Mean class probabilities of each region, float32 (R * C,): R times C numbers."""
    return grid.mean(log_p_1CHW[0].exp()).T.contiguous().cpu().numpy().ravel()


def equal_lists(flat: pa.Array, rows: int) -> pa.Array:
    """So many lists of the same length."""
    offsets = np.arange(rows + 1, dtype=np.int32) * (len(flat) // rows)
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def extra_batch(kind: Extra, ids: Sequence[str], values: Sequence[np.ndarray]) -> pa.RecordBatch:
    """Image ids with what is said about each, all of the same length."""
    columns = [pa.array(ids, pa.string()), equal_lists(pa.array(np.concatenate(values)), len(ids))]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMAS[kind])


def read_extra(path: Path, kind: Extra, shape: tuple[int, ...] = (-1,)) -> tuple[list[str], np.ndarray]:
    """Image ids and what was written about each, (N, *shape).  DamagedError where the file is not what was written;
    ValueError where its images have not the same number of values, or not that of `shape`."""
    table = scored_file(path, SCHEMAS[kind]).table()
    ids = table["image_id"].to_pylist()
    lists = table["value"].combine_chunks()
    flat = lists.flatten().to_numpy(zero_copy_only=False)
    if not ids:
        return ids, flat.reshape(0, *(max(1, side) for side in shape))
    lengths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if len(lengths) > 1:
        raise ValueError(f"{path}: {lengths[0]} values for one image, {lengths[-1]} for another")
    return ids, flat.reshape(len(ids), *shape)
