"""The same stages on a Ray cluster: training by Ray Train, shards by actors."""

import logging
import math
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray

from orchestrator.backends.local_cluster import object_store
from orchestrator.process.child import CODE
from orchestrator.process.interrupt import take_back
from orchestrator.process.leaving import FrozenWatch, leave
from orchestrator.process.service_watch import FROZEN_S, Watch, uses_tls
from querying.base.errors import InfrastructureError, UserError
from querying.base.redaction import cause
from querying.base.relay.places import Places
from querying.base.relay.ray_relay import offered
from querying.scoring.ray_map import map_unordered
from training.fit.job import TrainJob, device_name
from training.fit.ray_trainer import fit

LOG = logging.getLogger(__name__)
PATIENCE_S = 1.0
"""What is refused for so long is dead; a signal that ends it and this process together is noticed here before that."""
GCS_PATIENCE_S = 50.0
"""A cluster's control service may be started again; Ray itself waits for it for 60 s."""


class RayBackend:
    def __init__(self, joined: bool = False) -> None:
        """`joined`: a cluster that somebody else has started, of which not every node may see the run folder."""
        self.joined = joined
        self.use_gpu = ray.cluster_resources().get("GPU", 0) >= 1
        self.device = device_name(self.use_gpu)

    @property
    def address(self) -> str:
        return str(ray.get_runtime_context().gcs_address)

    def room(self, processes: int, threads: int) -> int:
        return self._slots(threads) // processes

    def train(self, job: TrainJob) -> None:
        slots = self._slots(job.train.threads)
        if slots < job.train.workers:  # Ray would wait for such a cluster for ever
            raise UserError(
                f"train.workers={job.train.workers}: the cluster has room for {slots} workers of"
                f" train.threads={job.train.threads} CPUs{' and a GPU' if self.use_gpu else ''} each"
            )
        fit(
            job, use_gpu=self.use_gpu, storage=job.work / "ray", name=f"train-{uuid.uuid4().hex[:8]}", apart=self.joined
        )

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
        slots = self._slots(threads)
        if not slots:
            raise UserError(f"query.threads={threads}: no node of the cluster has as many CPUs")
        # An actor that does not fit would keep its shard waiting for the others to end, which they do last.
        fitting = min(actors, slots)
        with offered(places, places.root) if self.joined else nullcontext() as offer:
            yield from map_unordered(
                make_worker, method, items,
                actors=fitting, num_cpus=threads, num_gpus=1 if self.use_gpu else 0, slots=lambda: self._slots(threads),
                timeout=timeout, beats=places.root, offer=offer, say=say,
            )  # fmt: skip

    def _slots(self, threads: int) -> int:
        """How many processes of so many CPUs (and a GPU, where there are any) the nodes have room for."""
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fits = [int(have.get("CPU", 0) // threads) for have in alive]
        if self.use_gpu:
            fits = [min(count, int(have.get("GPU", 0))) for count, have in zip(fits, alive, strict=True)]
        return sum(fits)


class _OwnPath(list[str]):
    """What workers have before their own `sys.path`.  Ray would put the driver's working folder before that, and a
    user's training.py or numpy.py there before ours."""

    def extend(self, folders: Iterable[str], /) -> None: ...
    def __reduce__(self) -> tuple[type, tuple[list[str]]]:  # `ray://` sends it
        return list, (list(self),)


@contextmanager
def connected(address: str | None) -> Iterator[RayBackend]:
    """Join the cluster at `address` (or of RAY_ADDRESS, set inside a Ray job), else start a local one.

    When its control service or this machine's raylet dies, or has been frozen for `FROZEN_S` seconds, the process ends
    with status 5.
    """
    joining = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the behaviour Ray announces for the future
    local: dict[str, Any] = {} if joining else {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    if not joining:
        local["object_store_memory"] = object_store()
    own = ray.job_config.JobConfig(_py_driver_sys_path=_OwnPath([str(CODE)]))
    try:
        ray.init(address=joining or "local", log_to_driver=False, logging_level=logging.ERROR, job_config=own, **local)
    except Exception as error:  # whatever it is, nothing has been begun
        what = f"does not answer at {joining}" if joining else "does not start (--backend local needs none)"
        why = cause(str(error)) or type(error).__name__
        raise InfrastructureError(f"Ray {what}: {why}") from None
    take_back()
    watches: list[Watch | FrozenWatch] = [*_watches(GCS_PATIENCE_S if joining else PATIENCE_S)]
    watches += [] if joining else [FrozenWatch(LOG.warning)]
    try:
        yield RayBackend(joined=bool(joining))
    finally:
        for watch in watches:
            watch.stop()
        leave(ray.shutdown)


def _watches(gcs_patience: float) -> list[Watch]:
    context = ray.get_runtime_context()
    gcs_host, gcs_port = context.gcs_address.rsplit(":", 1)
    name = f"Ray's control service (GCS) at {context.gcs_address}"
    frozen = math.inf if uses_tls() else FROZEN_S
    watches = [Watch(name, gcs_host, int(gcs_port), gcs_patience, frozen)]
    for node in ray.nodes():
        if node["NodeID"] == context.get_node_id():
            host, port = node["NodeManagerAddress"], node["NodeManagerPort"]
            watches.append(Watch(f"Ray's raylet of this machine ({host}:{port})", host, port, PATIENCE_S, frozen))
    return watches
