"""What a run folder says, read back for the report: files only, no network, no tracker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from benchmarks.results.scored import ScoredPool
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import read_recipe
from orchestrator.folder.record import is_live, latest
from orchestrator.recipe.config import RunConfig
from orchestrator.run.protocol import load_summary
from querying.base.errors import DamagedError, InfrastructureError, UserError
from querying.base.files import read_json
from querying.base.storage.place import Place, Remote, place
from querying.dataset.label_values import IGNORE
from querying.dataset.shards import DataIndex, SplitIds, decode_label, size_of
from querying.labels.bought import Bought, cells_of_images
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid

Counts = npt.NDArray[np.int64]
BOUGHT = "bought.json"
"""In a record (`benchmarks/results/records.py`), in place of the ledger: what was bought, by cycle."""


@dataclass(frozen=True)
class Findings:
    """One run: its recipe, its summary, and (lazily) what lies in its stages."""

    label: str
    """What the run is called in figures; unique within a report."""
    layout: RunLayout
    config: RunConfig
    provenance: Mapping[str, Any]
    summary: Mapping[str, Any]

    @property
    def cycles(self) -> Sequence[Mapping[str, Any]]:
        return self.summary["cycles"]  # type: ignore[no-any-return]

    @property
    def last(self) -> Mapping[str, Any]:
        return self.cycles[-1]

    @property
    def classes(self) -> list[str]:
        return list(self.last["class_iou"])

    @property
    def supervised(self) -> float | None:
        """mIoU of the fully supervised reference, in 0..1."""
        return self.summary["supervised_miou"]  # type: ignore[no-any-return]

    @cached_property
    def reference(self) -> Mapping[str, Any] | None:
        """The last cycle of the fully supervised reference."""
        if not self.layout.reference.summary.exists():
            return None
        return _checked(self.layout.reference.root)["cycles"][-1]  # type: ignore[no-any-return]

    @cached_property
    def epochs(self) -> list[Mapping[str, Any]]:
        """Training rows of the run's own cycles (not of the reference), in the order they were recorded."""
        rows = latest(self.layout.metrics)
        return [row for row in rows if row["run"] == "main" and row["stage"] == "train" and not is_live(row)]

    @cached_property
    def confusion(self) -> Counts:
        """counts[true, predicted] of the last cycle, int64 (C, C)."""
        path = self.layout.evaluation(self.last["cycle"]) / "confusion.json"
        counts = np.array(read_json(path)["counts"], np.int64)
        if counts.shape != (len(self.classes),) * 2:
            raise DamagedError(f"{path}: counts of shape {counts.shape} for {len(self.classes)} classes")
        return counts

    @cached_property
    def absent(self) -> frozenset[str]:
        """Classes without a single pixel in the evaluated split."""
        return frozenset(
            name for name, total in zip(self.classes, self.confusion.sum(axis=1), strict=True) if total == 0
        )

    @cached_property
    def recorded(self) -> Mapping[str, Any] | None:
        """Of a record: the grid of regions, and what was bought for each of its `cycles`; None of a run folder, which
        has its ledger."""
        path = self.layout.root / BOUGHT
        return read_json(path) if path.exists() else None

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.layout.ledger)

    @property
    def queried_cells(self) -> int:
        return int(self.last["cells"] - self.cycles[0]["cells"])

    @cached_property
    def bought(self) -> dict[int, Counts]:
        """Cycle -> pixels of each class and, last, of void in the cells bought for it, int64 (C + 1,)."""
        return {row["cycle"]: self._count(row["cycle"]) for row in self.cycles}

    def _count(self, cycle: int) -> Counts:
        if self.recorded:
            return np.array(self.recorded["cycles"][cycle]["class_pixels"].split(), np.int64)
        count_256 = np.zeros(256, np.int64)
        for part in self.ledger.parts(cycle, ["label"]):
            for equal in pc.value_counts(part["label"]):  # many a small cell is of one class, as others are
                pixels_256 = np.bincount(decode_label(equal["values"].as_buffer()).ravel(), minlength=256)
                count_256 += equal["counts"].as_py() * pixels_256
        return np.append(count_256[: len(self.classes)], count_256[IGNORE])

    @cached_property
    def _scored(self) -> dict[int, ScoredPool]:
        return {}

    def scored(self, cycle: int) -> ScoredPool:
        """The pool as the cycle has scored it, read once."""
        if cycle not in self._scored:
            self._scored[cycle] = ScoredPool.read(self.layout.scores(cycle))
        return self._scored[cycle]

    def rates(self, index: DataIndex | None) -> dict[int, dict[str, float]]:
        """Cycle -> stage -> images per wall second.  Evaluation and scoring need the data set's counts."""
        speeds: dict[int, list[float]] = {}
        for row in self.epochs:
            speeds.setdefault(row["cycle"], []).append(row["train/images_per_second"])
        rates = {cycle: {"train": float(np.mean(values))} for cycle, values in speeds.items()}
        if index:
            ids = SplitIds(index, "train") if "train" in index.ids else None
            for row in self.cycles:
                images = {
                    "evaluate": index.num_images(self.summary["evaluated_on"]),
                    "score": index.num_images("train") - self._num_whole(row["cycle"], index, ids),
                }
                for stage in images.keys() & row["seconds"].keys():
                    rates.setdefault(row["cycle"], {})[stage] = images[stage] / max(row["seconds"][stage], 1e-9)
        return rates

    def _num_whole(self, cycle: int, index: DataIndex, ids: SplitIds | None) -> int:
        """Of how many images was nothing left to buy.  A data set without files of `ids` is not read for that."""
        grid = RegionGrid(index.height, index.width, self.config.query.region_size)
        if ids is not None:
            return int(Bought(self.ledger, cycle, ids).whole(cells_of_images(index, "train", grid)).sum())
        size = size_of(index, "train")
        return len(self.ledger.whole(cycle, lambda one: grid.on(size(one)).num_cells))


def load_findings(runs: Sequence[Path]) -> list[Findings]:
    """Read every run's recipe and summary.  UserError names a folder that is not a run, or not comparable."""
    read = [_load(run) for run in runs]
    names = Counter(one.config.name for one in read)
    pairs = Counter((one.config.name, one.config.seed) for one in read)
    labelled = []
    for one in read:
        label = one.config.name
        if names[label] > 1:
            label = f"{label}, seed {one.config.seed}"
        if pairs[one.config.name, one.config.seed] > 1:
            label = str(one.layout.root)
        labelled.append(Findings(label, one.layout, one.config, one.provenance, one.summary))
    for other in labelled[1:]:
        if other.classes != labelled[0].classes:
            raise UserError(
                f"{other.layout.root}: its classes differ from those of {labelled[0].layout.root}, so the two can not"
                " be compared"
            )
    return labelled


def find_data(run: Findings) -> tuple[DataIndex | None, str]:
    """The data set that the run was made with; else None and a sentence that says why not."""
    data = run.provenance.get("data", {})
    if "root" not in data:
        return None, "recipe.yaml does not say where the data set is."
    root = place(data["root"])
    try:
        index = DataIndex.load(root)
    except (UserError, DamagedError, InfrastructureError) as error:
        if isinstance(root, Remote):  # there may be no credentials here, or no network
            return None, f"The data set can not be read: {error}."
        return None, f"The data set is not at {root} any more."
    if not index.is_that(str(data.get("sha256"))):
        return None, f"The data set at {data['root']} is not the one that the run was made with (another SHA-256)."
    return index, ""


def data_of(found: Findings, run: Path, data: Place | None) -> DataIndex:
    """The data set at `data`, or where the run had it.  UserError where it is another one, or is not there any more."""
    if data:
        index = DataIndex.load(data)
        if not index.is_that(found.provenance["data"]["sha256"]):
            raise UserError(f"{data}: not the data set that {run} was made with (another SHA-256)")
        return index
    there, why = find_data(found)
    if not there:
        raise UserError(f"{run}: {why} Name it with --data")
    return there


def _load(run: Path) -> Findings:
    summary = _checked(run)
    layout = RunLayout(run)
    config, provenance = read_recipe(layout.recipe)
    return Findings(config.name, layout, config, provenance, summary)


def _checked(run: Path) -> dict[str, Any]:
    summary = load_summary(run)
    if not summary["cycles"]:
        raise UserError(f"{RunLayout(run).summary}: no cycle is finished yet")
    return summary
