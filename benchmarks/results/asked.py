"""A query as what a person is asked: boxes in images, the highest score first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from querying.labels.regions import RegionGrid
from querying.settings import QuerySettings


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing to label.  `box`: top, left, bottom and right in pixels of the stored image, the last two exclusive."""

    image_id: str
    region: int | None
    """None: the whole image."""
    box: tuple[int, int, int, int]
    score: float | None
    reason: str


def asked_of(
    query: pa.Table, grid: RegionGrid, settings: QuerySettings, size: Callable[[str], tuple[int, int]]
) -> list[Asked]:
    """Rows with the highest scores first, one for each image where whole images are asked about; `size` (height, width)
    is that of an image."""
    regions: dict[str, list[tuple[int, float | None]]] = {}
    for image_id, region, score in zip(*(query[name].to_pylist() for name in ("image_id", "region", "score")),
                                       strict=True):  # fmt: skip
        regions.setdefault(image_id, []).append((region, score))
    whole = settings.unit == "image"
    rows = [
        Asked(image_id, None if whole else region, _box(grid.on(size(image_id)), None if whole else region), score, "")
        for image_id, cells in regions.items()
        for region, score in (cells[:1] if whole else cells)
    ]
    rows.sort(key=lambda row: (-(row.score if row.score is not None else float("-inf")), row.image_id, row.region or 0))
    seen: dict[str, int] = {}
    named = []
    for place, row in enumerate(rows, 1):
        seen[row.image_id] = seen.get(row.image_id, 0) + 1
        here = "" if whole else f", no. {seen[row.image_id]} of {len(regions[row.image_id])} in its image"
        reason = f"{settings.acquisition}: no. {place} of {len(rows)}{here}"
        named.append(Asked(row.image_id, row.region, row.box, row.score, reason))
    return named


def _box(grid: RegionGrid, region: int | None) -> tuple[int, int, int, int]:
    if region is None or region < 0:
        return 0, 0, grid.height, grid.width
    rows, columns = grid.box(region)
    return rows.start, columns.start, rows.stop, columns.stop
