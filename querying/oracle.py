"""The simulated annotator: the only reader of the pool's truth besides the evaluation."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from querying.errors import UserError
from querying.labels import IGNORE
from querying.regions import RegionGrid
from querying.schemas import LEDGER
from querying.shards import DataIndex, encode_label, image_ids, read_truth


class SimulatedOracle:
    """Answers queries on the train split from its truth shards."""

    def __init__(self, index: DataIndex, grid: RegionGrid) -> None:
        self.index = index
        self.grid = grid

    def answerable(self) -> list[str]:
        """Train images that have a mask, in the order of the data set."""
        ids: list[str] = []
        for shard in self.index.shards("train"):
            if shard.masked == shard.rows:
                ids += image_ids(self.index.root, shard)
            else:
                ids += [image_id for image_id, mask in read_truth(self.index.root, shard) if mask is not None]
        return ids

    def annotate(self, cycle: int, query: pa.Table) -> Iterator[pa.RecordBatch]:
        """Ledger rows of the wanted cells (schema QUERY in, LEDGER out), a batch per shard.

        UserError names an image that has no mask; a wanted image that does not exist is one, too.
        """
        wanted: dict[str, list[tuple[int, float | None]]] = {}
        for row in query.to_pylist():
            wanted.setdefault(row["image_id"], []).append((row["region"], row["score"]))
        left = set(wanted)
        for shard in self.index.shards("train"):
            rows = []
            for image_id, mask_HW in read_truth(self.index.root, shard, ids=left):
                if mask_HW is None:
                    raise UserError(f"image {image_id}: no mask, so the simulated annotator can not answer")
                left.discard(image_id)
                rows += [self._row(cycle, image_id, mask_HW, *cell) for cell in wanted[image_id]]
            if rows:
                yield pa.RecordBatch.from_pylist(rows, schema=LEDGER)
        if left:
            raise UserError(f"image {min(left)}: not in the train split of {self.index.root}")

    def _row(
        self, cycle: int, image_id: str, mask_HW: np.ndarray, region: int, score: float | None
    ) -> dict[str, object]:
        cell = np.ascontiguousarray(mask_HW[self.grid.box(region)])
        return {
            "image_id": image_id,
            "region": region,
            "cycle": cycle,
            "pixels": cell.size,
            "void_pixels": int((cell == IGNORE).sum()),
            "score": score,
            "label": encode_label(cell),
        }
