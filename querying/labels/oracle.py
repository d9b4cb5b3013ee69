"""The simulated annotator: the only reader of the pool's truth besides the evaluation."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from querying.base.arrow_file import scored_file
from querying.base.errors import DamagedError, UserError
from querying.base.files import read_json, sha256, write_json, written
from querying.dataset.codecs import UInt8
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import LEDGER, PSEUDO_LABELS, REGION_SCORES
from querying.dataset.shards import DataIndex, Shard, SplitIds, encode_label, read_truth
from querying.labels.bought import by_shard
from querying.labels.regions import RegionGrid


class SimulatedOracle:
    """Answers queries on the train split from its truth shards."""

    def __init__(self, index: DataIndex, grid: RegionGrid) -> None:
        self.index = index
        self.grid = grid

    def answerable(self) -> list[str]:
        """Train images that have a mask, in the order of the data set."""
        ids: list[str] = []
        for shard, of_shard in zip(self.index.shards("train"), SplitIds(self.index, "train"), strict=True):
            if shard.masked == shard.rows:
                ids += of_shard.to_pylist()
            else:
                ids += [image_id for image_id, mask in read_truth(self.index.root, shard) if mask is not None]
        return ids

    def classes(self) -> dict[str, frozenset[int]]:
        """The classes that are in each answerable image.  Reads every mask."""
        return {
            image_id: frozenset(np.flatnonzero(np.bincount(mask_HW.ravel(), minlength=IGNORE + 1)[:IGNORE]).tolist())
            for shard in self.index.shards("train")
            for image_id, mask_HW in read_truth(self.index.root, shard)
            if mask_HW is not None
        }

    def annotate(self, cycle: int, query: pa.Table) -> Iterator[pa.RecordBatch]:
        """Ledger rows of the wanted cells (schema QUERY in, LEDGER out), a batch per shard.

        UserError names an image that has no mask; a wanted image that does not exist is one, too.
        """
        parts = by_shard(query, SplitIds(self.index, "train"))
        shards = zip(self.index.shards("train"), parts, strict=True)
        yield from ledger_rows(self.grid, cycle, ((part, self._masks(shard, part)) for shard, part in shards))

    def asked(self, cycle: int) -> None:
        """Nobody minds to be asked again."""

    def ask(self, cycle: int, query: Path) -> None:
        """The masks are there already."""

    def _masks(self, shard: Shard, part: pa.Table) -> Iterator[tuple[str, UInt8]]:
        """Those of a shard's wanted images; a shard of which nothing is wanted is not read."""
        if not (wanted := set(part["image_id"].to_pylist())):
            return
        for image_id, mask_HW in read_truth(self.index.root, shard, ids=wanted):
            if mask_HW is None:
                raise UserError(f"image {image_id}: no mask, so the simulated annotator can not answer")
            wanted.discard(image_id)
            yield image_id, mask_HW
        if wanted:
            raise DamagedError(f"{self.index.root / shard.truth}: its images are not those of {shard.images}")

    def replace_pseudo_labels(self, scores: Path) -> None:
        """Give every image in a folder of scores its true label instead of the network's, as a control; again gives the
        same bytes.  UserError names an image that has no mask."""
        for number, shard in enumerate(self.index.shards("train")):
            path, note = scores / f"pseudo-{number:05d}.arrow", scores / f"shard-{number:05d}.json"
            ids = scored_file(scores / f"regions-{number:05d}.arrow", REGION_SCORES).table()["image_id"].to_pylist()
            rows = []
            for image_id, mask_HW in read_truth(self.index.root, shard, ids=set(ids)):
                if mask_HW is None:
                    raise UserError(f"image {image_id}: no mask, so train.pool_labels=truth can not be given")
                coverage = float((mask_HW != IGNORE).mean())
                rows.append({"image_id": image_id, "label": encode_label(mask_HW), "coverage": coverage})
            with written(path, flush=False) as staged, pa.ipc.new_file(staged, PSEUDO_LABELS) as file:
                file.write_table(pa.Table.from_pylist(rows, schema=PSEUDO_LABELS))
            write_json(note, {**read_json(note), path.name: sha256(path)}, flush=False)


def ledger_rows(
    grid: RegionGrid, cycle: int, shards: Iterable[tuple[pa.Table, Iterable[tuple[str, UInt8]]]]
) -> Iterator[pa.RecordBatch]:
    """Ledger rows of the wanted cells (schema QUERY in, LEDGER out), a batch for each shard, by the labels (H, W) of
    its images: whoever answers, the same labels give the same rows."""
    grid_of = cache(grid.on)
    for query, labels in shards:
        span_of, order_S = _rows_by_image(query)
        region_S, score_S = query["region"].to_numpy()[order_S], query["score"].to_numpy()[order_S]
        unscored_S = query["score"].is_null().to_numpy()[order_S]
        ids: list[str] = []
        rows: list[int] = []
        cells: list[np.ndarray] = []
        for image_id, label_HW in labels:
            first, end = span_of.get(image_id, (0, 0))
            ids += [image_id] * (end - first)
            rows += range(first, end)
            box = grid_of((label_HW.shape[0], label_HW.shape[1])).box
            cells += [label_HW[box(region)] for region in region_S[first:end].tolist()]
        if rows:
            columns = {
                "image_id": ids,
                "region": region_S[rows],
                "cycle": np.full(len(rows), cycle, np.int32),
                "pixels": [cell.size for cell in cells],
                "void_pixels": [np.count_nonzero(cell == IGNORE) for cell in cells],
                "score": pa.array(score_S[rows], mask=unscored_S[rows]),
                "label": [encode_label(cell) for cell in cells],
            }
            yield pa.RecordBatch.from_pydict(columns, schema=LEDGER)


def _rows_by_image(query: pa.Table) -> tuple[dict[str, tuple[int, int]], np.ndarray]:
    """Image id -> from where to where its rows are among those of the query, which come second in that order."""
    encoded = query["image_id"].combine_chunks().dictionary_encode()
    code_S = encoded.indices.to_numpy()
    ids = encoded.dictionary.to_pylist()
    end_I = np.bincount(code_S, minlength=len(ids)).cumsum().tolist()
    return dict(zip(ids, zip([0, *end_I][:-1], end_I, strict=True), strict=True)), np.argsort(code_S, kind="stable")
