"""A training from its job to its result: what a Ray Train worker runs, and what the local back end runs in-process."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import NoReturn

import numpy as np
import torch
from torch import Tensor

from querying.base.arrow_file import unaltered
from querying.base.errors import InfrastructureError, Interrupted, UserError
from querying.base.files import make_folder
from querying.base.own_code import read_source
from training.batches.augment_gpu import with_looks
from training.batches.batch import Batch
from training.batches.training_data import prefetched
from training.fit.assembly import checked_index, new_networks, prepare_process, training_data
from training.fit.cuda_graph import capture
from training.fit.heartbeat import Heartbeat
from training.fit.job import TrainJob, stop_file
from training.fit.optim import clip, learning_rate, new_optimizer, set_lr
from training.fit.states import STATES, TrainingStates
from training.fit.validation import MIOU, Validator, best_epoch, due
from training.fit.worker import Worker
from training.kernels.precision import trains_in_bf16
from training.method_parts.parts import MethodContext
from training.methods.registry import method_class
from training.network.checkpoint import best_folder, early_folder, save_model

LOADERS = 4
"""Threads that make batches for a GPU."""


def run_job(job: TrainJob, worker: Worker) -> None:
    """Train to the end, continuing from the newest intact state in `job.work`; rank 0 writes `job.out`.

    Before a state or the result is written, DamagedError names a file that was altered while it was read."""
    with unaltered() as check_files:
        training = Training(job, worker, check_files)
        training.run()
        if worker.rank == 0:
            training.publish()


class Training:
    """One rank of a training, from the newest intact state in `job.work` on.  It knows no Ray and no tracker."""

    def __init__(self, job: TrainJob, worker: Worker, check_files: Callable[[], None]) -> None:
        self.job, self.worker, self.check_files = job, worker, check_files
        self.gpu = worker.device.type == "cuda"
        self.in_bf16 = trains_in_bf16(job.train.precision, worker.device)
        self.total = job.train.epochs * job.train.steps_per_epoch
        self.index = checked_index(job)
        kind = method_class(job.train.method, job.modules)
        prepare_process(job, self.gpu)
        self.data = training_data(job, self.index, kind, looks_apart=self.gpu)
        self.generator = torch.Generator(worker.device)
        self.context = MethodContext(
            job.train, job.reco, self.generator, worker.mean, job.methods, 0.0, job.cycle, job.model.align_corners
        )
        self.method = kind(new_networks(job, self.index.num_classes, worker.device), self.context).to(worker.device)
        self.optimizer = new_optimizer(self.method, job.train)
        self.states = TrainingStates(job.work / STATES, job.made_from, settings=job.settings)
        self.progress = self.states.restore(self.method, self.optimizer)
        self._capture()
        self.model = worker.wrap(self.method)
        step = self.progress.step
        if worker.mean(torch.tensor(float(step), device=worker.device)).item() != step:
            raise InfrastructureError(
                f"{job.work}: not the same for all workers: all nodes must share that folder's disk"
            )
        self.heartbeat = Heartbeat(job.work, self.total, worker.rank)
        self.should_stop = stop_file(job.work).exists
        self.validator = Validator(
            self.index, job.evaluate, job.evaluate_batch, job.train.threads, worker, self.should_stop
        )

    def _capture(self) -> None:
        """On a GPU of its own, a network that its method calls as a whole becomes one CUDA graph."""
        train, worker = self.job.train, self.worker
        images = train.batch_size + (train.batch_size_unlabelled if self.data.pool else 0)
        if images < 2 * worker.world:
            raise UserError(
                f"train.batch_size={images}: no pool is left, and a worker needs at least 2 images per step"
            )
        if (
            self.gpu
            and worker.world == 1
            and train.cuda_graph
            and not train.micro_batch
            and train.kernels == "fast"
            and self.method.one_forward
        ):
            with torch.autocast("cuda", torch.bfloat16, enabled=self.in_bf16, cache_enabled=False):
                capture(self.method.network, (images, 3, *self.data.crop))

    def run(self) -> None:
        """Go on from `progress` to the end of the last epoch; each step is a function of its number alone.

        FloatingPointError names the epoch and step of a loss that is not finite; every rank raises it together.  Where
        any rank should stop, all of them finish the step, save, and raise Interrupted.  Where the evaluation on val
        raises, the epoch is not finished, and the next attempt begins with it.
        """
        train, progress = self.job.train, self.progress
        for epoch in range(len(progress.history), train.epochs):
            self.model.train()
            started, stop = time.perf_counter() - progress.seconds, False
            steps = range(progress.step, (epoch + 1) * train.steps_per_epoch)
            for step, batch in zip(steps, progress.timed(self.batches(steps)), strict=True):
                losses, stop = self.step(step, batch)
                progress.add(losses, len(batch.image) + len(batch.image_u), time.perf_counter() - started)
                self.heartbeat.step(progress, sum(losses.values()))
                if stop and progress.step < steps.stop:
                    self.leave()

            lr = learning_rate(steps.stop - 1, train)
            metrics = progress.means(train.steps_per_epoch, lr) | self.validate()
            progress.finish_epoch(metrics)
            if (epoch + 1) % train.checkpoint_epochs == 0 or epoch + 1 == train.epochs:
                self.save()
            self.heartbeat.epoch(progress)
            self.worker.report(metrics)
            if stop:
                self.leave()

    def step(self, step: int, batch: Batch) -> tuple[dict[str, float], bool]:
        """Forward, backward, update.  The losses, and whether any rank is to stop, over all ranks."""
        train = self.job.train
        self.seed(step)
        self.optimizer.zero_grad(set_to_none=True)
        parts = self.backward(batch, step)
        own = [*parts.values(), torch.tensor(float(self.should_stop()), device=self.worker.device)]
        mean = self.worker.mean(torch.stack(own))
        if train.clip_norm is not None:
            clip(self.optimizer, train.clip_norm)
        set_lr(self.optimizer, learning_rate(step, train))
        self.optimizer.step()
        *values, stop = mean.tolist()  # a GPU is waited for here, when it has all of the step to do
        losses = dict(zip(parts, values, strict=True))
        if not all(map(math.isfinite, values)):
            shown = ", ".join(f"{name} {value:g}" for name, value in losses.items())
            epoch = step // train.steps_per_epoch
            raise FloatingPointError(f"epoch {epoch}, step {step}: the loss is not finite ({shown})")
        self.method.after_step(step)
        return losses, bool(stop)

    def seed(self, step: int) -> None:
        job, rank = self.job, self.worker.rank
        numbers = np.random.SeedSequence([job.seed, job.cycle, step, rank]).generate_state(2, np.uint64) >> 1
        torch.manual_seed(int(numbers[0]))  # dropout, stochastic depth
        self.generator.manual_seed(int(numbers[1]))  # the method's draws

    def backward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The method's terms, whose sum is the loss; its gradient is added up over `train.micro_batch` images at a time
        and joined over the ranks with the last of them."""
        most, context = self.job.train.micro_batch, self.context._replace(done=step / self.total)
        here = with_looks(batch.to(self.worker.device))  # whole numbers, of which bfloat16 has none above 256
        parts, terms = here.parts(most) if most else [here], dict[str, Tensor]()
        for number, part in enumerate(parts, 1):
            apart = getattr(self.model, "no_sync", nullcontext) if number < len(parts) else nullcontext
            with apart():
                with torch.autocast(self.worker.device.type, torch.bfloat16, enabled=self.in_bf16):
                    found = self.model(part, context._replace(whole=here if most else None))
                torch.stack(list(found.values())).sum().backward()
            for name, term in found.items():
                terms[name] = terms[name] + term.detach() if name in terms else term.detach()
        return terms

    def batches(self, steps: range) -> Iterator[Batch]:
        train, worker = self.job.train, self.worker
        return prefetched(
            self.data, steps, worker.rank, worker.world, labelled=train.batch_size,
            unlabelled=train.batch_size_unlabelled, threads=LOADERS if self.gpu else 1, pin=self.gpu,
        )  # fmt: skip

    def validate(self) -> dict[str, float]:
        """mIoU on val, where it is due after this epoch."""
        if not due(self.job.train, len(self.progress.history) + 1):
            return {}
        miou = self.validator.miou(self.method.deployed())
        if miou is None:
            self.leave()
        if self.worker.rank == 0:
            if self.job.evaluate.best_on_val and miou > best_epoch(self.progress.history)[MIOU]:
                self.states.best = {name: t.cpu().clone() for name, t in self.method.deployed().state_dict().items()}
            self.heartbeat.validated(self.progress, miou)
        return {MIOU: miou}

    def save(self) -> None:
        """The state to continue from, by rank 0."""
        if self.worker.rank == 0:
            self.check_files()
            self.states.save(self.method, self.optimizer, self.progress)

    def leave(self) -> NoReturn:
        self.save()
        raise Interrupted(f"stopped after step {self.progress.step}, state saved: the same command continues there")

    def publish(self) -> None:
        """Write the last network, those of earlier steps that the method keeps, and the best on val."""
        job, history = self.job, self.progress.history
        for name, tensor in self.method.state_dict().items():  # a loss sees the weights of the step before it
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"after the last step: weight {name} is not finite")
        self.check_files()
        meta = {
            "model": job.model.model_dump(mode="json"),
            "classes": list(self.index.classes),
            "palette": [list(colour) for colour in self.index.palette],
            "height": self.index.height,
            "width": self.index.width,
            **({"shard_sizes": sizes} if (sizes := self.index.shard_sizes("train")) else {}),
            "cycle": job.cycle,
            "seed": job.seed,
            "method": job.train.method,
            "labelled_images": len(self.data.labelled),
            "pool_images": len(self.data.pool),
            **({"start": "previous"} if self.job.previous else {}),
            "history": history,
            **({"own_code": read_source(job.model.backbone).hashes} if job.model.own_encoder else {}),
        }
        for step, network in self.method.early().items():
            make_folder(folder := early_folder(job.out, step))
            save_model(folder, network.state_dict(), {**meta, "history": []})
        if self.states.best:
            make_folder(best_folder(job.out))
            save_model(best_folder(job.out), self.states.best, {**meta, "history": [], **best_epoch(history)})
        save_model(job.out, self.method.deployed().state_dict(), meta)
