"""A pool of a million images of 192 cells through the real files: scores written and read back, both selections, ledger
and index, each with its time and peak memory; and from these figures a pool of 100 million.

Run:  python -m benchmarks.performance.benches.scale [IMAGES]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.performance.peak import peak_mb, restart_peak
from benchmarks.performance.result import Result, found
from querying.base.files import sha256, write_json
from querying.dataset.index import DataIndex, Shard
from querying.dataset.schemas import LEDGER, REGION_SCORES
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import image_ids
from querying.labels.ledger import Ledger
from querying.scoring.score_files import read_scores
from querying.selection.top_regions import Cells, select_global, select_per_image

IMAGES, REGIONS, PER_IMAGE, SHARD_IMAGES, INDEX_SHARDS = 1_000_000, 192, 4, 4096, 10_000
PNG_BYTES = 108
"""Mean of the cells of 30x30 pixels of a generated street scene."""
WHAT = {
    "index": f"index of {INDEX_SHARDS:,} shards: read and check that the files are there",
    "ids": "ids of 256 images of 360x480 (ppm): hashes the shard first",
    "write": "score files: draw, write, hash",
    "per_image": "read the score files and select per image",
    "global": "read the score files and select over the whole pool",
    "append": "ledger: append the cells bought",
    "spent": "ledger: hash it and add up what was bought",
    "bought": "ledger: what every image has, for the scorers",
}


def main(*, rounds: int = 1, threads: int = 1, images: int = IMAGES) -> list[Result]:
    """Once, in a process of its own, whose peak memory is that of each part; no bar."""
    command = [sys.executable, "-m", "benchmarks.performance.benches.scale", str(images)]
    parts = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    setting = f"{images:,} images x {REGIONS} cells, {PER_IMAGE} bought of each, score files of {SHARD_IMAGES}"
    return [
        found(f"scale_{name}", f"scale: {what}", setting, parts[name].pop("seconds"), unit="s", **parts[name])
        for name, what in WHAT.items()
    ]


def simulate(root: Path, images: int) -> dict[str, dict[str, float]]:
    """Seconds, peak memory over what there was before, and size on disk where there is one, of each part of WHAT."""
    parts: dict[str, dict[str, float]] = {}
    before, started = 0.0, 0.0

    def begin() -> None:
        nonlocal before, started
        before, started = restart_peak(), time.perf_counter()

    def end(name: str, **more: float) -> None:
        seconds = round(time.perf_counter() - started, 3)
        parts[name] = {"seconds": seconds, "peak_mb": round(peak_mb() - before, 1), **more}

    _write_index(root / "data")
    begin()
    DataIndex.load(root / "data")
    end("index", megabytes=round(_size([root / "data/index.json"]), 2), shards=INDEX_SHARDS)
    shard = _image_shard(root / "pixels")
    begin()
    found_ids = image_ids(root / "pixels", shard)
    end("ids", images=len(found_ids), megabytes=round(_size([root / "pixels" / shard.images]), 1))

    begin()
    for number, first in enumerate(range(0, images, SHARD_IMAGES)):
        write_scores(root, number, first, min(SHARD_IMAGES, images - first))
    end("write", megabytes=round(_size(root.glob("regions-*.arrow")), 1))

    ids: list[str] = []
    for name in ("per_image", "global"):
        ids.clear()
        begin()
        if name == "global":
            cells = select_global(_shards(root, ids), PER_IMAGE * images)
        else:
            cells = select_per_image(_shards(root, ids), PER_IMAGE)
        end(name, cells=cells.num)

    ledger = Ledger(root / "ledger")
    # An image costs its regions a bit each, however many cells: per image means all images, the most there can be.
    cells = select_per_image(_shards(root, ids := []), PER_IMAGE)
    begin()
    ledger.append(0, _rows(cells.take(np.arange(4)), ids, 0))
    ledger.append(1, _rows(cells.take(np.arange(4, cells.num)), ids, 1))
    end("append", megabytes=round(_size([ledger.path(1)]), 1), cells=cells.num)
    begin()
    ledger.spent(1)
    end("spent")
    begin()
    assert len(ledger.bought(1)) == len(ids) - 1
    end("bought")
    return parts


def write_scores(root: Path, number: int, first: int, count: int) -> None:
    """A file of scores as the scorer writes it; the border ring of 12 x 16 cells is not eligible."""
    rng = np.random.default_rng(number)
    score = rng.random(count * REGIONS, dtype=np.float32)
    ring = np.ones((12, 16), bool)
    ring[1:-1, 1:-1] = False
    offsets = np.arange(0, (count + 1) * REGIONS, REGIONS, dtype=np.int32)
    lists = pa.ListArray.from_arrays(offsets, pa.array(score, mask=np.tile(ring.ravel(), count)))
    ids = [f"image_{place:09d}" for place in range(first, first + count)]
    path = root / f"regions-{number:05d}.arrow"
    with pa.ipc.new_file(path, REGION_SCORES) as sink:
        sink.write_table(pa.table({"image_id": ids, "score": lists}, schema=REGION_SCORES))
    write_json(root / f"shard-{number:05d}.json", {path.name: sha256(path)})


def _shards(root: Path, ids: list[str]) -> Iterator[tuple[int, np.ndarray]]:
    for path in sorted(root.glob("regions-*.arrow")):
        shard_ids, score_NR = read_scores(path, REGIONS)
        yield len(ids), score_NR
        ids.extend(shard_ids)


def _rows(cells: Cells, ids: list[str], cycle: int) -> Iterator[pa.RecordBatch]:
    """Ledger rows as the oracle gives them; noise as long as the PNG of a cell stands for it."""
    rng = np.random.default_rng(cycle)
    for start in range(0, cells.num, 65_536):
        part = cells.take(np.arange(start, min(start + 65_536, cells.num)))
        columns: dict[str, Any] = {
            "image_id": [ids[position] for position in part.position_S.tolist()],
            "region": part.region_S,
            "cycle": np.full(part.num, cycle, np.int32),
            "pixels": np.full(part.num, 900),
            "void_pixels": np.zeros(part.num, np.int64),
            "score": part.score_S,
            "label": _noise(rng, part.num),
        }
        yield pa.RecordBatch.from_pydict(columns, schema=LEDGER)


def _noise(rng: np.random.Generator, count: int) -> pa.Array:
    offsets = np.arange(0, (count + 1) * PNG_BYTES, PNG_BYTES, dtype=np.int32)
    return pa.Array.from_buffers(
        pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(rng.bytes(count * PNG_BYTES))]
    )


def _write_index(root: Path) -> None:
    for folder in ("images", "truth"):
        (root / folder).mkdir(parents=True)
    shards = []
    for number in range(INDEX_SHARDS):
        names = [f"{folder}/train-{number:05d}.arrow" for folder in ("images", "truth")]
        for name in names:
            (root / name).touch()
        shards.append(Shard(names[0], names[1], 32, 32, "0" * 64, "0" * 64, (100_000,) * 11, 100_000))
    names_K = tuple(f"class {number}" for number in range(11))
    palette = tuple((20 * number, 0, 0) for number in range(11))
    DataIndex(root, "many", names_K, palette, 360, 480, "ppm", {"kind": "none"}, {"train": tuple(shards)}).save()


def _image_shard(root: Path) -> Shard:
    image = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
    with ShardWriter(root, "train", num_classes=11, shard_size=256) as writer:
        for number in range(256):
            writer.add(f"{number:03d}", image, None)
    return writer.close()[0]


def _size(paths: Any) -> float:
    return float(sum(path.stat().st_size for path in paths) / 1e6)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(simulate(Path(folder), int(sys.argv[1]))))
    else:
        main()
