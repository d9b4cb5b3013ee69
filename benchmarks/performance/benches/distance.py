"""A scoring pass over a pool in a bucket whose every answer comes 50 ms late, over the same pool in a folder; beside
it, as the control, the pass that fetches nothing ahead.  With the network of the other benchmarks, and with one that
costs next to nothing, so that what follows the network is left.

Run:  python -m benchmarks.performance.benches.distance
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.performance.result import Result, found
from benchmarks.performance.store import BUCKET, check_there, distant, environment, moto_server
from benchmarks.performance.subject import CLASSES, HEIGHT, WIDTH, scenes, trained
from benchmarks.performance.timing import times
from orchestrator.backends.local_backend import LocalBackend
from querying.base.relay.places import Places
from querying.base.storage.place import Place, place
from querying.base.storage.verbs import publish
from querying.dataset.index import DataIndex
from querying.dataset.shard_writer import ShardWriter
from querying.labels.regions import RegionGrid
from querying.scoring.pool import ScoreTask
from querying.scoring.scorer import Predict, ShardScorer
from querying.settings import QuerySettings
from training.inference.predictor import Predictor

SHARDS, SHARD_IMAGES, BATCH, LATENCY_S, BAR = 4, 32, 4, 0.05, 0.8
Pass = Callable[[ShardScorer], object]


def main(*, rounds: int = 3, threads: int = 2) -> list[Result]:
    """Ratios of images/s; in every round each form once, with an empty cache."""
    check_there()
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder, moto_server() as port, distant(port, LATENCY_S) as url:
        root = Path(folder)
        index = write_pool(root / "data", SHARDS)
        os.environ |= environment(url, root / "cache")
        there = place(f"s3://{BUCKET}/pool")
        publish(index.root, there, "index.json")  # type: ignore[arg-type]
        forms = passes(index, there, root)
        (root / "checkpoint").mkdir()
        load: dict[str, Callable[[], Predict]] = {
            "distance": partial(Predictor, trained(root / "checkpoint"), "cpu"),
            "distance_fast": mixed_colours,
        }
        return [_result(name, scorer_of(load[name], root, threads), index, forms, rounds) for name in load]


def write_pool(root: Path, shards: int) -> DataIndex:
    """Shards of 32 street scenes, the same ones in each, under other names."""
    images_NHWC, _ = scenes(SHARD_IMAGES)
    with ShardWriter(root, "train", num_classes=CLASSES, shard_size=SHARD_IMAGES) as writer:
        for shard in range(shards):
            for number, image_HWC in enumerate(images_NHWC):
                writer.add(f"{shard:03d}_{number:03d}", image_HWC, None)
    names, palette = tuple(map(str, range(CLASSES))), tuple((20 * number, 0, 0) for number in range(CLASSES))
    splits = {"train": writer.close()}
    DataIndex(root, "distance", names, palette, HEIGHT, WIDTH, "ppm", {"kind": "toy"}, splits).save()
    return DataIndex.load(root)


def passes(index: DataIndex, there: Place, root: Path) -> dict[str, Pass]:
    """What is compared: nothing of a pass before it is known to this process, or lies in its cache."""
    number = count()

    def tasks(where: Place) -> Iterator[ScoreTask]:
        for n, shard in enumerate(index.shards("train")):
            yield ScoreTask(n, where, shard, frozenset(), {})

    def by_backend(where: Place, scorer: ShardScorer) -> None:
        work = LocalBackend().map(
            lambda: scorer, "score_shard", tasks(where), actors=1, threads=1, timeout=60, places=Places(root, (), ()),
            say=print,
        )  # fmt: skip
        for _ in work:
            pass

    def folder(scorer: ShardScorer) -> None:
        links = root / f"links-{next(number)}"
        (links / "images").mkdir(parents=True)
        for shard in index.shards("train"):
            (links / shard.images).hardlink_to(index.root / shard.images)  # type: ignore[arg-type]
        by_backend(links, scorer)

    def emptied() -> None:
        os.environ["S4AL_CACHE"] = str(root / f"cache-{next(number)}")

    def bucket(scorer: ShardScorer) -> None:
        emptied()
        by_backend(there, scorer)

    def nothing_ahead(scorer: ShardScorer) -> None:
        emptied()
        for task in tasks(there):
            scorer.score_shard(task)

    return {"folder": folder, "bucket": bucket, "nothing_ahead": nothing_ahead}


def scorer_of(load: Callable[[], Predict], root: Path, threads: int) -> ShardScorer:
    settings = QuerySettings(scales=(1.0,), threshold=0.2, batch_size=BATCH, threads=threads)
    return ShardScorer(load, RegionGrid(HEIGHT, WIDTH, 30), root, settings, seed=0, cycle=0)


def _result(name: str, scorer: ShardScorer, index: DataIndex, forms: dict[str, Pass], rounds: int) -> Result:
    shard = index.shards("train")[0]

    def seconds(work: Pass) -> float:
        scorer.out, whole = Path(tempfile.mkdtemp(dir=scorer.out)), scorer.out
        started = time.perf_counter()
        work(scorer)
        ended = time.perf_counter()
        shutil.rmtree(scorer.out)
        scorer.out = whole
        return ended - started

    seconds(lambda scorer: scorer.score_shard(ScoreTask(0, index.root, shard, frozenset(), {})))  # it warms up
    spent: dict[str, list[float]] = {form: [] for form in forms}
    for _ in range(rounds):
        for form, work in forms.items():
            spent[form].append(seconds(work))
    megabytes = (index.root / shard.images).stat().st_size / 1e6  # type: ignore[union-attr]
    which = "" if name == "distance" else ", with a network that costs next to nothing"
    return found(
        name,
        f"scoring pass over a bucket, {1e3 * LATENCY_S:g} ms a request, over a folder, images/s{which}",
        f"{SHARDS} shards of {SHARD_IMAGES} images {HEIGHT}x{WIDTH}, {megabytes:.1f} MB each; an empty cache",
        times(spent["folder"], spent["bucket"]),
        bar=BAR if name == "distance" else None,
        nothing_ahead=round(times(spent["folder"], spent["nothing_ahead"]), 4),
        images_per_second={form: round(SHARDS * SHARD_IMAGES / median(each), 2) for form, each in spent.items()},
        seconds={form: [round(one, 3) for one in each] for form, each in spent.items()},
    )


def mixed_colours() -> Predict:
    generator = torch.Generator().manual_seed(1)
    mix_CK = torch.randn(CLASSES, 3, generator=generator) / 64

    def predict(images_BCHW: Tensor, scale: float) -> Tensor:
        small = torch.nn.functional.avg_pool2d(images_BCHW.float(), 4)
        return torch.einsum("ck,bkhw->bchw", mix_CK, small)

    return predict


if __name__ == "__main__":
    main()
