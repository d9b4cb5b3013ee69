"""The only Ray in training: give every worker its rank, call the same `run_job`, wait for the end."""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray.exceptions
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import FailureConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from querying.base.errors import InfrastructureError, Interrupted, S4ALError
from querying.base.files import make_folder
from querying.base.pulse import BEAT_S, START_S, Vigil, keep_beating
from querying.base.redaction import cause
from querying.base.relay.ray_relay import Offer, moved, offered
from training.fit.job import TrainJob
from training.fit.loop import run_job
from training.fit.mirrored import mirrored, places_of
from training.fit.worker import Worker

LOG = logging.getLogger(__name__)
GROUP_START_S = 1200.0
"""In so long the first worker must have begun; Ray starts a group anew, `train.max_failures` times, before that."""
PULSE = "pulse.json"
"""In the training's scratch: signs of life of rank 0."""


def fit(job: TrainJob, *, use_gpu: bool, storage: Path, name: str, apart: bool = False) -> None:
    """Train `job` on `job.train.workers` workers; `job.out` holds the result.  `apart`: there may be nodes that do not
    see the run folder.

    Workers resume from our own epoch checkpoints, so Ray's are not used and every attempt gets a fresh `name`.
    A loss that is not finite is a FloatingPointError here; lost workers beyond `max_failures`, or a cluster that has
    become too small, an InfrastructureError.
    """
    # The controller polls its workers every 2 s by default, which each report would wait for.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
    # It would wait for a node that does not come back for ever: so long, once more for each of max_failures.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "30")
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(job.train.timeout)
    make_folder(job.work)
    with offered(places_of(job), job.work) if apart else nullcontext() as offer:
        _fit(job, offer, use_gpu, storage, name)


def _fit(job: TrainJob, offer: Offer | None, use_gpu: bool, storage: Path, name: str) -> None:
    loop: Any = _worker  # Ray annotates loops as returning nothing, and hands on what rank 0 returns
    trainer = TorchTrainer(
        loop,
        train_loop_config={"job": job, "offer": offer},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=job.train.timeout),
        scaling_config=ScalingConfig(
            num_workers=job.train.workers, use_gpu=use_gpu, resources_per_worker=_resources(job, use_gpu)
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(
                max_failures=job.train.max_failures, controller_failure_limit=job.train.max_failures
            ),
        ),
    )
    try:
        result = _watched(trainer.fit, job)
    except ray.exceptions.RayActorError as error:  # its controller has died, or was frozen and killed
        raise InfrastructureError(
            f"training: Ray's controller was lost: {cause(str(error))}; the same command continues from the last saved"
            " state"
        ) from None
    except TrainingFailedError as error:
        for failure in getattr(error, "worker_failures", {}).values():
            if isinstance(failure, S4ALError):
                raise failure from None
        raise InfrastructureError(
            f"training failed on {job.train.workers} worker{'s' * (job.train.workers > 1)}: {cause(str(error), 400)};"
            " the same command continues from the last saved state"
        ) from error
    if isinstance(result.return_value, Exception):
        raise result.return_value


def _watched(run: Callable[[], Any], job: TrainJob) -> Any:
    """What `run` gives.  InfrastructureError when the training has not moved for longer than Ray needs to notice a
    frozen worker and to start its group again: then Ray would wait for ever, for a frozen controller for example.

    Not in the main thread, where Ray would take SIGINT for itself and end the workers without a last state; and in none
    that is waited for at the end of the process.
    """
    done: Future[Any] = Future()

    def work() -> None:
        try:
            done.set_result(run())
        except BaseException as error:
            done.set_exception(error)

    beats = job.work / PULSE
    beats.unlink(missing_ok=True)
    vigil, heard = Vigil(beats, 2 * job.train.timeout + START_S, GROUP_START_S), time.monotonic()
    threading.Thread(target=work, daemon=True, name="training").start()
    while not wait([done], timeout=BEAT_S).done:
        heard, before = time.monotonic(), heard
        why = vigil.listen(min(heard - before, 3 * BEAT_S))
        if warning := vigil.warning():
            LOG.warning("training: %s", warning)
        if why:
            raise InfrastructureError(
                f"training: {vigil.who}: {why}, and Ray has not replaced it; the same command continues from the last"
                " saved state"
            )
    return done.result()


def _resources(job: TrainJob, use_gpu: bool) -> dict[str, float]:
    return {"CPU": job.train.threads, **({"GPU": 1} if use_gpu else {})}


def _worker(config: dict[str, Any]) -> Exception | None:
    """Returns, instead of raising, what every rank has met together and a restart would only repeat."""
    context = ray.train.get_context()
    world = context.get_world_size()
    worker = Worker(
        rank=context.get_world_rank(),
        world=world,
        device=ray.train.torch.get_device(),
        wrap=_distributed if world > 1 else lambda model: model,
        mean=_mean if world > 1 else lambda value: value,
        broadcast=_broadcast if world > 1 else lambda value: None,
        report=ray.train.report,
    )
    try:
        _work(config["job"], config["offer"], worker)
    except (FloatingPointError, Interrupted) as error:
        return error
    except S4ALError as error:
        if world > 1:  # of this rank alone: the others wait for it in a collective until Ray ends the group
            raise
        return error
    return None


def _work(job: TrainJob, offer: Offer | None, worker: Worker) -> None:
    """The whole job, on the driver's files or, where this node does not see them, on copies."""
    if offer is None or offer.mark.seen():
        if worker.rank == 0:
            make_folder(job.work)
            keep_beating(job.work / PULSE)
        run_job(job, worker)
        return
    with offer.mirror() as mirror:
        if worker.rank == 0:
            mirror.far.own(job.work, mirror.token)
            keep_beating(job.work / PULSE, mirror.beat)
        try:
            with mirrored(job, mirror, worker.rank):
                run_job(moved(job, mirror.here), worker)
        except S4ALError as error:
            raise type(error)(mirror.there(str(error))) from None


def _distributed(model: nn.Module) -> nn.Module:
    device = next(model.parameters()).device
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def _broadcast(value: Tensor) -> None:
    dist.broadcast(value, src=0)


def _mean(value: Tensor) -> Tensor:
    total = value.detach().clone().to(torch.float64 if value.device.type == "cpu" else value.dtype)
    dist.all_reduce(total)
    return (total / dist.get_world_size()).to(value.dtype if value.is_floating_point() else torch.float64)
