"""Data loading: a pool image under pseudo-labels and bought cells, weakly and strongly augmented, per core; and what
decoding alone costs in each encoding.

Run:  python -m benchmarks.performance.bench_data
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pyarrow as pa

from benchmarks.datasets.street import draw_street
from benchmarks.performance.result import Result, found
from orchestrator.stages import whole_images
from querying.allocator import keep_freed_memory
from querying.codecs import ENCODINGS, decode_image, encode_image, encode_label
from querying.files import sha256, write_json
from querying.index import DataIndex
from querying.ledger import Ledger
from querying.oracle import SimulatedOracle
from querying.regions import RegionGrid
from querying.schemas import PSEUDO_LABELS, QUERY
from querying.shard_writer import ShardWriter
from training.dataset import TrainingData
from training.settings import AugmentSettings

HEIGHT, WIDTH, CLASSES, REGION, IMAGES = 360, 480, 11, 30, 16
BAR_MS = 6.0


def main(*, rounds: int = 7, threads: int = 2) -> list[Result]:
    """Milliseconds of processor time of one thread; `threads` is not used, since the figure is per core."""
    keep_freed_memory()  # as the process of a training, whose threads load
    with tempfile.TemporaryDirectory() as folder:
        data = training_data(Path(folder))
        ms = {
            "weak": 1e3 * per_image(partial(data.batch, rank=0, world=1, labelled=8, unlabelled=0), rounds, 8),
            "strong": 1e3 * per_image(partial(data.batch, rank=0, world=1, labelled=0, unlabelled=8), rounds, 8),
        }
    setting = f"street scenes {HEIGHT}x{WIDTH} as ppm, processor time of one thread"
    result = found(
        "data_strong", "data loading with strong augmentation, per image and core", setting, ms["strong"], bar=BAR_MS,
        at_most=True, unit="ms", ms={name: round(value, 3) for name, value in ms.items()},
    )  # fmt: skip
    return [result, *_decoding(rounds)]


def _decoding(rounds: int) -> list[Result]:
    image, _ = draw_street(np.random.default_rng(0), HEIGHT, WIDTH, CLASSES)
    results = []
    for encoding in ENCODINGS:
        data = encode_image(image, encoding)

        def read(number: int, data: bytes = data) -> None:
            for _ in range(16):
                decode_image(data).sum(dtype=np.int64)  # a view of a raw image costs something only when it is read

        spent = 1e3 * per_image(read, rounds, 16)
        results.append(
            found(
                f"decode_{encoding}", f"decode one image and read it, {encoding}", f"street scene {HEIGHT}x{WIDTH}",
                spent, unit="ms", kilobytes=round(len(data) / 1e3, 1),
            )
        )  # fmt: skip
    return results


def per_image(work: Callable[[int], object], rounds: int, images: int) -> float:
    """Median seconds of this thread's processor time over `work(0)`, `work(1)`, ..., divided by the images of each."""
    spent = []
    for turn in range(rounds + 1):
        started = time.thread_time()
        work(turn)
        if turn:
            spent.append(time.thread_time() - started)
    return median(spent) / images


def training_data(root: Path, height: int = HEIGHT, width: int = WIDTH) -> TrainingData:
    """Cycle 1 of a run: 4 images bought whole, the others pseudo-labelled, and 4 cells of each of those bought."""
    rng = np.random.default_rng(0)
    masks = {}
    with ShardWriter(root, "train", num_classes=CLASSES, shard_size=IMAGES) as writer:
        for number in range(IMAGES):
            image, masks[f"{number:03d}"] = draw_street(rng, height, width, CLASSES)
            writer.add(f"{number:03d}", image, masks[f"{number:03d}"])
    names = tuple(f"class {number}" for number in range(CLASSES))
    palette = tuple((20 * number, 0, 0) for number in range(CLASSES))
    splits = {"train": writer.close()}
    index = DataIndex(root, "streets", names, palette, height, width, "ppm", {"kind": "streets"}, splits)
    index.save()
    ids, grid, ledger = list(masks), RegionGrid(height, width, REGION), Ledger(root / "ledger")
    oracle = SimulatedOracle(index, grid)
    ledger.append(0, oracle.annotate(0, whole_images(ids[:4], grid.num_regions)))
    pool = ids[4:]
    cells = {
        "image_id": np.repeat(pool, 4).tolist(),
        "region": pa.array(np.concatenate([rng.permutation(grid.num_regions)[:4] for _ in pool]).astype(np.int32)),
        "score": pa.nulls(4 * len(pool), pa.float32()),
    }
    ledger.append(1, oracle.annotate(1, pa.table(cells, schema=QUERY)))
    scores = root / "scores"
    scores.mkdir()
    labels = {"image_id": pool, "label": [encode_label(masks[image_id]) for image_id in pool], "coverage": [1.0] * 12}
    path = scores / "pseudo-00000.arrow"
    with pa.ipc.new_file(path, PSEUDO_LABELS) as sink:
        sink.write_table(pa.table(labels, schema=PSEUDO_LABELS))
    write_json(scores / "shard-00000.json", {path.name: sha256(path)})
    settings = AugmentSettings()
    return TrainingData(index, ledger, 1, grid, [scores], augment=settings, crop=(height, width), seed=0)


if __name__ == "__main__":
    main()
