"""What one trial of a sweep holds of the cluster, and how many of them there is room for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.recipe.config import RunConfig
from querying.base.errors import UserError

if TYPE_CHECKING:
    from orchestrator.backends.backend import Backend


@dataclass(frozen=True, slots=True)
class Room:
    resources: Mapping[str, float]
    """That Tune's actor of a trial holds."""
    at_once: int
    """Trials at a time."""
    where: tuple[str, str]
    """Back end and address for a trial's process."""


def room_for(configs: Sequence[RunConfig], backend: Backend, parallel: int | None) -> Room:
    """The room that trials of any of these recipes need, so that the largest fits.  UserError where it does not."""
    workers, actors = max(one.train.workers for one in configs), max(one.query.actors for one in configs)
    train, score = max(one.train.threads for one in configs), max(one.query.threads for one in configs)
    if workers == actors == 1:  # the actor holds what its process needs, and no Ray runs within
        threads = max(train, score)
        resources: dict[str, float] = {"CPU": threads, **({"GPU": 1} if backend.device == "cuda" else {})}
        room, where = backend.room(1, threads), ("local", "-")
    else:  # its workers and scorers hold it: an actor that did, too, might keep them waiting for ever
        resources = {"CPU": 0}
        # Scorers are as many as fit, but a training that waits for those of another trial gives up in the end.
        room = min(backend.room(workers, train), max(1, backend.room(actors, score)))
        where = ("ray", str(backend.address))
    if not room:
        raise UserError("no node of the cluster has room for one trial (train.workers, train.threads, query.threads)")
    return Room(resources, min(parallel or room, room), where)
