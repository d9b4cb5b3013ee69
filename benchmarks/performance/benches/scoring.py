"""What scoring costs beyond the network: a whole shard, written, against the bare forward pass; an actor against this
process.

Run:  python -m benchmarks.performance.benches.scoring
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.datasets.sources.toy import ToySample
from benchmarks.performance.subject import CLASSES, HEIGHT, WIDTH, trained
from benchmarks.performance.timing import times
from orchestrator.backends.ray_backend import connected
from querying.dataset.index import Shard
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import read_images
from querying.labels.regions import RegionGrid
from querying.scoring.pool import ScoreTask
from querying.scoring.ray_map import map_unordered
from querying.scoring.scorer import ShardScorer
from querying.settings import QuerySettings
from training.inference.predictor import Predictor

BATCH, SHARD_IMAGES = 4, 32  # as `s4al ingest` writes them
BARS = {"scoring": 0.85, "actor": 0.95}


def main(*, rounds: int = 5, threads: int = 2) -> list[dict[str, Any]]:
    """Ratios of images/s."""
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shard, checkpoint = _shard(root), _checkpoint(root / "checkpoint")
        make = partial(
            ShardScorer,
            partial(Predictor, checkpoint),
            RegionGrid(HEIGHT, WIDTH, 30),
            root / "scores",
            QuerySettings(scales=(1.0,), threshold=0.2, batch_size=BATCH, threads=threads),
            seed=0,
            cycle=0,
        )
        few = min(rounds, 3)  # each starts its actors anew, which takes longer than what is timed
        return [
            _against_forward(make(), root, shard, 2 * rounds),  # a difference that noise can hide
            _actors(make, root, shard, few, threads, 1),
            _actors(make, root, shard, few, threads, 2),
        ]


def _against_forward(scorer: ShardScorer, root: Path, shard: Shard, rounds: int) -> dict[str, Any]:
    spent = against_forward(scorer, root, shard, BATCH, rounds)
    ratio = times(spent["forward"], spent["scoring"])
    return _result("scoring", "whole scoring pass / bare forward pass, images/s", spent, ratio)


def against_forward(scorer: ShardScorer, root: Path, shard: Shard, batch: int, rounds: int) -> dict[str, list[float]]:
    """Seconds of each round: the network alone in batches of so many images, and the whole pass, files written."""
    images = np.stack([image for _, image in read_images(root, shard)])
    batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(batch)
    spent: dict[str, list[float]] = {"forward": [], "scoring": []}
    for turn in range(rounds + 1):
        started = time.perf_counter()
        for part in batches:
            scorer.predict(part, 1.0)
        between = time.perf_counter()
        scorer.score_shard(_task(root, shard, turn))
        if turn:
            spent["forward"].append(between - started)
            spent["scoring"].append(time.perf_counter() - between)
    return spent


def _actors(
    make: partial[ShardScorer], root: Path, shard: Shard, rounds: int, threads: int, actors: int
) -> dict[str, Any]:
    """As many actors as share the threads, warmed up by a shard each, from their first results to the last one; this
    process with all threads.  Two actors that start apart share the shards unevenly: hence several for each."""
    spent: dict[str, list[float]] = {"here": [], "actors": []}
    number = iter(range(1000 * actors, 1_000_000))
    here, each = make(threads=threads), max(1, threads // actors)
    here.score_shard(_task(root, shard, next(number)))
    with connected(None):
        for _ in range(rounds):
            tasks = [_task(root, shard, next(number)) for _ in range(actors + 2 * actors)]
            results: Iterator[Any] = map_unordered(
                partial(make, threads=each), "score_shard", tasks, actors=actors, num_cpus=each
            )
            for _ in range(actors):
                next(results)
            started = time.perf_counter()
            list(results)
            spent["actors"].append((time.perf_counter() - started) / actors)
            torch.set_num_threads(threads)
            started = time.perf_counter()
            for _ in range(2):
                here.score_shard(_task(root, shard, next(number)))
            spent["here"].append(time.perf_counter() - started)
    ratio = times(spent["here"], spent["actors"])
    if actors == 1:
        return _result("actor", "Ray actor / this process, images/s", spent, ratio)
    return _result("two_actors", "two Ray actors with half the threads each / this process, images/s", spent, ratio)


def _result(name: str, what: str, spent: dict[str, list[float]], ratio: float) -> dict[str, Any]:
    seconds = {key: round(median(values), 3) for key, values in spent.items()}
    result = {
        "name": name,
        "what": what,
        "setting": f"{SHARD_IMAGES} images {HEIGHT}x{WIDTH}, batch {BATCH}, one scale",
        "seconds": seconds,
        "ratio": round(ratio, 4),
        "bar": BARS.get(name),
        "passes": ratio >= BARS.get(name, 0.0),
    }
    print(json.dumps(result))
    return result


def _task(root: Path, shard: Shard, number: int) -> ScoreTask:
    return ScoreTask(number, root, shard, frozenset(), {})


def _shard(root: Path) -> Shard:
    return shard_of(root, SHARD_IMAGES, (HEIGHT, WIDTH))


def shard_of(root: Path, count: int, size: tuple[int, int]) -> Shard:
    """So many generated scenes of that height and width, written into `root`."""
    with ShardWriter(root, "train", num_classes=CLASSES, shard_size=count) as writer:
        for number in range(count):
            writer.add(f"{number:03d}", ToySample(0, "test", number, size, CLASSES).read()[0], None)
    return writer.close()[0]


def _checkpoint(folder: Path) -> Path:
    folder.mkdir()
    return trained(folder)


if __name__ == "__main__":
    main()
