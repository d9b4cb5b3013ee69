"""Does the driver's memory grow with the pool?  Peak of fresh processes that label the first images, all images (the
reference) and one query, over pools of 100 and 2,000 images: real selection, oracle and ledger, synthetic scores.

Run:  python -m benchmarks.performance.benches.memory
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from orchestrator.recipe.config import RunConfig

POOLS = (100, 2_000)
BAR_MB = 50
HEIGHT, WIDTH, REGION, SHARD_SIZE = 96, 128, 8, 64


def main(*, rounds: int = 1, threads: int = 1) -> list[dict[str, Any]]:
    """Memory does not differ between rounds: one is made, whatever `rounds` and `threads` say."""
    with tempfile.TemporaryDirectory() as folder:
        peaks = {}
        for pool in POOLS:
            root = Path(folder, str(pool))
            _prepare(root, pool)
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.performance.benches.memory", str(root)],
                check=True,
                capture_output=True,
                text=True,
            )
            peaks[pool] = json.loads(done.stdout)["peak_mb"]
    grown = peaks[POOLS[1]] - peaks[POOLS[0]]
    result = {
        "name": "driver_memory",
        "what": f"driver's peak memory, pool of {POOLS[1]} minus pool of {POOLS[0]} images",
        "setting": f"{HEIGHT}x{WIDTH}, {HEIGHT // REGION * WIDTH // REGION} regions, 10 % labelled whole, 4 regions"
        " bought of each other image, and all images whole for the reference",
        "mb": {str(pool): round(peak, 1) for pool, peak in peaks.items()},
        "ratio": round(grown, 1),
        "unit": "MB",
        "bar": BAR_MB,
        "at_most": True,
        "passes": grown <= BAR_MB,
    }
    print(json.dumps(result))
    return [result]


def _prepare(root: Path, pool: int) -> None:
    from querying.base.files import sha256, write_json
    from querying.dataset.schemas import REGION_SCORES
    from querying.dataset.shard_writer import ShardWriter
    from querying.dataset.shards import image_ids

    rng = np.random.default_rng(0)
    with ShardWriter(root, "train", num_classes=6, shard_size=SHARD_SIZE) as writer:
        for number in range(pool):
            image = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            mask = rng.integers(0, 6, (HEIGHT // REGION, WIDTH // REGION), dtype=np.uint8)
            writer.add(f"{number:07d}", image, mask.repeat(REGION, axis=0).repeat(REGION, axis=1))
    shards = writer.close()
    scores = root / "run" / "cycle-000" / "scores"
    scores.mkdir(parents=True)
    regions = HEIGHT // REGION * WIDTH // REGION
    whole = set(_first([f"{number:07d}" for number in range(pool)]))
    for number, shard in enumerate(shards):
        ids = [image_id for image_id in image_ids(root, shard) if image_id not in whole]
        columns = {"image_id": ids, "score": list(rng.random((len(ids), regions), dtype=np.float32))}
        path = scores / f"regions-{number:05d}.arrow"
        with pa.ipc.new_file(path, REGION_SCORES) as sink:
            sink.write_table(pa.table(columns, schema=REGION_SCORES))
        write_json(scores / f"shard-{number:05d}.json", {path.name: sha256(path)})
    names = [f"class {number}" for number in range(6)]
    index = {
        "schema": 1, "name": "noise", "classes": names, "palette": [[40 * n, 0, 0] for n in range(6)],
        "height": HEIGHT, "width": WIDTH, "encoding": "ppm", "source": {"kind": "noise"},
        "splits": {"train": [_as_json(shard) for shard in shards]},
    }  # fmt: skip
    write_json(root / "index.json", index)


def _as_json(shard: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(shard)


def _config() -> RunConfig:
    from orchestrator.recipe.config import RunConfig
    from querying.settings import QuerySettings

    return RunConfig(name="memory", query=QuerySettings(region_size=REGION, exclude_border=False))


def _first(ids: list[str]) -> list[str]:
    from orchestrator.run.first_labels import draw, initial_count

    config = _config()
    return sorted(draw(config.seed, ids, initial_count(config, len(ids))))


def drive(root: Path) -> None:
    """What the driver does between two trainings; prints its peak memory."""
    from benchmarks.performance.peak import peak_mb
    from orchestrator.backends.local_backend import LocalBackend
    from orchestrator.folder.layout import RunLayout
    from orchestrator.process.progress import SilentProgress
    from orchestrator.run.context import RunContext
    from orchestrator.run.stages import Stages, whole_images
    from querying.dataset.shards import DataIndex
    from querying.labels.ledger import Ledger
    from querying.labels.oracle import SimulatedOracle
    from querying.labels.regions import RegionGrid

    index, layout = DataIndex.load(root), RunLayout(root / "run")
    grid, ledger = RegionGrid(index.height, index.width, REGION), Ledger(layout.ledger)
    stages = Stages(
        RunContext(config=_config(), index=index, layout=layout, backend=LocalBackend(), progress=SilentProgress())
    )
    oracle = SimulatedOracle(index, grid)
    everything = oracle.answerable()
    first = _first(everything)
    ledger.append(0, oracle.annotate(0, whole_images(first, grid)))
    Ledger(layout.reference.ledger).append(0, oracle.annotate(0, whole_images(everything, grid)))
    ledger.append(1, oracle.annotate(1, stages.select(0)))
    ledger.spent(1)
    print(json.dumps({"peak_mb": peak_mb()}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        drive(Path(sys.argv[1]))
    else:
        main()
