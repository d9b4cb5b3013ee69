"""Selection over a pool of 1,000,000 images of 192 cells, 4 cells an image, from shards of scores that are drawn one by
one.  Drawing them is not counted, and seconds are those of the processor (one thread, no file).  Each form runs in a
process of its own, whose peak memory says what it needs.

Run:  python -m benchmarks.performance.benches.selection
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median

import numpy as np

from benchmarks.performance.peak import peak_mb, restart_peak
from benchmarks.performance.result import Result, found
from querying.labels.regions import RegionGrid
from querying.selection.areas import PoolAreas
from querying.selection.top_regions import Cells, ShardScores, select_global, select_per_image, within_budget

IMAGES, REGIONS, PER_IMAGE, SHARD_IMAGES = 1_000_000, 192, 4, 1024
BARS = {"per_image": 2.0, "global": 1.5}
BAR_MB = 100
FORMS: dict[str, Callable[[Iterator[ShardScores], int], Cells]] = {
    "per_image": lambda shards, images: select_per_image(shards, PER_IMAGE),
    "global": lambda shards, images: select_global(shards, PER_IMAGE * images),
}


class DrawnShards:
    """Uniform scores in float32; `seconds` is what drawing them has taken."""

    def __init__(self, images: int, shard_images: int = SHARD_IMAGES) -> None:
        self.images, self.shard_images = images, shard_images
        self.seconds = 0.0

    def __iter__(self) -> Iterator[ShardScores]:
        rng = np.random.default_rng(0)
        for first in range(0, self.images, self.shard_images):
            started = time.process_time()
            score = rng.random((min(self.shard_images, self.images - first), REGIONS), dtype=np.float32)
            self.seconds += time.process_time() - started
            yield first, score


def main(*, rounds: int = 3, threads: int = 1) -> list[Result]:
    """One thread, whatever `threads` says: selection is the driver's."""
    results = []
    for form in FORMS:
        command = [sys.executable, "-m", "benchmarks.performance.benches.selection", form, str(IMAGES), str(rounds)]
        done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        results.append(
            found(
                f"selection_{form}", f"selection {form.replace('_', ' ')}, {IMAGES:,} images x {REGIONS} cells",
                f"{PER_IMAGE} cells an image, shards of {SHARD_IMAGES}, 1 thread", done["seconds"], bar=BARS[form],
                at_most=True, unit="s", holds=done["extra_mb"] <= BAR_MB, bar_extra_mb=BAR_MB, **done,
            )
        )  # fmt: skip
    return results


def measured(form: str, images: int, rounds: int) -> dict[str, float]:
    """Median seconds without drawing; the peak memory over what there was before, and over that and the result."""
    spent, peak, result, budget = [], 0.0, 0.0, 0.0
    for turn in range(rounds + 1):
        shards = DrawnShards(images)
        before = restart_peak()
        started = time.process_time()
        cells = FORMS[form](iter(shards), images)
        if turn:
            spent.append(time.process_time() - started - shards.seconds)
        else:
            peak, result = peak_mb() - before, sum(column.nbytes for column in cells) / 2**20
            budget = _budget_seconds(cells)
        del cells
    return {
        "seconds": round(median(spent), 3), "peak_mb": round(peak, 1), "result_mb": round(result, 1),
        "extra_mb": round(peak - result, 1), "budget_seconds": round(budget, 3),
    }  # fmt: skip


def _budget_seconds(cells: Cells) -> float:
    """`within_budget` with room for half of the cells, which follows any selection."""
    started = time.process_time()
    areas = PoolAreas(RegionGrid(360, 480, 30))
    within_budget(cells, areas, 900 * cells.num // 2)
    return time.process_time() - started


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
