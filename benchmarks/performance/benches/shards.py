"""A pool of many small shards through the driver's own stages: scored (by a network that costs next to nothing) and
published, selected and bought, reported, each in a process of its own: what is measured is what a shard and a cell
cost.

Run:  python -m benchmarks.performance.benches.shards [IMAGES [FOLDER]]      (9,600 images; the bars are for 300,000)

Data set and run stay in FOLDER where one is named, and a data set that is there is used again: so two versions of the
code can be measured on the same bytes, and what they made compared.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.performance.peak import peak_mb, restart_peak
from benchmarks.performance.result import Result, found
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout, once
from orchestrator.folder.published import write_query
from orchestrator.process.progress import SilentProgress
from orchestrator.recipe.config import RunConfig
from orchestrator.run.context import RunContext
from orchestrator.run.stages import Stages, whole_images
from querying.base.files import write_json
from querying.dataset.index import DataIndex
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import image_ids
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from querying.settings import QuerySettings

if TYPE_CHECKING:
    from torch import Tensor

IMAGES, FULL, SHARD_IMAGES = 9_600, 300_000, 32
SIDE, REGION, CLASSES = 16, 8, 6
BARS = {"score": None, "buy": 60.0, "report": 30.0}
"""Seconds for FULL images; fewer have none, since drawing a report takes its seconds for any number."""
BAR_MB = 600.0
WHAT = {
    "score": "score and pseudo-label, flush, hash and publish",
    "buy": "select a cell of every image, ask for its label, write the ledger",
    "report": "report",
}


def main(*, rounds: int = 1, threads: int = 2, images: int = IMAGES, folder: Path | None = None) -> list[Result]:
    """Once, each part in a process of its own; `peak_mb` is what it adds to what is resident after its imports."""
    results = []
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as root:
        prepare(Path(root), images)
        for part, bar in BARS.items():
            command = [sys.executable, "-m", "benchmarks.performance.benches.shards", part, str(root), str(threads)]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            setting = f"{images:,} images of {SIDE}x{SIDE} in shards of {SHARD_IMAGES}, {REGION}x{REGION} cells"
            results.append(
                found(
                    f"shards_{part}", f"{-(-images // SHARD_IMAGES):,} small shards: {WHAT[part]}", setting,
                    done.pop("seconds"), bar=bar if images == FULL else None, at_most=True, unit="s",
                    holds=done["peak_mb"] <= BAR_MB, bar_peak_mb=BAR_MB, **done,
                )
            )  # fmt: skip
    return results


def prepare(root: Path, images: int) -> None:
    """The data set, unless it is there; a run whose cycles 0 and 1 are trained and evaluated, as far as files say."""
    data = root / "data"
    if not (data / "index.json").exists():
        _write_data(data, images)
    shutil.rmtree(root / "run", ignore_errors=True)
    index, layout, config = DataIndex.load(data), RunLayout(root / "run"), _config()
    from orchestrator.folder.recipe_file import write_recipe

    layout.root.mkdir(parents=True)
    write_recipe(layout.recipe, config, {"data": {"root": str(data), "name": index.name, "sha256": index.digest}})
    counts = (np.eye(CLASSES, dtype=int) * 50 + 1).tolist()
    for cycle in (0, 1):
        once(layout.checkpoint(cycle), lambda folder: write_json(folder / "meta.json", {"history": []}))
        once(layout.evaluation(cycle), lambda f: write_json(f / "confusion.json", {"split": "test", "counts": counts}))
    first = image_ids(data, index.shards("train")[0])[:4]
    oracle = SimulatedOracle(index, _grid(index))
    Ledger(layout.ledger).append(0, oracle.annotate(0, whole_images(first, _grid(index))))


def _write_data(data: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    splits = {}
    for split, count in (("train", images), ("test", SHARD_IMAGES)):
        with ShardWriter(data, split, num_classes=CLASSES, shard_size=SHARD_IMAGES) as writer:
            for number in range(count):
                image_HWC = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
                blocks = rng.integers(0, CLASSES, (SIDE // 2, SIDE // 2), dtype=np.uint8)  # no two cells alike
                writer.add(f"{split}_{number:09d}", image_HWC, blocks.repeat(2, axis=0).repeat(2, axis=1))
        splits[split] = writer.close()
    names = tuple(f"class {number}" for number in range(CLASSES))
    palette = tuple((40 * number, 0, 0) for number in range(CLASSES))
    DataIndex(data, "many shards", names, palette, SIDE, SIDE, "ppm", {"kind": "noise"}, splits).save()


def _config() -> RunConfig:
    query = QuerySettings(
        region_size=REGION, per_image=1, exclude_border=False, batch_size=SHARD_IMAGES, scales=(1.0,), threads=1
    )
    return RunConfig(name="shards", cycles=1, query=query)


def _grid(index: DataIndex) -> RegionGrid:
    return RegionGrid(index.height, index.width, REGION)


def measure(part: str, root: Path, threads: int) -> dict[str, float]:
    """Wall and processor seconds of a part, and its memory: resident before it, and the most that it adds to that."""
    import torch

    torch.set_num_threads(threads)
    work = PARTS[part]()
    index, layout = DataIndex.load(root / "data"), RunLayout(root / "run")
    before, started, spent = restart_peak(), time.perf_counter(), time.process_time()
    work(index, layout)
    seconds, spent = time.perf_counter() - started, time.process_time() - spent
    return {
        "seconds": round(seconds, 2), "processor_seconds": round(spent, 2),
        "resident_before_mb": round(before, 1), "peak_mb": round(peak_mb() - before, 1),
    }  # fmt: skip


Work = Callable[[DataIndex, RunLayout], None]


def _score() -> Work:
    def work(index: DataIndex, layout: RunLayout) -> None:
        stages = _stages(index, layout)
        once(layout.scores(0), partial(stages.score, 0))

    return work


def _buy() -> Work:
    from orchestrator.run.loop import buy

    def work(index: DataIndex, layout: RunLayout) -> None:
        import pyarrow.parquet as pq

        stages, oracle = _stages(index, layout), SimulatedOracle(index, _grid(index))
        query = once(layout.query(0), partial(write_query, partial(stages.select, 0)))
        wanted = pq.read_table(query / "query.parquet")
        buy(stages.ledger, 1, partial(oracle.annotate, 1, wanted), print)

    return work


def _report() -> Work:
    from benchmarks.report.page import write_report
    from orchestrator.run.summary import cycle_row, write_summary

    def work(index: DataIndex, layout: RunLayout) -> None:
        ledger = Ledger(layout.ledger)
        rows = [cycle_row(layout, ledger, index, cycle, scored=not cycle) for cycle in (0, 1)]
        write_summary(layout, _config(), rows, None, finished=True)
        write_report([layout.root], layout.root / "report", index)

    return work


PARTS = {"score": _score, "buy": _buy, "report": _report}


def _stages(index: DataIndex, layout: RunLayout) -> Stages:
    backend, progress = _CheapNetwork(), SilentProgress()
    return Stages(RunContext(config=_config(), index=index, layout=layout, backend=backend, progress=progress))


class _CheapNetwork(LocalBackend):
    """This process, and the real scorer, whose network is mixed colours: all that is left is the driver's and the
    files' time."""

    def map(
        self, make_worker: Callable[[], Any], method: str, items: Iterable[Any], **keys: Any
    ) -> Iterator[Any]:  # fmt: skip
        if method != "score_shard":
            return super().map(make_worker, method, items, **keys)
        assert isinstance(make_worker, partial)
        make, *where = make_worker.args  # the machine is noted before it is called
        scorer = partial(make.func, _mixed_colours, *make.args[1:], **make.keywords)
        return super().map(partial(make_worker.func, scorer, *where), method, items, **keys)


def _mixed_colours() -> Callable[[Tensor, float], Tensor]:
    import torch

    mix_CK = torch.from_numpy(np.random.default_rng(1).standard_normal((CLASSES, 3)).astype(np.float32)) / 64

    def predict(images_BCHW: Tensor, scale: float) -> Tensor:
        small = torch.nn.functional.avg_pool2d(images_BCHW.float(), 4)
        return torch.einsum("ck,bkhw->bchw", mix_CK, small)

    return predict


if __name__ == "__main__":
    if len(sys.argv) > 3:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main(
            images=int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES,
            folder=Path(sys.argv[2]) if len(sys.argv) > 2 else None,
        )
