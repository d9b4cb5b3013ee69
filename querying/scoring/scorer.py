"""Score one shard: a plain class, so that it runs in a test, in a notebook, or inside a Ray actor unchanged.

Shape suffixes: B = images, C = classes, H and W = pixels, h and w = the head's stride-4 pixels, R = regions.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from querying.base.allocator import keep_freed_memory
from querying.base.arrow_file import unaltered
from querying.base.errors import DamagedError
from querying.base.files import read_json, sha256, write_json, written
from querying.base.forms import plain_forms
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import PSEUDO_LABELS, REGION_SCORES
from querying.dataset.shards import encode_label
from querying.labels.class_thresholds import class_pseudo_label, confidence_counts
from querying.labels.pseudo_labels import pseudo_label
from querying.labels.regions import RegionGrid
from querying.scoring.acquisition import ACQUISITIONS, random_scores
from querying.scoring.custom_acquisition import own_acquisition
from querying.scoring.difficulty import DifficultyMaps
from querying.scoring.disagreement import FURTHER
from querying.scoring.extra_files import SCHEMAS, Features, class_mixtures, equal_lists, extra_batch, majority_classes
from querying.scoring.fused import score_and_label
from querying.scoring.multi_pass import FurtherPasses
from querying.scoring.pool import ScoreTask, pool_batches
from querying.scoring.upsampling import log_probabilities, stripes
from querying.settings import DIFFICULTY_NAMES, Extra, QuerySettings

ENCODERS = 4
"""Threads that turn labels into PNG, which takes a core longer than a GPU takes to find them."""
Predict = Callable[[Tensor, float], Tensor]
"""uint8 images (B, 3, H, W) and a scale -> logits (B, C, h, w) at any lower resolution."""


class ScoreSummary(NamedTuple):
    images: int
    seconds: float
    forward_seconds: float


class _Found(NamedTuple):
    """What is found for a batch: scores float32 (B, R), pseudo-labels uint8 (B, H, W), what is extra of each image, and
    which regions of all of them are not asked about, bool (R,)."""

    score_BR: np.ndarray
    label_BHW: np.ndarray
    extra: list[np.ndarray]
    closed_R: np.ndarray


class _Sized(NamedTuple):
    """What depends on the size of the images."""

    grid: RegionGrid
    closed_R: np.ndarray
    further: FurtherPasses | DifficultyMaps | None


PER_REGION: dict[Extra | None, Callable[[Tensor, RegionGrid], np.ndarray]] = {
    "classes": majority_classes,
    "mixtures": class_mixtures,
}


class ShardScorer:
    """Region scores and pseudo-labels of a shard from one pass of the network, written beside each other.

    The grid is that of the data set; of images that are smaller than the largest, their part of it (`RegionGrid.on`).
    """

    def __init__(
        self,
        load_predict: Callable[[], Predict],
        grid: RegionGrid,
        out: Path,
        query: QuerySettings,
        *,
        seed: int,
        cycle: int,
        modules: Path | None = None,
        class_thresholds: Sequence[float] | None = None,
    ) -> None:
        """`modules`: where the user's own acquisition may lie, besides PYTHONPATH; `class_thresholds`: in place of
        `query.threshold`."""
        torch.set_num_threads(query.threads)
        keep_freed_memory()
        self.predict = load_predict()  # once per process: this is the expensive part
        self.align_corners = bool(getattr(self.predict, "align_corners", False))
        self.grid, self.out, self.query, self.class_thresholds = grid, out, query, class_thresholds
        self.seed, self.cycle = seed, cycle
        self.forward_seconds = 0.0
        self.extra, self.acquisition = query.extra, query.acquisition
        self.one_pass = ACQUISITIONS.get(self.acquisition)
        if ":" in self.acquisition:
            self.one_pass = own_acquisition(self.acquisition, modules)
        self._last = self._sized(grid)

    def _sized(self, grid: RegionGrid) -> _Sized:
        query = self.query
        further: FurtherPasses | DifficultyMaps | None = None
        if self.acquisition in FURTHER:
            scored = partial(log_probabilities, height=grid.height, width=grid.width, align_corners=self.align_corners)
            further = FurtherPasses(
                self.acquisition, self.predict, scored, scales=query.scales, passes=query.passes, seed=self.seed,
                cycle=self.cycle,
            )  # fmt: skip
        if self.acquisition in DIFFICULTY_NAMES:
            unit_HW = torch.from_numpy(grid.regions())
            unit_HW = torch.zeros_like(unit_HW) if query.unit == "image" else unit_HW
            further = DifficultyMaps(self.acquisition, self.predict, unit_HW, levels=query.levels)
        return _Sized(grid, grid.border() if query.leaves_border_out else grid.areas() == 0, further)

    def _at(self, size: tuple[int, ...]) -> _Sized:
        """For images of this height and width; those of a shard have the same."""
        if (self._last.grid.height, self._last.grid.width) != size:
            self._last = self._sized(self.grid.on((size[0], size[1])))
        return self._last

    def score_shard(self, task: ScoreTask) -> ScoreSummary:
        """Write `regions-<number>.arrow` and `pseudo-<number>.arrow`, where asked for one more file (see
        `querying.scoring.extra_files`), and their hashes as `shard-<number>.json`; files that are there and have these
        hashes are kept.  Nothing is flushed: who publishes the folder does that for all shards at once."""
        started, self.forward_seconds = time.perf_counter(), 0.0
        schemas = {"pseudo": PSEUDO_LABELS, "regions": REGION_SCORES}
        if self.extra:
            schemas[self.extra] = SCHEMAS[self.extra]
        paths = {kind: self.out / f"{kind}-{task.number:05d}.arrow" for kind in schemas}
        done = self.out / f"shard-{task.number:05d}.json"
        images = 0
        if not _intact(done):
            with unaltered(), ExitStack() as files:
                writers = {
                    kind: files.enter_context(
                        pa.ipc.new_file(files.enter_context(written(path, flush=False)), schemas[kind])
                    )
                    for kind, path in paths.items()
                }
                for rows in self._scored(task):
                    images += len(rows["regions"])
                    for kind, batch in rows.items():
                        writers[kind].write_batch(batch)
                if self.extra == "features":  # the core-set's first centres
                    for ids, images_BCHW in pool_batches(task, self.query.images_at_once, whole=True):
                        _, features = self._forward(ids, images_BCHW)
                        writers[self.extra].write_batch(extra_batch(self.extra, ids, features))
            write_json(done, {path.name: sha256(path) for path in paths.values()}, flush=False)
        return ScoreSummary(images, time.perf_counter() - started, self.forward_seconds)

    def score(
        self, ids: list[str], images_BCHW: Tensor, bought: dict[str, list[int]]
    ) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """Rows of REGION_SCORES and PSEUDO_LABELS for uint8 images.  FloatingPointError names an image whose
        logits are not finite: NaN would rank first and the broken image would be bought."""
        rows = self._rows(ids, self._computed(ids, images_BCHW), bought)
        return rows["regions"], rows["pseudo"]

    def _scored(self, task: ScoreTask) -> Iterator[dict[str, pa.RecordBatch]]:
        """The rows of a shard, batch by batch; labels are encoded while the next batches are computed."""
        waiting: deque[Future[dict[str, pa.RecordBatch]]] = deque()
        with ThreadPoolExecutor(ENCODERS) as encoders:
            for ids, images_BCHW in pool_batches(task, self.query.images_at_once):
                found = self._computed(ids, images_BCHW)
                if len(waiting) == ENCODERS:
                    yield waiting.popleft().result()
                waiting.append(encoders.submit(self._rows, ids, found, task.bought))
            while waiting:
                yield waiting.popleft().result()

    @torch.inference_mode()
    def _computed(self, ids: list[str], images_BCHW: Tensor) -> _Found:
        """A GPU is waited for once, at the end, but for what is extra."""
        logits, extra = self._forward(ids, images_BCHW)
        grid, closed_R, further = self._at(tuple(images_BCHW.shape[2:]))
        maps = further.maps(ids, images_BCHW, logits) if further else iter(())
        scores, labels = [], []
        size = (grid.height, grid.width, self.align_corners)
        fast = logits[0].device.type == "cpu" and not plain_forms() and self.class_thresholds is None
        by_stripes = fast and self.acquisition in ACQUISITIONS and self.extra not in PER_REGION
        for i, image_id in enumerate(ids):
            one = [z_BChw[i : i + 1] for z_BChw in logits]
            if by_stripes:
                parts = [
                    score_and_label(self.acquisition, z_SCW, self.query.threshold) for z_SCW in stripes(one, *size)
                ]
                scores.append(grid.mean(torch.cat([score_SW for score_SW, _ in parts])[None])[0])
                labels.append(torch.cat([label_SW for _, label_SW in parts])[None])
                continue
            log_p_1CHW = log_probabilities(one, *size)
            scores.append(self._region_scores(image_id, log_p_1CHW, next(maps, None), grid))
            labels.append(self._label(log_p_1CHW))
            if self.extra in PER_REGION:
                extra.append(PER_REGION[self.extra](log_p_1CHW, grid))
        return _Found(torch.stack(scores).cpu().numpy(), torch.cat(labels).cpu().numpy(), extra, closed_R)

    def _label(self, log_p_1CHW: Tensor) -> Tensor:
        if self.class_thresholds is None:
            return pseudo_label(log_p_1CHW, self.query.threshold)
        return class_pseudo_label(log_p_1CHW, self.class_thresholds)

    @torch.inference_mode()
    def count_confidences(self, task: ScoreTask) -> list[list[int]]:
        """`confidence_counts` over a shard's images that are not whole."""
        counts: npt.NDArray[np.int64] | int = 0
        with unaltered():
            for ids, images_BCHW in pool_batches(task, self.query.images_at_once):
                logits, _ = self._forward(ids, images_BCHW)
                size = images_BCHW.shape[2], images_BCHW.shape[3]
                for i in range(len(ids)):
                    one = [z_BChw[i : i + 1] for z_BChw in logits]
                    log_p_1CHW = log_probabilities(one, *size, self.align_corners)
                    counts = counts + confidence_counts(log_p_1CHW)
        found: list[list[int]] = np.atleast_2d(counts).tolist()
        return found

    def _rows(self, ids: list[str], found: _Found, bought: dict[str, list[int]]) -> dict[str, pa.RecordBatch]:
        closed_BR = np.tile(found.closed_R, (len(ids), 1))
        for image_id, score_R, closed_R in zip(ids, found.score_BR, closed_BR, strict=True):
            if not np.isfinite(score_R).all():
                what = "the network's output" + (" or its score" if ":" in self.acquisition else "")
                raise FloatingPointError(f"image {image_id}: {what} is not finite")
            closed_R[bought.get(image_id, [])] = True
        score_BR = np.where(closed_BR, np.float32(0), found.score_BR)
        lists = equal_lists(pa.array(score_BR.ravel(), mask=closed_BR.ravel()), len(ids))
        labels = [encode_label(label_HW) for label_HW in found.label_BHW]
        coverage = (found.label_BHW != IGNORE).mean(axis=(1, 2))
        pseudo = {"image_id": ids, "label": labels, "coverage": coverage}
        return {
            "regions": pa.RecordBatch.from_arrays([pa.array(ids, pa.string()), lists], schema=REGION_SCORES),
            "pseudo": pa.RecordBatch.from_pydict(pseudo, schema=PSEUDO_LABELS),
            **({self.extra: extra_batch(self.extra, ids, found.extra)} if self.extra else {}),
        }

    @torch.inference_mode()
    def _forward(self, ids: Sequence[str], images_BCHW: Tensor) -> tuple[list[Tensor], list[np.ndarray]]:
        """Logits at every scale; where they are asked for, each image's features, too: their mean over the scales."""
        started = time.perf_counter()
        kept: list[np.ndarray] = []
        if self.extra != "features":
            logits = [self.predict(images_BCHW, scale) for scale in self.query.scales]
        else:
            network = cast(Features, self.predict)
            passes = [network.with_features(images_BCHW, scale) for scale in self.query.scales]
            logits = [logits for logits, _ in passes]
            kept = list(torch.stack([features for _, features in passes]).mean(dim=0).cpu().numpy())
            for image_id, feature_D in zip(ids, kept, strict=True):
                if not np.isfinite(feature_D).all():
                    raise FloatingPointError(f"image {image_id}: the network's features are not finite")
        self.forward_seconds += time.perf_counter() - started
        return logits, kept

    def _region_scores(self, image_id: str, log_p_1CHW: Tensor, map_1HW: Tensor | None, grid: RegionGrid) -> Tensor:
        """Scores of the regions of one image (R,).  `map_1HW` is the score of every pixel where it takes more than
        `log_p_1CHW`.  NaN where a number is not finite."""
        # Our acquisitions of one pass are finite only where the log-probabilities are: `_rows` checks both.
        if self.one_pass and self.acquisition in ACQUISITIONS:
            return grid.mean(self.one_pass(log_p_1CHW))[0]
        if self.one_pass:
            map_1HW = self.one_pass(log_p_1CHW.clone()).float()  # a user's own may work in place
        if self.acquisition == "coreset":
            score_R = log_p_1CHW.new_zeros(grid.num_regions)  # it looks at features alone
        elif map_1HW is not None:
            score_R = grid.mean(map_1HW)[0]
        else:
            drawn = random_scores(self.seed, self.cycle, image_id, grid.num_regions)
            score_R = torch.from_numpy(drawn).to(log_p_1CHW.device)
        return torch.where(torch.isfinite(log_p_1CHW).all(), score_R, torch.nan)


def _intact(done: Path) -> bool:
    try:
        return all(sha256(done.parent / name) == digest for name, digest in read_json(done).items())
    except (DamagedError, OSError):
        return False
