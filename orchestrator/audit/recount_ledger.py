"""Do the rows of a ledger agree with the grid, their own labels, the query that they answer, and its scores?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.annotation.human import MergedNote
from orchestrator.annotation.package import NOTE, PackageNote
from orchestrator.annotation.rounds import round_of
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import digest
from orchestrator.folder.shapes import read_shaped
from orchestrator.recipe.config import RunConfig
from orchestrator.run.next_stage import pixels_left
from querying.base.errors import DamagedError
from querying.dataset.codecs import UNREADABLE, decode_label
from querying.dataset.label_values import IGNORE
from querying.labels.ledger import Ledger
from querying.labels.regions import WHOLE, RegionGrid
from querying.scoring.score_files import read_scores
from querying.selection.choose import ScoredPool, choose


@dataclass(frozen=True)
class ImageGrids:
    """The grid of a run's data set, and of each image where they have several sizes."""

    grid: RegionGrid
    shard_sizes: Sequence[tuple[int, int]]
    of_image: Mapping[str, RegionGrid]

    def __getitem__(self, image_id: str) -> RegionGrid | None:
        """None where no file that is left tells its size."""
        return self.of_image.get(image_id) if self.shard_sizes else self.grid

    def num_regions(self, image_id: str) -> int:
        found = self[image_id]
        return found.num_cells if found else -1

    def num_images(self, pixels: int) -> int:
        """Of a train split of so many pixels."""
        return len(self.of_image) if self.shard_sizes else pixels // int(self.grid.areas().sum())


def image_grids(
    layout: RunLayout, ledger: Ledger, grid: RegionGrid, shard_sizes: Sequence[tuple[int, int]]
) -> ImageGrids:
    """With `shard_sizes`, those of the train split's shards: from the first images' labels, and the others' scores."""
    found: dict[str, RegionGrid] = {}
    if shard_sizes:
        with suppress(DamagedError):
            found |= {image_id: grid.on(size) for image_id, size in _first_sizes(ledger, grid) if size in shard_sizes}
        for path in layout.scores(0).glob("regions-*.arrow"):
            number = int(path.stem.removeprefix("regions-"))
            with suppress(DamagedError, ValueError):
                ids, _ = read_scores(path, grid.num_regions)
                found |= dict.fromkeys(ids, grid.on(shard_sizes[number])) if number < len(shard_sizes) else {}
    return ImageGrids(grid, shard_sizes, found)


def _first_sizes(ledger: Ledger, grid: RegionGrid) -> Iterator[tuple[str, tuple[int, int]]]:
    """Each image of cycle 0, which is bought whole: its height is that of its first column's cells, its width that of
    its first row's."""
    table = ledger.read(0, ["image_id", "region", "label"])
    extent: dict[str, list[int]] = {}
    for row in (row for batch in table.to_batches(max_chunksize=4096) for row in batch.to_pylist()):
        with suppress(*UNREADABLE):  # said where the row is counted
            place = divmod(max(row["region"], 0), grid.shape[1])
            for axis, side in enumerate(decode_label(row["label"]).shape):
                extent.setdefault(row["image_id"], [0, 0])[axis] += side if place[1 - axis] == 0 else 0
    yield from ((image_id, (height, width)) for image_id, (height, width) in extent.items())


def recount_labels(
    ledger: Ledger, cycle: int, table: pa.Table, grids: ImageGrids, classes: int, bought: dict[str, set[int]]
) -> Iterator[str]:
    """What a cycle's rows say, against the grid, the label, and all that was `bought` before, which grows."""
    where = ledger.path(cycle)
    wrong: dict[str, list[str]] = {}
    for row in (row for batch in table.to_batches(max_chunksize=4096) for row in batch.to_pylist()):
        region, cell = row["region"], f"image {row['image_id']}, region {row['region']}"
        had = bought.setdefault(row["image_id"], set())
        if region in had or WHOLE in had or (region == WHOLE and had):
            wrong.setdefault("is charged twice", []).append(cell)
        had.add(region)
        if row["cycle"] != cycle:
            wrong.setdefault(f"says that it is of cycle {row['cycle']}", []).append(cell)
        grid = grids[row["image_id"]]
        if grid is None:
            wrong.setdefault("is of an image of no known size", []).append(cell)
            continue
        if not (region == WHOLE if grid.size == 1 and not cycle else _has_pixels(grid, region)):
            wrong.setdefault(f"is none of the {grid.num_cells} regions", []).append(cell)
            continue
        rows, columns = grid.box(region)
        size = rows.stop - rows.start, columns.stop - columns.start
        try:
            label_HW = decode_label(row["label"], size)
        except UNREADABLE as error:
            wrong.setdefault(f"has a label that is none of it ({error})", []).append(cell)
            continue
        void = int((label_HW == IGNORE).sum())
        area = size[0] * size[1]
        if (row["pixels"], row["void_pixels"]) != (area, void):
            said = f"{row['pixels']} pixels, {row['void_pixels']} void, where its label has {area} and {void}"
            wrong.setdefault(f"says {said}", []).append(cell)
        elif ((label_HW >= classes) & (label_HW != IGNORE)).any():
            wrong.setdefault(f"has a label that is none of the {classes} classes", []).append(cell)
    for what, cells in wrong.items():
        yield f"{where}: {cells[0]} {what}{_more(cells)}"


def recount_query(
    layout: RunLayout, config: RunConfig, ledger: Ledger, cycle: int, table: pa.Table, grid: RegionGrid
) -> Iterator[str]:
    """What was bought is what was asked, with its score, and was open to be asked."""
    path = layout.query(cycle - 1) / "query.parquet"
    try:
        asked = _cells(pq.read_table(path, page_checksum_verification=True))
    except (OSError, pa.ArrowException, KeyError):
        return
    answered = _cells(table)
    if _in_part(layout, before=cycle - 1):
        asked = {cell: score for cell, score in asked.items() if cell in answered}
    if asked != answered:
        both = sorted(asked.items() ^ answered.items(), key=str)
        (image_id, region), _ = both[0]
        yield f"{ledger.path(cycle)}: image {image_id}, region {region} differs from what {path} asks{_more(both)}"
    if config.query.unit != "cell" or config.query.acquisition == "coreset":
        return  # whole images have their image's score; pixels are drawn
    regions: dict[str, list[int]] = {}
    for image_id, region in answered:
        if 0 <= region < grid.num_regions:
            regions.setdefault(image_id, []).append(region)
    closed = []
    for file in sorted(layout.scores(cycle - 1).glob("regions-*.arrow")):
        with suppress(DamagedError, ValueError):
            ids, score_NR = read_scores(file, grid.num_regions)
            for image_id, score_R in zip(ids, score_NR, strict=True):
                closed += [(image_id, region) for region in regions.get(image_id, ()) if score_R[region] == -np.inf]
    if closed:
        image_id, region = closed[0]
        yield f"{ledger.path(cycle)}: image {image_id}, region {region} was not open to be asked{_more(closed)}"


def recount_choice(
    layout: RunLayout, config: RunConfig, ledger: Ledger, cycle: int, grids: ImageGrids, total: int | None
) -> Iterator[str]:
    """What was asked is what the scores of the cycle before choose.  `total`: pixels of the train split."""
    query, before, path = config.query, cycle - 1, layout.query(cycle - 1) / "query.parquet"
    if not total or not query.asked or query.acquisition == "coreset" or query.select == "diverse":
        return  # distances may round otherwise on another machine
    if _of_other_scores(layout, before):
        return
    try:
        asked = _cells(pq.read_table(path, page_checksum_verification=True))
        spent = ledger.spent(before).pixels
        images = grids.num_images(total) - len(ledger.whole(before, grids.num_regions))
        pool = ScoredPool(layout.scores(before), grids.grid, grids.shard_sizes)
        chosen = _cells(
            choose(
                query, pool, pixels=pixels_left(config, total, spent),
                images=images, labelled=(), seed=config.seed, cycle=before,
            )
        )  # fmt: skip
    except (OSError, pa.ArrowException, DamagedError):  # said where it lies
        return
    if asked.keys() != chosen.keys():
        both = sorted(asked.keys() ^ chosen.keys())
        yield f"{path}: image {both[0][0]}, region {both[0][1]}: not what the scores of its cycle choose{_more(both)}"


def _has_pixels(grid: RegionGrid, region: int) -> bool:
    row, column = divmod(region, grid.shape[1])
    return region >= 0 and row < grid.reached[0] and column < grid.reached[1]


def _in_part(layout: RunLayout, before: int) -> bool:
    """Have people answered only a part of the query, and was that taken?"""
    with suppress(DamagedError):
        return bool(read_shaped(round_of(layout, before).merged, MergedNote)["partial"])
    return False


def _of_other_scores(layout: RunLayout, before: int) -> bool:
    """Were people asked by scores that are gone?  Once asked, a query stays, whatever is scored anew."""
    with suppress(DamagedError):
        asked_by = read_shaped(layout.package(before) / NOTE, PackageNote)["scores"]
        return bool(asked_by != digest(layout.scores(before), "regions-*"))
    return False


def _cells(table: pa.Table) -> dict[tuple[str, int], float | None]:
    columns = (table[name].to_pylist() for name in ("image_id", "region", "score"))
    return {(image_id, region): score for image_id, region, score in zip(*columns, strict=True)}


def _more(found: Sequence[object]) -> str:
    return f" (and {len(found) - 1} more)" if len(found) > 1 else ""
