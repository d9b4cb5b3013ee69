"""What a run will take: its disk from sizes that are known, its time from a few steps of every kind, really made.

The steps are made by the run's own code on a data set in miniature (made-up images of the data's size), in a folder of
its own that goes away: no file, generator or truth of the run is touched.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout
from orchestrator.process.progress import SilentProgress, clock
from orchestrator.recipe.config import RunConfig, changed
from orchestrator.run.context import RunContext
from orchestrator.run.loop import run
from querying.base.files import read_json
from querying.base.relay.places import Places
from querying.base.storage.verbs import total_size
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import DataIndex
from querying.labels.regions import RegionGrid
from training.network.checkpoint import META
from training.network.deeplab import build_model
from training.settings.training import VAL_SPLIT, TrainSettings

STEPS, GPU_STEPS = 3, 20
"""Steps of an epoch in miniature: the first of two epochs warms up, the second is timed."""
STATES = 4
"""Multiples of the network's size: weights and momentum of the two states that a training keeps."""
PAGES = 5_000_000
"""Bytes of a report."""


@dataclass(slots=True)
class Rates:
    """Seconds per image of each kind of work, in one process."""

    train: dict[int, float] = field(default_factory=dict)
    """By cycle, 0 or 1; all later ones are like the second."""
    shards: dict[str, float] = field(default_factory=dict)
    """By method of the worker: `evaluate_images`, `score_shard`, `count_shard`, `rank_shard`."""


class _Timed(LocalBackend):
    """Times every shard; the first of a kind warms up."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[float]] = {}

    def map(
        self,
        make_worker: Callable[[], Any],
        method: str,
        items: Iterable[Any],
        *,
        actors: int,
        threads: int,
        timeout: float,
        places: Places,
        say: Callable[[str], None],
    ) -> Iterator[Any]:
        worker = make_worker()
        for item in items:
            started = time.perf_counter()
            found = getattr(worker, method)(item)
            images = found.images if method == "score_shard" else item.shard.rows
            if images:
                self.found.setdefault(method, []).append((time.perf_counter() - started) / images)
            yield found


def trainings(config: RunConfig) -> list[tuple[int, TrainSettings]]:
    """(cycle, settings) of every training, the reference's as another cycle 0."""
    own = [(cycle, config.train_at(cycle, last=cycle == config.cycles)) for cycle in range(config.cycles + 1)]
    return [*own, *([(0, config.as_reference().train_at(0, last=True))] if config.reference else [])]


def measured(config: RunConfig, index: DataIndex) -> Rates:
    """Make a few steps of each kind."""
    steps = GPU_STEPS if torch.cuda.is_available() else STEPS
    small = _miniature(config, steps)
    with tempfile.TemporaryDirectory(prefix="s4al-estimate-") as folder:
        data = _made_up(index, small, Path(folder) / "data")
        layout, backend = RunLayout(Path(folder) / "run"), _Timed()
        layout.root.mkdir()
        run(RunContext(config=small, index=data, layout=layout, backend=backend, progress=SilentProgress()))
        rates = Rates()
        for cycle in range(small.cycles + 1):
            history = read_json(layout.checkpoint(cycle) / META)["history"]
            rates.train[cycle] = 1 / history[-1]["train/images_per_second"]
    rates.shards = {method: min(found) for method, found in backend.found.items()}
    return rates


def seconds(config: RunConfig, index: DataIndex, rates: Rates) -> dict[str, float]:
    """Seconds of training, evaluation and scoring, the reference included."""
    found = dict.fromkeys(("training", "evaluation", "scoring"), 0.0)
    per_image = rates.shards["evaluate_images"]
    for cycle, one in trainings(config):
        steps = one.epochs * one.steps_per_epoch
        found["training"] += steps * _images(one) * rates.train[min(cycle, max(rates.train))]
        looks = -(-one.epochs // one.validate_epochs) if one.validate_epochs else 0
        found["evaluation"] += looks * index.num_images(VAL_SPLIT) * per_image if looks else 0.0
        times = 2 if config.evaluate.best_on_val else 1
        found["evaluation"] += times * index.num_images(config.data.evaluate_on) * per_image
    pool = sum(shard.rows for shard in index.shards("train"))
    each = [rates.shards.get(method, 0.0) for method in ("score_shard", "count_shard")]
    found["scoring"] += config.cycles * pool * sum(each)
    found["scoring"] += pool * rates.shards.get("rank_shard", 0.0)
    return found


def bytes_kept(config: RunConfig, index: DataIndex) -> int:
    """On the disk when the run is done, and while its last training goes on: networks, and for each query the scores
    and pseudo-labels of the pool; a pseudo-label is taken to be as large as a mask."""
    with torch.random.fork_rng([]), torch.device("cpu" if config.model.own_encoder else "meta"):
        model = build_model(config.model, index.num_classes, embedding=config.reco.weight > 0)
    network = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    pool = sum(shard.rows for shard in index.shards("train"))
    masks = total_size(index.root, (shard.truth for shard in index.shards("train")))
    grid = RegionGrid(index.height, index.width, config.query.region_size)
    networks = len(trainings(config)) * (2 if config.evaluate.best_on_val else 1) + STATES + 2  # ONNX, and MLflow's
    networks += config.model.weights != "none"
    return int(networks * network + config.cycles * (4 * pool * grid.num_regions + masks) + masks + PAGES)


def estimate_lines(config: RunConfig, index: DataIndex) -> list[str]:
    """The lines of `s4al show`: they are measured, which takes seconds to minutes."""
    rates = measured(config, index)
    found = seconds(config, index, rates)
    parts = ", ".join(f"{name} {clock(value)}" for name, value in found.items() if value)
    speeds = ", ".join(
        f"{1 / rate:.3g} images/s" + (f" in cycle {cycle}" if len(rates.train) > 1 else "")
        for cycle, rate in rates.train.items()
    )
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{config.train.threads} threads of this CPU"
    )
    lines = [
        f"about {in_words(sum(found.values()))} on this machine ({parts}), about {size(bytes_kept(config, index))}",
        f"measured on {device}, in one process: training {speeds}; other programs slow it down",
    ]
    if config.train.workers > 1 or config.query.actors > 1:
        lines.append("train.workers and query.actors share the work where the cluster has room; that is not counted")
    if config.budget or config.stop_at:
        lines.append("budget and stop_at may end it earlier")
    return lines


def disk_line(config: RunConfig, index: DataIndex, out: Path) -> str:
    """What a run will need on its disk, and what is free there, said when it begins."""
    needed, free = bytes_kept(config, index), shutil.disk_usage(out).free
    scarce = "" if needed < free else ": too little: free some, or use another --out"
    return f"{out}: about {size(needed)} on disk, {size(free)} are free{scarce}"


def in_words(total: float) -> str:
    """Seconds as people say them: 40 s, 12 min, 3.1 h, 2.4 days."""
    for unit, name in ((172_800, "days"), (7200, "h"), (120, "min")):
        if total >= unit:
            return f"{total / {'days': 86_400, 'h': 3600, 'min': 60}[name]:.3g} {name}"
    return f"{total:.0f} s"


def size(number: float) -> str:
    """Bytes as 310 MB or 1.2 GB."""
    return f"{number / 1e9:.2g} GB" if number >= 1e9 else f"{max(number / 1e6, 1):.0f} MB"


def _images(one: TrainSettings) -> int:
    return one.batch_size + one.batch_size_unlabelled


def _miniature(config: RunConfig, steps: int) -> RunConfig:
    """The same networks, batches, crops and acquisition; a few steps and random weights."""
    first = max(one.batch_size for _, one in trainings(config))
    s4al = {**config.methods.s4al.model_dump(), "cold_start": min(config.methods.s4al.cold_start, 1)}
    fewest = 2 if config.train.method == "st++" else 1
    units = {"images": 1} if config.query.unit == "image" else {}
    return changed(
        config, "estimate: ", name="estimate", cycles=min(config.cycles, fewest), reference=False, budget=None,
        stop_at=None, data={"dataset": None, "size": None, "evaluate_on": "test"},
        initial={"images": first, "list": None, "cover": False}, model={"weights": "none"},
        train={"epochs": 2, "last_epochs": None, "steps_per_epoch": steps, "workers": 1, "validate_epochs": 0},
        teacher={"epochs": None, "steps_per_epoch": None}, evaluate={"best_on_val": False},
        methods={"s4al": s4al}, query=units,
    )  # fmt: skip


def _made_up(index: DataIndex, small: RunConfig, root: Path) -> DataIndex:
    """Smooth images of the data's size, every class in every mask; two shards of everything."""
    batch = max(small.query.images_at_once, 2)
    pool = max(2 * batch, *(one.batch_size_unlabelled for _, one in trainings(small)))
    splits = {}
    for split, count in (("train", (small.initial.images or 0) + pool), ("val", 1), ("test", 2 * batch)):
        half = -(-count // 2)
        with ShardWriter(
            root, split, num_classes=index.num_classes, shard_size=half, encoding=index.encoding
        ) as writer:
            for number in range(count):
                writer.add(f"{split}_{number:05d}", *_scene(index, number))
        splits[split] = writer.close()
    made = DataIndex(root, "estimate", index.classes, index.palette, index.height, index.width, index.encoding, {},
                     splits)  # fmt: skip
    made.save()
    return DataIndex.load(root)


def _scene(index: DataIndex, number: int) -> Sequence[Any]:
    rows, columns = np.indices((index.height, index.width))
    block = max(4, min(index.height, index.width) // 8)
    label_HW = ((rows // block * 3 + columns // block + number) % index.num_classes).astype(np.uint8)
    grey_HW = (40 + 150 * label_HW / index.num_classes + 10 * np.sin(columns / 5 + number)).astype(np.uint8)
    return np.stack([grey_HW, grey_HW // 2 + 30, 255 - grey_HW], axis=-1), label_HW
