"""The simulated annotator: the only reader of the pool's truth besides the evaluation."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from querying.arrow_file import scored_file
from querying.errors import UserError
from querying.files import read_json, sha256, write_json, written
from querying.labels import IGNORE
from querying.regions import RegionGrid
from querying.schemas import LEDGER, PSEUDO_LABELS, REGION_SCORES
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
        rows_of = _rows_by_image(query)
        region_S, score_S = query["region"].to_numpy(), query["score"]
        left = set(rows_of)
        for shard in self.index.shards("train"):
            rows = []
            for image_id, mask_HW in read_truth(self.index.root, shard, ids=left):
                if mask_HW is None:
                    raise UserError(f"image {image_id}: no mask, so the simulated annotator can not answer")
                left.discard(image_id)
                for s in rows_of[image_id]:
                    rows.append(self._row(cycle, image_id, mask_HW, int(region_S[s]), score_S[s].as_py()))
            if rows:
                yield pa.RecordBatch.from_pylist(rows, schema=LEDGER)
        if left:
            raise UserError(f"image {min(left)}: not in the train split of {self.index.root}")

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
            with written(path) as staged, pa.ipc.new_file(staged, PSEUDO_LABELS) as file:
                file.write_table(pa.Table.from_pylist(rows, schema=PSEUDO_LABELS))
            write_json(note, {**read_json(note), path.name: sha256(path)})

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


def _rows_by_image(query: pa.Table) -> dict[str, np.ndarray]:
    """Image id -> its rows in the query, without a Python object per row."""
    encoded = query["image_id"].combine_chunks().dictionary_encode()
    code_S = encoded.indices.to_numpy()
    order_S = np.argsort(code_S, kind="stable")
    end_I = np.bincount(code_S, minlength=len(encoded.dictionary)).cumsum()
    return dict(zip(encoded.dictionary.to_pylist(), np.split(order_S, end_I[:-1]), strict=True)) if len(code_S) else {}
