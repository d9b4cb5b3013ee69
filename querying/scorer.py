"""Score one shard: a plain class, so that it runs in a test, in a notebook, or inside a Ray actor unchanged.

Shape suffixes: B = images, C = classes, H and W = pixels, h and w = the head's stride-4 pixels, R = regions.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from querying.acquisition import ACQUISITIONS, random_scores
from querying.arrow_file import scored_file
from querying.disagreement import FURTHER
from querying.errors import DamagedError
from querying.extras import SCHEMAS, Features, class_mixtures, equal_lists, extra_batch, majority_classes
from querying.files import read_json, sha256, write_json, written
from querying.further_passes import FurtherPasses
from querying.labels import IGNORE, pseudo_label
from querying.own_acquisition import own_acquisition
from querying.regions import RegionGrid
from querying.schemas import PSEUDO_LABELS, REGION_SCORES
from querying.settings import Extra
from querying.shards import Shard, encode_label, read_images

Predict = Callable[[Tensor, float], Tensor]
"""uint8 images (B, 3, H, W) and a scale -> logits (B, C, h, w) at any lower resolution."""


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """One shard's work.  `whole` images are fully labelled and left out; `bought` cells get no score."""

    number: int
    root: Path
    shard: Shard
    whole: frozenset[str]
    bought: dict[str, list[int]]


class ScoreSummary(NamedTuple):
    images: int
    seconds: float
    forward_seconds: float


class ShardScorer:
    """Region scores and pseudo-labels of a shard from one pass of the network, written beside each other."""

    def __init__(
        self,
        load_predict: Callable[[], Predict],
        grid: RegionGrid,
        out: Path,
        *,
        acquisition: str,
        scales: Sequence[float],
        threshold: float,
        exclude_border: bool,
        batch_size: int,
        threads: int,
        seed: int,
        cycle: int,
        passes: int = 10,
        extra: Extra | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        self.predict = load_predict()  # once per process: this is the expensive part
        self.grid = grid
        self.out = out
        self.acquisition = acquisition
        self.scales = scales
        self.threshold = threshold
        self.closed = grid.border() if exclude_border else np.zeros(grid.num_regions, bool)
        self.batch_size = batch_size
        self.seed, self.cycle = seed, cycle
        self.forward_seconds = 0.0
        self.extra = extra
        self._extra_rows: list[tuple[str, np.ndarray]] = []
        self.one_pass = ACQUISITIONS.get(acquisition)
        if ":" in acquisition:
            self.one_pass = own_acquisition(acquisition)
        self.further = (
            FurtherPasses(
                acquisition, self.predict, self._log_probabilities,
                scales=scales, passes=passes, seed=seed, cycle=cycle,
            )
            if acquisition in FURTHER
            else None
        )  # fmt: skip

    def score_shard(self, task: ScoreTask) -> ScoreSummary:
        """Write `regions-<number>.arrow` and `pseudo-<number>.arrow`, where asked for one more file (see
        `querying.extras`), and their hashes as `shard-<number>.json`; files that are there and have these hashes are
        kept."""
        started, self.forward_seconds = time.perf_counter(), 0.0
        schemas = {"pseudo": PSEUDO_LABELS, "regions": REGION_SCORES}
        if self.extra:
            schemas[self.extra] = SCHEMAS[self.extra]
        paths = {kind: self.out / f"{kind}-{task.number:05d}.arrow" for kind in schemas}
        done = self.out / f"shard-{task.number:05d}.json"
        images = 0
        if not _intact(done):
            with ExitStack() as files:
                writers = {
                    kind: files.enter_context(pa.ipc.new_file(files.enter_context(written(path)), schemas[kind]))
                    for kind, path in paths.items()
                }
                for ids, images_BCHW in pool_batches(task, self.batch_size):
                    region_rows, pseudo_rows = self.score(ids, images_BCHW, task.bought)
                    writers["regions"].write_batch(region_rows)
                    writers["pseudo"].write_batch(pseudo_rows)
                    self._write_extra(writers)
                    images += len(ids)
                if self.extra == "features":  # the core-set's first centres
                    for ids, images_BCHW in pool_batches(task, self.batch_size, whole=True):
                        self._forward(ids, images_BCHW)
                        self._write_extra(writers)
            write_json(done, {path.name: sha256(path) for path in paths.values()})
        return ScoreSummary(images, time.perf_counter() - started, self.forward_seconds)

    @torch.inference_mode()
    def score(
        self, ids: list[str], images_BCHW: Tensor, bought: dict[str, list[int]]
    ) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """Rows of REGION_SCORES and PSEUDO_LABELS for uint8 images.  FloatingPointError names an image whose
        logits are not finite: NaN would rank first and the broken image would be bought."""
        logits = self._forward(ids, images_BCHW)
        maps = self.further.maps(ids, images_BCHW, logits) if self.further else iter(())
        scores = np.zeros((len(ids), self.grid.num_regions), np.float32)
        closed_BR = np.tile(self.closed, (len(ids), 1))
        labels, coverage = [], []
        for i, image_id in enumerate(ids):  # one image at a time stays in the cache
            log_p_1CHW = self._log_probabilities([z_BChw[i : i + 1] for z_BChw in logits])
            score_R = self._region_scores(image_id, log_p_1CHW, next(maps, None))
            if not np.isfinite(score_R).all():
                what = "the network's output" + (" or its score" if ":" in self.acquisition else "")
                raise FloatingPointError(f"image {image_id}: {what} is not finite")
            closed_BR[i, bought.get(image_id, [])] = True
            scores[i] = score_R
            if self.extra == "classes":
                self._extra_rows.append((image_id, majority_classes(log_p_1CHW, self.grid)))
            elif self.extra == "mixtures":
                self._extra_rows.append((image_id, class_mixtures(log_p_1CHW, self.grid)))
            label_HW = pseudo_label(log_p_1CHW, self.threshold)[0].cpu().numpy()
            labels.append(encode_label(label_HW))
            coverage.append(float((label_HW != IGNORE).mean()))
        scores[closed_BR] = 0.0
        lists = equal_lists(pa.array(scores.ravel(), mask=closed_BR.ravel()), len(ids))
        return (
            pa.RecordBatch.from_arrays([pa.array(ids, pa.string()), lists], schema=REGION_SCORES),
            pa.RecordBatch.from_pydict({"image_id": ids, "label": labels, "coverage": coverage}, schema=PSEUDO_LABELS),
        )

    @torch.inference_mode()
    def _forward(self, ids: Sequence[str], images_BCHW: Tensor) -> list[Tensor]:
        """Logits at every scale; where they are asked for, the features are kept, too: their mean over the scales."""
        started = time.perf_counter()
        if self.extra != "features":
            logits = [self.predict(images_BCHW, scale) for scale in self.scales]
        else:
            network = cast(Features, self.predict)
            logits, features = map(
                list, zip(*(network.with_features(images_BCHW, s) for s in self.scales), strict=True)
            )
            mean_BD = torch.stack(features).mean(dim=0).cpu().numpy()
            for image_id, feature_D in zip(ids, mean_BD, strict=True):
                if not np.isfinite(feature_D).all():
                    raise FloatingPointError(f"image {image_id}: the network's features are not finite")
                self._extra_rows.append((image_id, feature_D))
        self.forward_seconds += time.perf_counter() - started
        return logits

    def _write_extra(self, writers: Mapping[str, pa.ipc.RecordBatchFileWriter]) -> None:
        rows, self._extra_rows = self._extra_rows, []
        if self.extra and rows:
            writers[self.extra].write_batch(extra_batch(self.extra, rows))

    def _log_probabilities(self, logits: list[Tensor]) -> Tensor:
        """Logits averaged over the scales at full resolution, then log-softmax in float32."""
        size = (self.grid.height, self.grid.width)
        full = [F.interpolate(z.float(), size, mode="bilinear", align_corners=False) for z in logits]
        mean = full[0]
        for other in full[1:]:
            mean = mean + other
        return (mean / len(full)).log_softmax(dim=1)

    def _region_scores(self, image_id: str, log_p_1CHW: Tensor, map_1HW: Tensor | None) -> np.ndarray:
        """`map_1HW` is the score of every pixel where it takes further passes; NaN where a number is not finite."""
        # Our acquisitions of one pass are finite only where the log-probabilities are: the caller's check covers both.
        if self.one_pass and self.acquisition in ACQUISITIONS:
            return self.grid.mean(self.one_pass(log_p_1CHW))[0].cpu().numpy()
        if self.one_pass:
            map_1HW = self.one_pass(log_p_1CHW).float()
        if self.acquisition == "coreset":
            score_R = np.zeros(self.grid.num_regions, np.float32)  # it looks at features alone
        elif map_1HW is not None:
            score_R = self.grid.mean(map_1HW)[0].cpu().numpy()
        else:
            score_R = random_scores(self.seed, self.cycle, image_id, self.grid.num_regions)
        return score_R if bool(torch.isfinite(log_p_1CHW).all()) else score_R * np.nan


def pool_batches(task: ScoreTask, batch_size: int, *, whole: bool = False) -> Iterator[tuple[list[str], Tensor]]:
    """Ids and uint8 images (B, 3, H, W) of a shard without the `whole` ones, or of these alone, in its order."""
    ids: list[str] = []
    images: list[np.ndarray] = []
    for image_id, image_HWC in read_images(task.root, task.shard):
        if (image_id in task.whole) != whole:
            continue
        ids.append(image_id)
        images.append(image_HWC)
        if len(ids) == batch_size:
            yield ids, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
            ids, images = [], []
    if ids:
        yield ids, torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _intact(done: Path) -> bool:
    try:
        return all(sha256(done.parent / name) == digest for name, digest in read_json(done).items())
    except (DamagedError, OSError):
        return False


def read_scores(path: Path, num_regions: int) -> tuple[list[str], np.ndarray]:
    """Image ids and scores float32 (N, R) with -inf where a cell is not eligible.  DamagedError where the file is not
    what was written; ValueError names a NaN or a wrong number of regions."""
    table = scored_file(path, REGION_SCORES).table()
    ids = table["image_id"].to_pylist()
    flat = table["score"].combine_chunks().flatten()
    if len(flat) != len(ids) * num_regions:
        raise ValueError(f"{path}: {len(flat)} scores for {len(ids)} images of {num_regions} regions")
    eligible = flat.is_valid().to_numpy(zero_copy_only=False)
    score_NR = flat.fill_null(0.0).to_numpy().reshape(len(ids), num_regions).copy()
    score_NR[~eligible.reshape(score_NR.shape)] = -np.inf
    if np.isnan(score_NR).any():
        raise ValueError(f"{path}: image {ids[int(np.isnan(score_NR).any(axis=1).argmax())]}: the score is NaN")
    return ids, score_NR
