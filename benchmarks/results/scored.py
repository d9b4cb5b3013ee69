"""The pool as one cycle has scored it: a pass over its files says what lies where, and a picture then opens only the
shards that it shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from querying.base.arrow_file import scored_file
from querying.dataset.schemas import PSEUDO_LABELS
from querying.labels.regions import RegionGrid
from querying.scoring.score_files import read_scores


@dataclass(frozen=True)
class ScoredPool:
    """Image ids in the order of the files, the share of each image's pixels that got a pseudo-label, and the number of
    its shard; as arrays, since a pool may be large."""

    folder: Path
    ids: pa.Array
    coverage_N: npt.NDArray[np.float64]
    shard_N: npt.NDArray[np.int32]

    @classmethod
    def read(cls, folder: Path) -> ScoredPool:
        """Empty where the folder is not there.  Hashes every file of pseudo-labels."""
        ids, coverage, shards = [pa.array([], pa.string())], [np.zeros(0)], [np.zeros(0, np.int32)]
        for path in sorted(folder.glob("pseudo-*.arrow")):
            [number] = re.findall(r"\d+", path.stem)
            for batch in scored_file(path, PSEUDO_LABELS).batches():
                ids.append(pa.concat_arrays([batch["image_id"]]))  # a copy: nothing stays mapped
                coverage.append(batch["coverage"].to_numpy().astype(np.float64))
                shards.append(np.full(batch.num_rows, int(number), np.int32))
        return cls(folder, pa.concat_arrays(ids), np.concatenate(coverage), np.concatenate(shards))

    def shard(self, image_id: str) -> int | None:
        """The number of an image's shard; None where the cycle has not scored it."""
        place = pc.index(self.ids, pa.scalar(image_id)).as_py()
        return None if place < 0 else int(self.shard_N[place])

    def by_coverage(self) -> pa.Array:
        """Places of the images from the one labelled least to the one labelled most; ties by id."""
        table = pa.table({"coverage": self.coverage_N, "image_id": self.ids})
        return pc.sort_indices(table, [("coverage", "ascending"), ("image_id", "ascending")])

    def pseudo_labels(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The PNG of each of these images that the cycle has scored."""
        found: dict[str, bytes] = {}
        for number in self._shards(ids):
            table = scored_file(self.folder / f"pseudo-{number:05d}.arrow", PSEUDO_LABELS).table()
            pairs = zip(table["image_id"].to_pylist(), table["label"], strict=True)
            found |= {image_id: label.as_py() for image_id, label in pairs if image_id in ids}
        return found

    def scores(self, ids: Sequence[str], grid: RegionGrid) -> dict[str, npt.NDArray[np.float32]]:
        """The scores of its regions (R,), found likewise."""
        found: dict[str, npt.NDArray[np.float32]] = {}
        for number in self._shards(ids):
            shard_ids, score_NR = read_scores(self.folder / f"regions-{number:05d}.arrow", grid.num_regions)
            found |= {image_id: score_NR[place] for place, image_id in enumerate(shard_ids) if image_id in ids}
        return found

    def _shards(self, ids: Sequence[str]) -> list[int]:
        return sorted({number for image_id in ids if (number := self.shard(image_id)) is not None})
