"""What each stage of a cycle reads and writes; the back end decides where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from orchestrator.folder.batch_size import MOST, kept_batch_size
from orchestrator.folder.manifest import inputs_key, noted
from orchestrator.process.interrupt import deferred
from orchestrator.process.out_of_memory import memory_for
from orchestrator.recipe.keys import deciding
from orchestrator.run import next_stage
from orchestrator.run.context import RunContext
from orchestrator.run.diagnosis import count_pool
from orchestrator.run.inputs import stage_inputs
from orchestrator.run.summary import BEST_COUNTS, COUNTS, IMAGES
from orchestrator.run.training_watch import followed
from querying.base.errors import DamagedError
from querying.base.files import read_json, sealed, sha256, write_json, write_text
from querying.base.relay.places import Places
from querying.dataset.schemas import QUERY
from querying.dataset.shards import SplitIds
from querying.labels.bought import Bought, cells_of_images
from querying.labels.class_thresholds import class_thresholds
from querying.labels.oracle import SimulatedOracle
from querying.labels.regions import WHOLE, RegionGrid
from querying.labels.reliability import reliable_images, write_reliability
from querying.scoring.pool import ScoreTask
from querying.scoring.scorer import ShardScorer
from querying.selection.choose import ScoredPool, choose
from querying.settings import QuerySettings, stride_of
from training.fit.heartbeat import EPOCHS, PROGRESS, VALIDATION
from training.fit.job import TrainJob, stop_file
from training.inference.batch_finder import BatchFinder
from training.inference.confusion import Confusion
from training.inference.evaluation import EvaluationTask, ShardEvaluator
from training.inference.interval import ImageCounts
from training.inference.predictor import Precision, Predictor
from training.inference.ranking import ranker_of
from training.inference.sliding import Predict, Windowed
from training.kernels.precision import fast_bf16
from training.network.checkpoint import best_folder
from training.settings.traits import traits_of

CLASS_THRESHOLDS = "class_thresholds.json"
"""Beside the scores, where classes have thresholds of their own."""
NO_FILES = ("evaluate_images", "rank_shard", "count_confidences", "find")
"""What workers are asked for that neither reads nor writes files of the shard's number."""


class Stages:
    def __init__(
        self,
        context: RunContext,
        *,
        bought_on: RegionGrid | None = None,
        live: Callable[[int, str, Sequence[dict[str, Any]]], None] = lambda cycle, inputs, history: None,
        later: Callable[[int], int] = lambda cycle: 0,
    ) -> None:
        """`bought_on`: the ledger's grid, where `s4al replay` asks on another one; `live` gets the cycle, a key of what
        a training is made from, and the metrics of all its epochs so far; `later`: how many images trainings after a
        cycle's have still to see."""
        self.live, self.later = live, later
        self.config, self.index, self.grid = context.config, context.index, context.grid
        self.layout, self.ledger = context.layout, context.ledger
        self.backend, self.progress, self.name = context.backend, context.progress, context.name
        self.grids = context.grids
        self.bought_on = bought_on or self.grid
        self.data_sha256 = self.index.digest
        self.backbone_sha256 = sha256(self.layout.backbone) if self.layout.backbone.exists() else None

    @property
    def device(self) -> str:
        """The device of every stage: a Ray cluster that counts no GPU scores on the CPU, too, where a machine of it has
        one."""
        return self.backend.device.split()[0]

    def train(self, cycle: int, last: bool, out: Path) -> None:
        settings = self.config.train_at(cycle, last=last)
        backbone = self.layout.backbone.resolve()
        job = TrainJob(
            data=self.index.root.resolve(),
            ledger=self.ledger.root.resolve(),
            cycle=cycle,
            pseudo=tuple(folder.resolve() for folder in self.layout.pseudo_labels(cycle)),
            backbone=backbone if backbone.exists() else None,
            region_size=self.grid.size,
            seed=self.config.seed,
            model=self.config.model,
            train=settings,
            reco=self.config.reco,
            augment=self.config.augment,
            methods=self.config.methods,
            work=self.layout.work(cycle).resolve(),
            evaluate=self.config.evaluate,
            evaluate_batch=self.config.query.images_at_once,
            settings=deciding(self.config, cycle),
            data_sha256=self.data_sha256,
            backbone_sha256=self.backbone_sha256,
            made_from=inputs_key(stage_inputs(self.layout, self.ledger, "train", cycle, settings.start)),
            previous=self.layout.checkpoint(cycle - 1).resolve() if cycle and settings.start == "previous" else None,
            out=out.resolve(),
        )
        self.progress.stage(f"{self.name} cycle {cycle}: train ({settings.method})")
        if settings.precision == "bf16" and not fast_bf16():
            self.progress.say("train.precision=bf16: this machine emulates it, many times slower than fp32")
        images = settings.batch_size + settings.batch_size_unlabelled
        for leftover in (stop_file(job.work), *(job.work / name for name in (PROGRESS, VALIDATION, EPOCHS))):
            leftover.unlink(missing_ok=True)
        keys = ("teacher.batch_size",) if not cycle else ("train.batch_size", "train.batch_size_unlabelled")
        what, live = f"{self.name} cycle {cycle}", partial(self.live, cycle, job.made_from)
        with (
            memory_for(f"{what}, training", keys),
            deferred(),
            followed(job.work, self.progress, what, images, live, self.later(cycle)),
        ):
            self.backend.train(job)

    def evaluate(self, cycle: int, out: Path) -> None:
        """Write `confusion.json`: exact counts over the evaluation split; `confusion_best_on_val.json` likewise for the
        weights that were best on val, where they are kept; beside each the counts of every image."""
        checkpoint = self.layout.checkpoint(cycle).resolve()
        self._count(cycle, checkpoint, out / COUNTS)
        if self.config.evaluate.best_on_val:
            self._count(cycle, best_folder(checkpoint), out / BEST_COUNTS)

    def _count(self, cycle: int, model: Path, out: Path) -> None:
        make = partial(
            ShardEvaluator,
            partial(Predictor, model, self.device, modules=Path.cwd()),
            self.index.num_classes,
            self._query(model, out.parent).images_at_once,
            self.config.query.threads,
            self.config.evaluate,
        )
        split = self.config.data.evaluate_on
        tasks = [EvaluationTask(self.index.root.resolve(), shard) for shard in self.index.shards(split)]
        which = "the best on val " if out.name == BEST_COUNTS else ""
        self.progress.stage(f"{self.name} cycle {cycle}: evaluate {which}on {split}")
        confusion = Confusion.empty(self.index.num_classes)
        images: dict[str, list[list[int]]] = {}
        for done, (counts, rows) in enumerate(self._map(make, "evaluate_images", tasks, out.parent, model), 1):
            confusion += Confusion.from_list(counts)
            images |= rows
            self.progress.update(done, len(tasks), "shards")
        write_text(out.with_name(IMAGES[out.name]), sealed(ImageCounts.of(images).to_dict()) + "\n")
        write_json(out, {"split": split, "counts": confusion.to_list()})

    def score(self, cycle: int, out: Path) -> None:
        """Write `regions-*.arrow` and `pseudo-*.arrow` for every shard of the train split."""
        checkpoint = self.layout.checkpoint(cycle).resolve()
        query = self._query(checkpoint, out)
        make = partial(
            ShardScorer,
            self._scoring(checkpoint, query.precision),
            self.grid,
            out.resolve(),
            query,
            seed=self.config.seed,
            cycle=cycle,
            modules=Path.cwd(),
        )
        if query.class_share:
            make = partial(make, class_thresholds=self._class_thresholds(make, query.class_share, cycle, out))
        shards = self.index.shards("train")
        self.progress.stage(f"{self.name} cycle {cycle}: score and pseudo-label the pool")
        images, seconds = 0, 0.0
        for done, summary in enumerate(self._map(make, "score_shard", self._score_tasks(cycle), out, checkpoint), 1):
            images, seconds = images + summary.images, seconds + summary.seconds
            self.progress.update(done, len(shards), f"shards, {images / max(seconds, 1e-9):.1f} images/s per scorer")
        if self.config.train.pool_labels == "truth":
            SimulatedOracle(self.index, self.grid).replace_pseudo_labels(out)
        if traits_of(self.config.train.method).pool == "pseudo":
            count_pool(self.index, out, self._map)
        if self.config.train.method == "st++" and not cycle:
            self._rank(out)

    def _class_thresholds(self, make: Callable[..., ShardScorer], share: float, cycle: int, out: Path) -> list[float]:
        """`class_thresholds.json` of the scores, made where it is not there or not what was written."""
        path = out / CLASS_THRESHOLDS
        with suppress(DamagedError):
            return [float(one) for one in read_json(path)["thresholds"]]
        self.progress.stage(f"{self.name} cycle {cycle}: thresholds of the classes")
        tasks = self._score_tasks(cycle)
        counts = sum(
            np.array(found) for found in self._map(make, "count_confidences", tasks, out, self.layout.checkpoint(cycle))
        )
        found = class_thresholds(np.asarray(counts), share, self.config.query.threshold)
        write_json(path, {"thresholds": found})
        return found

    def pixels_left(self, cycle: int) -> int:
        """What may still be bought after `cycle`, of the budget or of all there is."""
        return next_stage.pixels_left(self.config, self.index.num_pixels("train"), self.ledger.spent(cycle).pixels)

    def spent_up(self, cycle: int) -> bool:
        """Is there too little left for the smallest thing that a query could buy?"""
        return next_stage.spent_up(self.config.query, self.grids, self.pixels_left(cycle))

    def select(self, cycle: int, scores: Path | None = None) -> pa.Table:
        """The next query (schema QUERY), never beyond the budget, from the cycle's scores or those of another folder.
        Holds one shard of scores at a time."""
        self.progress.stage(f"{self.name} cycle {cycle}: select")
        whole_N = Bought(self.ledger, cycle, self._ids).whole(self._cells_N)
        centres = self._ids.column.filter(pa.array(whole_N)) if self.config.query.acquisition == "coreset" else ()
        return choose(
            self.config.query,
            ScoredPool(scores or self.layout.scores(cycle), self.grid, self.index.shard_sizes("train")),
            pixels=self.pixels_left(cycle),
            images=self.index.num_images("train") - int(whole_N.sum()),
            labelled=frozenset(one.as_py() for one in centres),
            seed=self.config.seed,
            cycle=cycle,
        )

    def _score_tasks(self, cycle: int) -> Iterator[ScoreTask]:
        """One shard's at a time; a scorer is told what was bought of its shard alone."""
        bought = Bought(self.ledger, cycle, self._ids)
        whole_N = bought.whole(self._cells_N)
        choice = self.layout.teacher_choice(cycle)
        if kept := (reliable_images(choice) if choice else None):
            place_K = self._ids.places(pa.chunked_array([pa.array(kept, pa.string())]))
            whole_N[place_K[place_K >= 0]] = True
        for number, shard in enumerate(self.index.shards("train")):
            ids = self._ids.column.chunk(number).to_pylist()
            whole = whole_N[self._ids.starts[number] : self._ids.starts[number + 1]]
            grid, bought_on = self.grid.on(shard.size), self.bought_on.on(shard.size)
            regions = bought.of_shard(number)
            yield ScoreTask(
                number,
                self.index.root.resolve(),
                shard,
                frozenset(ids[row] for row in np.flatnonzero(whole)),
                {ids[row]: list(grid.touching(regions[row], bought_on)) for row in regions},
            )

    @cached_property
    def _ids(self) -> SplitIds:
        return SplitIds(self.index, "train")

    @cached_property
    def _cells_N(self) -> np.ndarray:
        return cells_of_images(self.index, "train", self.bought_on)

    def _rank(self, out: Path) -> None:
        """Write `reliability.json` over the whole pool (ST++)."""
        checkpoint = self.layout.checkpoint(0).resolve()
        query = self._query(checkpoint, out)
        make = partial(
            ranker_of, checkpoint, self.index.num_classes, query.images_at_once, query.threads, self.device, Path.cwd()
        )
        self.progress.stage(f"{self.name} cycle 0: rank the pool by reliability")
        found = [
            pair for pairs in self._map(make, "rank_shard", self._score_tasks(0), out, checkpoint) for pair in pairs
        ]
        write_reliability(out, found, self.config.methods.st_plus_plus.reliable)

    def _query(self, checkpoint: Path, out: Path) -> QuerySettings:
        """The recipe's, with the number of images at a time that the run keeps where the recipe has `auto`."""
        query = self.config.query
        if query.batch_size != "auto":
            return query

        def find() -> dict[str, Any]:
            self.progress.stage(f"{self.name}: find query.batch_size")
            make = partial(
                BatchFinder,
                self._scoring(checkpoint, "fp32"),
                (self.index.height, self.index.width),
                query.scales if self.config.cycles else (1.0,),
                query.threads,
            )
            shards = (
                shard.rows for split in ("train", self.config.data.evaluate_on) for shard in self.index.shards(split)
            )
            [found] = self._map(make, "find", [min(MOST, max(shards))], out, checkpoint)
            return {**found, "device": self.device}

        size = kept_batch_size(self.layout.batch_size, find, self.progress.say)
        return query.model_copy(update={"batch_size": size})

    def _scoring(self, checkpoint: Path, precision: Precision) -> Callable[[], Predict]:
        """Loads the network as it looks at the pool: whole images or windows."""
        query = self.config.query
        load = partial(Predictor, checkpoint, self.device, precision=precision, modules=Path.cwd())
        return partial(Windowed, load, query.window, stride_of(query.window, query.stride)) if query.window else load

    def _map(
        self, make: Callable[[], Any], method: str, tasks: Iterable[Any], out: Path, *reads: Path
    ) -> Iterator[Any]:
        """`out` is the folder that the workers write into or read the tasks' own files from; `reads` is what else they
        read of the run."""
        out, own = out.resolve(), None if method in NO_FILES else out.resolve()
        places = Places(self.layout.root.resolve(), tuple(path.resolve() for path in reads), (out,), own)
        query, plain = self.config.query, self.config.train.kernels == "plain"
        make = noted(make, out, self.device == "cuda", plain)
        with memory_for(method, ("query.batch_size",)):
            yield from self.backend.map(
                make, method, tasks, actors=query.actors, threads=query.threads,
                timeout=self.config.train.timeout, places=places, say=self.progress.say,
            )  # fmt: skip


def whole_images(
    ids: Sequence[str], grid: RegionGrid, size: Callable[[str], tuple[int, int]] | None = None
) -> pa.Table:
    """A query for all regions of some images (schema QUERY); where a region is a pixel, in one row each (region
    WHOLE).  `size` is that of an image, None the grid's for all."""
    cells = cache(lambda one: one.cells() if grid.size > 1 else np.array([WHOLE], np.int32))
    regions = [cells(grid.on(size(image_id)) if size else grid) for image_id in ids]
    columns = {
        "image_id": pa.array(np.repeat(np.array(ids, dtype=object), list(map(len, regions))), pa.string()),
        "region": pa.array(np.concatenate(regions) if regions else np.zeros(0, np.int32)),
        "score": pa.nulls(sum(map(len, regions)), pa.float32()),
    }
    return pa.table(columns, schema=QUERY)
