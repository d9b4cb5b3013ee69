"""The only Ray in querying: put plain workers behind actors and keep each of them busy, and no busier."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice
from typing import Any, TypeVar

import ray
from ray.exceptions import RayActorError

from querying.errors import InfrastructureError
from querying.shown import cause

T = TypeVar("T")
R = TypeVar("R")

MAX_LOSSES = 3
"""Actors that one stage may lose before it gives up."""


def map_unordered(
    make_worker: Callable[[], Any],
    method: str,
    items: Iterable[T],
    *,
    actors: int,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    slots: Callable[[], int] | None = None,
) -> Iterator[R]:
    """Yield `worker.method(item)` as results finish, with one item in flight per actor.

    The item of an actor that dies is given to another one, so `method` must be idempotent.  An error raised by
    `method` itself is raised here unchanged.  `slots` says how many actors the cluster has room for: asked after a
    loss, since a new actor that fits on no node would be waited for, for ever.
    """
    remote: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(_Host)
    make = ray.put(make_worker)  # sent once, however many actors
    todo = iter(items)  # never a list: the shards of a large pool are described one by one
    idle: list[Any] = []
    busy: dict[Any, tuple[Any, T]] = {}
    losses = 0
    try:
        while True:
            for item in islice(todo, max(0, actors - len(busy))):
                actor = idle.pop() if idle else remote.remote(make)
                busy[actor.call.remote(method, item)] = (actor, item)
            if not busy:
                return
            [done], _ = ray.wait(list(busy), num_returns=1)
            actor, item = busy.pop(done)
            try:
                result = ray.get(done)
            except RayActorError as error:
                losses += 1
                if losses > MAX_LOSSES:
                    raise InfrastructureError(
                        f"{losses} scorers died, the last: {cause(str(error))}; where it was memory, lower"
                        " query.batch_size or query.actors; the same command continues"
                    ) from None
                todo = chain([item], todo)
                actors = min(actors, slots()) if slots else actors
                if not actors:
                    raise InfrastructureError(
                        f"no node of the cluster has room for a scorer ({num_cpus:g} CPUs) any more: lower"
                        " query.threads, or add a node; the same command continues"
                    ) from None
                continue
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise InfrastructureError(f"Ray: {cause(str(error))}; the same command continues") from None
            idle.append(actor)
            yield result
    finally:
        for actor in [*idle, *(actor for actor, _ in busy.values())]:
            ray.kill(actor)


class _Host:
    """Builds its worker at the first call, so that an error while building is raised like any other."""

    def __init__(self, make_worker: Callable[[], Any]) -> None:
        self.make_worker = make_worker
        self.worker: Any = None

    def call(self, method: str, item: Any) -> Any:
        if self.worker is None:
            self.worker = self.make_worker()
        return getattr(self.worker, method)(item)
