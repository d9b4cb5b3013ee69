"""The only Ray in base: the actor that serves a run folder, and paths that are translated wherever they are."""

from __future__ import annotations

import io
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import ray
from ray import cloudpickle
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from querying.base.errors import InfrastructureError
from querying.base.redaction import cause
from querying.base.relay.mirror import Far, Mirror, mirror_of
from querying.base.relay.places import Mark, Places
from querying.base.relay.served import Served

T = TypeVar("T")
THREADS = 8
"""Calls that the relay works on at a time."""


@dataclass(frozen=True)
class Offer:
    """What a worker gets of the driver: how to tell whether it sees the run folder, and whom to ask if not."""

    places: Places
    mark: Mark
    relay: Any
    """Handle of the actor."""

    @property
    def scratch(self) -> Path:
        """A folder of this stage, in which workers may write signs of life."""
        return self.mark.path.parent

    @property
    def far(self) -> Far:
        return cast(Far, _Calls(self.relay))

    def mirror(self) -> AbstractContextManager[Mirror]:
        return mirror_of(self.far, self.places)


@contextmanager
def offered(places: Places, folder: Path) -> Iterator[Offer]:
    """A mark in `folder`, and a relay on this node, until the end of the stage.  Nobody waits for it to start."""
    with tempfile.TemporaryDirectory(prefix=".tmp-stage-", dir=folder, ignore_cleanup_errors=True) as scratch:
        mark = Mark(Path(scratch) / "mark", secrets.token_hex(16))
        mark.path.write_text(mark.text)
        places = replace(places, writes=(*places.writes, Path(scratch)))
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor: Any = ray.remote(Served)
        relay = actor.options(num_cpus=0, max_concurrency=THREADS, scheduling_strategy=here).remote(places, mark)
        try:
            yield Offer(places, mark, relay)
        finally:
            ray.kill(relay)  # with it, nobody can write any more


class _Calls:
    """The relay as if it were here.  InfrastructureError where it or the driver is gone; what it raises is raised."""

    def __init__(self, relay: Any) -> None:
        self.relay = relay

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **keys: Any) -> Any:
            try:
                return ray.get(getattr(self.relay, name).remote(*args, **keys))
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise InfrastructureError(
                    f"the run folder is out of reach: its relay is lost: {cause(str(error))}; the same command goes on"
                ) from None

        return call


def moved(value: T, here: Callable[[Path], Path]) -> T:
    """A copy of what came from the driver, in which every path, whatever holds it, has become that of this node."""

    class Moving(cloudpickle.CloudPickler):
        def reducer_override(self, thing: Any) -> Any:
            if isinstance(thing, Path):
                return type(thing), (str(here(thing)),)
            return super().reducer_override(thing)

    copy = io.BytesIO()
    Moving(copy).dump(value)
    return cast(T, cloudpickle.loads(copy.getvalue()))  # of this process's own making, a line above
