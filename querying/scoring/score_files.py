"""The scores of a shard as they were written."""

from pathlib import Path

import numpy as np

from querying.base.arrow_file import scored_file
from querying.dataset.schemas import REGION_SCORES


def read_scores(path: Path, num_regions: int) -> tuple[list[str], np.ndarray]:
    """Image ids and scores float32 (N, R) with -inf where a cell is not eligible.  DamagedError where the file is not
    what was written; ValueError names a NaN or a wrong number of regions."""
    table = scored_file(path, REGION_SCORES).table()
    ids = table["image_id"].to_pylist()
    flat = table["score"].combine_chunks().flatten()
    if len(flat) != len(ids) * num_regions:
        raise ValueError(f"{path}: {len(flat)} scores for {len(ids)} images of {num_regions} regions")
    eligible = flat.is_valid().to_numpy(zero_copy_only=False)
    score_NR = flat.fill_null(0.0).to_numpy().reshape(len(ids), num_regions).copy()
    score_NR[~eligible.reshape(score_NR.shape)] = -np.inf
    if np.isnan(score_NR).any():
        raise ValueError(f"{path}: image {ids[int(np.isnan(score_NR).any(axis=1).argmax())]}: the score is NaN")
    return ids, score_NR
