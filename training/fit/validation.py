"""mIoU on the val split while a training goes on, by all its workers together."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from querying.base.storage.ahead import announced, far_files
from querying.dataset.shards import DataIndex, image_ids
from training.fit.worker import Worker
from training.inference.confusion import Confusion
from training.inference.evaluation import EvaluationTask, ShardEvaluator
from training.method_parts.parts import evaluating
from training.network.deeplab import normalise
from training.network.segmenter import Segmenter
from training.settings.training import VAL_SPLIT, EvaluateSettings, TrainSettings

MIOU = f"{VAL_SPLIT}/miou"


def due(settings: TrainSettings, epochs: int) -> bool:
    """Is the val split evaluated after so many epochs?"""
    every = settings.validate_epochs
    return bool(every) and (epochs % every == 0 or epochs == settings.epochs)


def best_epoch(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """`epoch` and mIoU of the best evaluation, the first of equals; those of none, -1, where there was none."""
    rows = [{"epoch": row["epoch"], MIOU: row[MIOU]} for row in history if MIOU in row]
    return max([{"epoch": -1, MIOU: -1.0}, *rows], key=lambda row: row[MIOU])


class Validator:
    """Counts batch after batch of the val split, each by one worker, so that the sum does not depend on their number.

    float32 without autocast, as in the evaluation of a finished checkpoint.
    """

    def __init__(
        self,
        index: DataIndex,
        settings: EvaluateSettings,
        batch_size: int,
        threads: int,
        worker: Worker,
        should_stop: Callable[[], bool],
    ) -> None:
        self.index, self.settings, self.batch_size, self.threads = index, settings, batch_size, threads
        self.worker, self.should_stop = worker, should_stop

    def miou(self, network: Segmenter) -> float | None:
        """In 0..1; None where any worker was asked to stop meanwhile.  Every worker calls it and gets the same, also a
        FloatingPointError where an output is not finite.

        The network is in evaluation mode meanwhile.  Its buffers become those of rank 0, as they do anyway before the
        next step: between steps each worker has its own statistics of BatchNorm.
        """
        for buffer in network.buffers():
            self.worker.broadcast(buffer)
        confusion, stopped, broken = Confusion.empty(self.index.num_classes), False, False
        with evaluating(network):
            evaluator = ShardEvaluator(
                lambda: _Predict(network), self.index.num_classes, self.batch_size, self.threads, self.settings
            )
            for number, task in enumerate(self._batches()):
                stopped = stopped or self.should_stop()
                if number % self.worker.world == self.worker.rank and not (stopped or broken):
                    try:
                        confusion += Confusion.from_list(evaluator.evaluate_shard(task))
                    except FloatingPointError:  # the others wait below
                        broken = True
        own = torch.cat([confusion.counts.flatten().double(), torch.tensor([stopped, broken])])
        *merged, any_stopped, any_broken = self.worker.mean(own.to(self.worker.device)).tolist()
        if any_broken:
            raise FloatingPointError(f"evaluation on {VAL_SPLIT}: the network's output is not finite")
        if any_stopped:
            return None
        whole = torch.tensor([round(count * self.worker.world) for count in merged])  # exact below 2^52 pixels
        return Confusion.from_list(whole.reshape(len(self.index.classes), -1).tolist()).mean_iou()

    def _batches(self) -> Iterator[EvaluationTask]:
        shards = self.index.shards(VAL_SPLIT)
        for shard in announced(shards, lambda shard: far_files(EvaluationTask(self.index.root, shard))):
            ids = image_ids(self.index.root, shard)
            for first in range(0, len(ids), self.batch_size):
                yield EvaluationTask(self.index.root, shard, frozenset(ids[first : first + self.batch_size]))


class _Predict:
    """`training.inference.predictor.Predictor` of a network that is in memory."""

    def __init__(self, network: Segmenter) -> None:
        self.network, self.align_corners = network, network.align_corners
        self.device = next(network.parameters()).device

    def __call__(self, images_BCHW: Tensor, scale: float) -> Tensor:
        x_BCHW = normalise(images_BCHW.to(self.device)).contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(x_BCHW).logits
        return logits.float()
