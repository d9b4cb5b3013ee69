"""What another acquisition would have asked, beside what was asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from benchmarks.results.systems import shared
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.published import read_query
from orchestrator.recipe.config import RunConfig
from querying.dataset.shards import DataIndex, size_of
from querying.labels.regions import RegionGrid


@dataclass(frozen=True, slots=True)
class Replayed:
    """One query, asked again."""

    cycle: int
    asked: int
    """Cells that the run bought."""
    would_ask: int
    both: float
    """Pixels in both queries, of those in either, 0..1."""
    agreement: float | None
    """Spearman's rank correlation of the two scores over all cells that both may ask about; None between two grids."""


def compared(
    before: RunConfig, after: RunConfig, layout: RunLayout, index: DataIndex, cycle: int, query: pa.Table, scores: Path
) -> Replayed:
    grids = [RegionGrid(index.height, index.width, one.query.region_size) for one in (before, after)]
    asked = read_query(layout.query(cycle), grids[0].num_regions)
    both = shared(_regions(asked), grids[0], _regions(query), grids[1], size_of(index, "train"))
    agreement = None
    if grids[0] == grids[1]:
        agreement = rank_agreement(layout.scores(cycle), scores, grids[0].num_regions)
    return Replayed(cycle, asked.num_rows, query.num_rows, 1.0 if both is None else both, agreement)


def _regions(query: pa.Table) -> Mapping[str, list[int]]:
    regions: dict[str, list[int]] = {}
    for image_id, region in zip(query["image_id"].to_pylist(), query["region"].to_pylist(), strict=True):
        regions.setdefault(image_id, []).append(region)
    return regions


def rank_agreement(first: Path, second: Path, num_regions: int) -> float | None:
    """Spearman's rho of two folders of scores over the cells that are eligible in both; None below three of them."""
    from scipy.stats import spearmanr

    from querying.scoring.score_files import read_scores

    pairs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for path in sorted(second.glob("regions-*.arrow")):
        ids, b_NR = read_scores(path, num_regions)
        place = {image_id: at for at, image_id in enumerate(ids)}
        known, a_NR = read_scores(first / path.name, num_regions)
        common = [at for at, image_id in enumerate(known) if image_id in place]
        a_NR, b_NR = a_NR[common], b_NR[[place[known[at]] for at in common]]
        both_NR = np.isfinite(a_NR) & np.isfinite(b_NR)
        pairs[0].append(a_NR[both_NR])
        pairs[1].append(b_NR[both_NR])
    x, y = (np.concatenate(part) if part else np.zeros(0) for part in pairs)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)
