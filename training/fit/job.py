"""One training from its description: what a Ray Train worker runs, and what the local back end runs in-process."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from querying.base.allocator import keep_freed_memory
from querying.base.arrow_file import unaltered
from querying.base.environment import note_machine
from querying.base.errors import DamagedError, InfrastructureError, Interrupted, UserError
from querying.base.files import make_folder, sha256
from querying.dataset.shards import DataIndex
from querying.labels.ledger import Ledger
from querying.labels.regions import RegionGrid
from training.batches.augment_gpu import with_looks
from training.batches.batch import Batch
from training.batches.training_data import TrainingData, prefetched
from training.fit.cuda_graph import capture
from training.fit.heartbeat import Heartbeat
from training.fit.loop import STOPPED, train
from training.fit.new_network import new_networks
from training.fit.optim import poly_lr
from training.fit.states import TrainingStates
from training.fit.validation import MIOU, Validator, best_epoch, due
from training.fit.worker import Worker
from training.kernels.precision import keep_float32, trains_in_bf16
from training.method_parts.parts import Step
from training.methods.registry import method_class
from training.network.checkpoint import best_folder, early_folder, save_model
from training.network.deeplab import parameter_groups
from training.settings.methods import MethodSettings
from training.settings.training import AugmentSettings, EvaluateSettings, ModelSettings, ReCoSettings, TrainSettings
from training.settings.traits import traits_of

LOADERS = 4
"""Threads that make batches for a GPU."""
SWITCH_S = 0.0005
"""What they may keep the thread waiting that launches the kernels; Python's own 5 ms are a fifth of a step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainJob:
    """Everything that decides the result; paths only, so that it travels to any worker."""

    data: Path
    ledger: Path
    cycle: int
    pseudo: tuple[Path, ...]
    """Folders of scores: the previous cycle's, and that of cycle 0 where its reliable images keep their labels."""
    backbone: Path | None
    """Local weight file; None starts from random weights."""
    region_size: int
    seed: int
    model: ModelSettings
    train: TrainSettings
    reco: ReCoSettings
    augment: AugmentSettings
    methods: MethodSettings
    work: Path
    """States to continue from and progress; may vanish once `out` is published."""
    evaluate: EvaluateSettings
    evaluate_batch: int
    """Images at a time, on val during training."""
    made_from: str
    """A key of labels, pseudo-labels and first weights: states of other ones are not continued from."""
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    """The recipe's keys that decide the result: states of other ones are not continued from either."""
    data_sha256: str | None = None
    """Of the index: a data set that is ingested again under a run is another one.  None takes what there is."""
    backbone_sha256: str | None = None
    """Of the weight file, likewise."""
    modules: Path = field(default_factory=Path.cwd)
    """Where the user's own method may lie, besides PYTHONPATH: where the job was made, not where a worker is."""
    out: Path
    """Receives `model.safetensors` and `meta.json`; early networks in `step-<number>/`, the best in `best_on_val/`."""


def device_name(use_gpu: bool) -> str:
    """What computes, as far as it decides the last bits: `cuda`, or `cpu` and its instructions."""
    return "cuda" if use_gpu else f"cpu {torch.backends.cpu.get_cpu_capability()}"


def run_job(job: TrainJob, worker: Worker) -> None:
    """Train to the end, continuing from the newest intact state in `job.work`; rank 0 writes `job.out`.

    Before a state or the result is written, DamagedError names a file that was altered while it was read."""
    with unaltered() as check_files:
        _run_job(job, worker, check_files)


def _run_job(job: TrainJob, worker: Worker, check_files: Callable[[], None]) -> None:
    torch.set_num_threads(job.train.threads)
    keep_freed_memory()
    index = DataIndex.load(job.data)
    if job.data_sha256 not in (None, index.digest):
        raise DamagedError(f"{index.root}/index.json: was replaced under the run, which is of another data set")
    if job.backbone and job.backbone_sha256 not in (None, sha256(job.backbone)):
        raise DamagedError(f"{job.backbone}: was altered under the run, which began from other weights")
    grid = RegionGrid(index.height, index.width, job.region_size)
    kind, traits = method_class(job.train.method, job.modules), traits_of(job.train.method)
    note_machine(job.out, gpu := worker.device.type == "cuda")
    if gpu:
        sys.setswitchinterval(SWITCH_S)
        keep_float32()
    data = TrainingData(
        index,
        Ledger(job.ledger),
        job.cycle,
        grid,
        job.pseudo if traits.pool == "pseudo" else (),
        augment=job.augment,
        crop=job.train.crop or (index.height, index.width),
        seed=job.seed,
        views=kind.views(job.methods) if traits.labels_pool else None,
        cells_in_pool=traits.cells_in_pool,
        looks_apart=gpu,
    )
    generator = torch.Generator(worker.device)
    context = Step(job.train, job.reco, generator, worker.mean, job.methods, 0.0, job.cycle, job.model.align_corners)
    method = kind(new_networks(job, index.num_classes, worker.device), context).to(worker.device)
    optimizer = torch.optim.SGD(
        parameter_groups(
            method, job.train.lr, head_lr_scale=job.train.head_lr_scale, weight_decay=job.train.weight_decay
        ),
        lr=job.train.lr,
        momentum=job.train.momentum,
        nesterov=job.train.nesterov and job.train.momentum > 0,
        fused=True,
    )
    states = TrainingStates(job.work / "states", job.made_from, settings=job.settings)
    progress = states.restore(method, optimizer)
    images = job.train.batch_size + (job.train.batch_size_unlabelled if data.pool else 0)
    in_bf16 = trains_in_bf16(job.train.precision, worker.device)
    if images < 2 * worker.world:
        raise UserError(f"train.batch_size={images}: no pool is left, and a worker needs at least 2 images per step")
    if gpu and worker.world == 1 and job.train.cuda_graph and method.one_forward:
        with torch.autocast("cuda", torch.bfloat16, enabled=in_bf16, cache_enabled=False):
            capture(method.network, (images, 3, *data.crop))
    model = worker.wrap(method)
    if worker.mean(torch.tensor(float(progress.step), device=worker.device)).item() != progress.step:
        raise InfrastructureError(f"{job.work}: not the same for all workers: all nodes must share that folder's disk")
    total = job.train.epochs * job.train.steps_per_epoch
    heartbeat = Heartbeat(job.work, total, worker.rank)
    should_stop = stop_file(job.work).exists
    validator = Validator(index, job.evaluate, job.evaluate_batch, job.train.threads, worker, should_stop)

    def seed_at(step: int) -> None:
        numbers = np.random.SeedSequence([job.seed, job.cycle, step, worker.rank]).generate_state(2, np.uint64) >> 1
        torch.manual_seed(int(numbers[0]))  # dropout, stochastic depth
        generator.manual_seed(int(numbers[1]))  # the method's draws

    def loss_parts(model: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        here = with_looks(batch.to(worker.device))  # whole numbers, of which bfloat16 has none above 256
        with torch.autocast(worker.device.type, torch.bfloat16, enabled=in_bf16):
            parts: dict[str, Tensor] = model(here, context._replace(done=step / total))
            return parts

    def validate() -> dict[str, float]:
        if not due(job.train, len(progress.history) + 1):
            return {}
        miou = validator.miou(method.deployed())
        if miou is None:
            save()
            raise Interrupted(STOPPED.format(progress.step))
        if worker.rank == 0:
            if job.evaluate.best_on_val and miou > best_epoch(progress.history)[MIOU]:
                states.best = {name: tensor.cpu().clone() for name, tensor in method.deployed().state_dict().items()}
            heartbeat.validated(progress, miou)
        return {MIOU: miou}

    def save() -> None:
        if worker.rank == 0:
            check_files()
            states.save(method, optimizer, progress)

    def on_epoch(metrics: dict[str, float]) -> None:
        done = len(progress.history)
        if done % job.train.checkpoint_epochs == 0 or done == job.train.epochs:
            save()
        heartbeat.epoch(progress)
        worker.report(metrics)

    train(
        model,
        optimizer,
        loss_parts,
        partial(
            prefetched,
            data,
            rank=worker.rank,
            world=worker.world,
            labelled=job.train.batch_size,
            unlabelled=job.train.batch_size_unlabelled,
            threads=LOADERS if gpu else 1,
            pin=gpu,
        ),
        progress,
        epochs=job.train.epochs,
        steps_per_epoch=job.train.steps_per_epoch,
        lr_at=lambda epoch: poly_lr(epoch, total=job.train.epochs, base=job.train.lr, power=job.train.poly_power),
        seed_at=seed_at,
        mean_over_ranks=worker.mean,
        should_stop=should_stop,
        after_step=method.after_step,
        on_step=heartbeat.step,
        validate=validate,
        on_epoch=on_epoch,
        save=save,
    )
    if worker.rank == 0:
        for name, tensor in method.state_dict().items():  # a loss sees the weights of the step before it
            if not torch.isfinite(tensor).all():
                raise FloatingPointError(f"after the last step: weight {name} is not finite")
        check_files()
        meta = _meta(job, index, data, progress.history)
        for step, network in method.early().items():
            make_folder(folder := early_folder(job.out, step))
            save_model(folder, network.state_dict(), {**meta, "history": []})
        if states.best:
            make_folder(best_folder(job.out))
            save_model(best_folder(job.out), states.best, {**meta, "history": [], **best_epoch(progress.history)})
        save_model(job.out, method.deployed().state_dict(), meta)


def _meta(job: TrainJob, index: DataIndex, data: TrainingData, history: list[dict[str, float]]) -> Mapping[str, Any]:
    return {
        "model": job.model.model_dump(mode="json"),
        "classes": list(index.classes),
        "palette": [list(colour) for colour in index.palette],
        "height": index.height,
        "width": index.width,
        "cycle": job.cycle,
        "seed": job.seed,
        "method": job.train.method,
        "labelled_images": len(data.labelled),
        "pool_images": len(data.pool),
        "history": history,
    }


def stop_file(work: Path) -> Path:
    """Where it exists, the workers finish their step, save the state and stop; the driver removes it at the start."""
    return work / "stop"
