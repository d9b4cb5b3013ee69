"""Data loading: a pool image under pseudo-labels and bought cells, weakly and strongly augmented, per core; and what
decoding alone costs in each encoding.

Run:  python -m benchmarks.performance.benches.data
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from benchmarks.datasets.street.scene import draw_street
from benchmarks.performance.result import Result, found
from orchestrator.run.stages import whole_images
from querying.base.allocator import keep_freed_memory
from querying.base.files import sha256, write_json
from querying.dataset.codecs import ENCODINGS, decode_image, encode_image, encode_label
from querying.dataset.index import DataIndex
from querying.dataset.schemas import PSEUDO_LABELS, QUERY
from querying.dataset.shard_writer import ShardWriter
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import RegionGrid
from training.batches.training_data import TrainingData
from training.settings.training import AugmentSettings

HEIGHT, WIDTH, CLASSES, REGION, IMAGES = 360, 480, 11, 30, 16
BATCH, BATCHES = 8, 8
BAR_MS = 6.0


def main(*, rounds: int = 7, threads: int = 2) -> list[Result]:
    """Milliseconds of processor time of one thread; `threads` is not used, since the figure is per core."""
    keep_freed_memory()  # as the process of a training, whose threads load
    with tempfile.TemporaryDirectory() as folder:
        data = training_data(Path(folder))
        works = {
            "weak": partial(data.batch, rank=0, world=1, labelled=BATCH, unlabelled=0),
            "strong": partial(data.batch, rank=0, world=1, labelled=0, unlabelled=BATCH),
        }
        weak, strong = per_image(works, 6 * rounds, BATCHES, BATCH).values()
    setting = f"street scenes {HEIGHT}x{WIDTH} as ppm, processor time of one thread, least of {6 * rounds} rounds"
    result = found(
        "data_strong", "data loading with strong augmentation, per image and core", setting, 1e3 * strong.least,
        bar=BAR_MS, at_most=True, unit="ms", median_ms=round(1e3 * strong.median, 3),
        weak_ms=round(1e3 * weak.least, 3), weak_median_ms=round(1e3 * weak.median, 3),
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

        spent = 1e3 * per_image({"read": read}, rounds, 1, 16)["read"].least
        results.append(
            found(
                f"decode_{encoding}", f"decode one image and read it, {encoding}", f"street scene {HEIGHT}x{WIDTH}",
                spent, unit="ms", kilobytes=round(len(data) / 1e3, 1),
            )
        )  # fmt: skip
    return results


class Spent(NamedTuple):
    """Seconds of processor time for an image: of each piece of work the least or the median of all rounds, averaged.

    On a shared processor the least is the work's own: neighbours make the same second of the same loop cost 5.5 to 9 ms
    an image here (docs/how_it_works/performance.md), and they can only add to it.
    """

    least: float
    median: float


def per_image(works: Mapping[str, Callable[[int], object]], rounds: int, pieces: int, images: int) -> dict[str, Spent]:
    """Seconds of this thread, over `work(0)`, ..., `work(pieces - 1)` of each work, `images` images each, in turns."""
    seconds = np.empty((len(works), rounds + 1, pieces))
    for turn, piece in np.ndindex(*seconds.shape[1:]):
        for number, work in enumerate(works.values()):
            started = time.thread_time()
            work(piece)
            seconds[number, turn, piece] = time.thread_time() - started
    spent = {}
    for name, own in zip(works, seconds[:, 1:], strict=True):  # the first round warms caches
        least, middle = own.min(axis=0).mean(), np.median(own, axis=0).mean()
        spent[name] = Spent(float(least) / images, float(middle) / images)
    return spent


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
    ledger.append(0, oracle.annotate(0, whole_images(ids[:4], grid)))
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
