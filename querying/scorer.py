"""Score one shard: a plain class, so that it runs in a test, in a notebook, or inside a Ray actor unchanged.

Shape suffixes: B = images, C = classes, H and W = pixels, h and w = the head's stride-4 pixels, R = regions.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from querying.acquisition import ACQUISITIONS, random_scores
from querying.arrow_file import scored_file
from querying.difficulty import DifficultyMaps
from querying.disagreement import FURTHER
from querying.errors import DamagedError
from querying.files import read_json, sha256, write_json, written
from querying.further_passes import FurtherPasses
from querying.labels import IGNORE, pseudo_label
from querying.own_acquisition import own_acquisition
from querying.regions import RegionGrid
from querying.schemas import PSEUDO_LABELS, REGION_SCORES
from querying.settings import DIFFICULTY_NAMES
from querying.shards import Shard, encode_label, read_images

ENCODERS = 4
"""Threads that turn labels into PNG, which takes a core longer than a GPU takes to find them."""
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
        levels: int = 8,
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
        self.one_pass = ACQUISITIONS.get(acquisition)
        if ":" in acquisition:
            self.one_pass = own_acquisition(acquisition)
        self.further: FurtherPasses | DifficultyMaps | None = None
        if acquisition in FURTHER:
            self.further = FurtherPasses(
                acquisition, self.predict, self._log_probabilities,
                scales=scales, passes=passes, seed=seed, cycle=cycle,
            )  # fmt: skip
        if acquisition in DIFFICULTY_NAMES:
            self.further = DifficultyMaps(acquisition, self.predict, torch.from_numpy(grid.regions()), levels=levels)

    def score_shard(self, task: ScoreTask) -> ScoreSummary:
        """Write `regions-<number>.arrow` and `pseudo-<number>.arrow`, and their hashes as `shard-<number>.json`; files
        that are there and have these hashes are kept."""
        started, self.forward_seconds = time.perf_counter(), 0.0
        regions, pseudo = (self.out / f"{kind}-{task.number:05d}.arrow" for kind in ("regions", "pseudo"))
        done = self.out / f"shard-{task.number:05d}.json"
        images = 0
        if not _intact(done):
            with (
                written(pseudo) as pseudo_file,
                pa.ipc.new_file(pseudo_file, PSEUDO_LABELS) as pseudo_writer,
                written(regions) as region_file,
                pa.ipc.new_file(region_file, REGION_SCORES) as region_writer,
            ):
                for region_rows, pseudo_rows in self._scored(task):
                    region_writer.write_batch(region_rows)
                    pseudo_writer.write_batch(pseudo_rows)
                    images += len(region_rows)
            write_json(done, {path.name: sha256(path) for path in (regions, pseudo)})
        return ScoreSummary(images, time.perf_counter() - started, self.forward_seconds)

    def score(
        self, ids: list[str], images_BCHW: Tensor, bought: dict[str, list[int]]
    ) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        """Rows of REGION_SCORES and PSEUDO_LABELS for uint8 images.  FloatingPointError names an image whose
        logits are not finite: NaN would rank first and the broken image would be bought."""
        return self._rows(ids, *self._computed(ids, images_BCHW), bought)

    def _scored(self, task: ScoreTask) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
        """The rows of a shard, batch by batch; labels are encoded while the next batches are computed."""
        waiting: deque[Future[tuple[pa.RecordBatch, pa.RecordBatch]]] = deque()
        with ThreadPoolExecutor(ENCODERS) as encoders:
            for ids, images_BCHW in pool_batches(task, self.batch_size):
                found = self._computed(ids, images_BCHW)
                if len(waiting) == ENCODERS:
                    yield waiting.popleft().result()
                waiting.append(encoders.submit(self._rows, ids, *found, task.bought))
            while waiting:
                yield waiting.popleft().result()

    @torch.inference_mode()
    def _computed(self, ids: list[str], images_BCHW: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 (B, R) and pseudo-labels uint8 (B, H, W); a GPU is waited for once."""
        started = time.perf_counter()
        logits = [self.predict(images_BCHW, scale) for scale in self.scales]
        self.forward_seconds += time.perf_counter() - started
        maps = self.further.maps(ids, images_BCHW, logits) if self.further else iter(())
        scores, labels = [], []
        for i, image_id in enumerate(ids):  # one image at a time stays in the cache
            log_p_1CHW = self._log_probabilities([z_BChw[i : i + 1] for z_BChw in logits])
            scores.append(self._region_scores(image_id, log_p_1CHW, next(maps, None)))
            labels.append(pseudo_label(log_p_1CHW, self.threshold))
        return torch.stack(scores).cpu().numpy(), torch.cat(labels).cpu().numpy()

    def _rows(
        self, ids: list[str], score_BR: np.ndarray, label_BHW: np.ndarray, bought: dict[str, list[int]]
    ) -> tuple[pa.RecordBatch, pa.RecordBatch]:
        scores = []
        for image_id, score_R in zip(ids, score_BR, strict=True):
            if not np.isfinite(score_R).all():
                what = "the network's output" + (" or its score" if ":" in self.acquisition else "")
                raise FloatingPointError(f"image {image_id}: {what} is not finite")
            closed_R = self.closed.copy()
            closed_R[bought.get(image_id, [])] = True
            scores.append([None if closed else float(s) for s, closed in zip(score_R, closed_R, strict=True)])
        labels = [encode_label(label_HW) for label_HW in label_BHW]
        coverage = (label_BHW != IGNORE).mean(axis=(1, 2))
        return (
            pa.RecordBatch.from_pydict({"image_id": ids, "score": scores}, schema=REGION_SCORES),
            pa.RecordBatch.from_pydict({"image_id": ids, "label": labels, "coverage": coverage}, schema=PSEUDO_LABELS),
        )

    def _log_probabilities(self, logits: list[Tensor]) -> Tensor:
        """Logits averaged over the scales at full resolution, then log-softmax in float32."""
        size = (self.grid.height, self.grid.width)
        full = [F.interpolate(z.float(), size, mode="bilinear", align_corners=False) for z in logits]
        mean = full[0]
        for other in full[1:]:
            mean = mean + other
        return (mean / len(full)).log_softmax(dim=1)

    def _region_scores(self, image_id: str, log_p_1CHW: Tensor, map_1HW: Tensor | None) -> Tensor:
        """Of one image (R,).  `map_1HW` is the score of every pixel where it takes more than `log_p_1CHW`.  NaN where a
        number is not finite."""
        # Our acquisitions of one pass are finite only where the log-probabilities are: `_rows` checks both.
        if self.one_pass and self.acquisition in ACQUISITIONS:
            return self.grid.mean(self.one_pass(log_p_1CHW))[0]
        if self.one_pass:
            map_1HW = self.one_pass(log_p_1CHW).float()
        if map_1HW is not None:
            score_R = self.grid.mean(map_1HW)[0]
        else:
            drawn = random_scores(self.seed, self.cycle, image_id, self.grid.num_regions)
            score_R = torch.from_numpy(drawn).to(log_p_1CHW.device)
        return torch.where(torch.isfinite(log_p_1CHW).all(), score_R, torch.nan)


def pool_batches(task: ScoreTask, batch_size: int) -> Iterator[tuple[list[str], Tensor]]:
    """Ids and uint8 images (B, 3, H, W) of a shard without the `whole` ones, in its order."""
    ids: list[str] = []
    images: list[np.ndarray] = []
    for image_id, image_HWC in read_images(task.root, task.shard):
        if image_id in task.whole:
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
