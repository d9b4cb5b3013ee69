"""The only Ray in querying: put plain workers behind actors and keep each of them busy, and no busier."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import ray
from ray.exceptions import RayActorError

from querying.base.errors import InfrastructureError
from querying.base.pulse import BEAT_S, Vigil, keep_beating, put_beat
from querying.base.redaction import cause
from querying.base.relay.ray_relay import Offer, moved
from querying.base.storage.ahead import expect
from querying.base.storage.place import Remote
from querying.scoring.away import Away
from querying.scoring.line import Line

T = TypeVar("T")
R = TypeVar("R")

MAX_LOSSES = 3
"""Actors that one stage may lose before it gives up."""
LEAVE_S = 5.0
"""Actors that have copies of the run have so long to remove them."""


def map_unordered(
    make_worker: Callable[[], Any],
    method: str,
    items: Iterable[T],
    *,
    actors: int,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    slots: Callable[[], int] | None = None,
    timeout: float = 300.0,
    beats: Path | None = None,
    offer: Offer | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[R]:
    """Yield `worker.method(item)` as results finish, with one item in flight per actor.

    The item of an actor that is lost is given to another one, so `method` must be idempotent.  Lost is one that dies,
    and one that has shown no sign of work for `timeout` seconds (`querying.base.pulse`), which is said.  An error
    raised by `method` itself is raised here unchanged.  `slots` says how many actors the cluster has room for: asked
    after a loss, since a new actor that fits on no node would be waited for in vain.  `beats` is a folder that all
    nodes see, but for those that make use of the `offer`; None is one of this machine.
    """
    remote: Any = ray.remote(num_cpus=num_cpus, num_gpus=num_gpus)(_Host)
    line, losses = Line(items), 0
    with _Crew[T](remote, make_worker, method, timeout, beats, offer, say) as crew:
        while True:
            while len(crew.busy) < actors and crew.give(line):
                pass
            if not crew.busy:
                return
            try:
                done = crew.wait()
            except _Lost as lost:
                line.back(lost.actor, lost.actor.item)
                actors = min(actors, slots()) if slots else actors
                if not lost.begun and crew.works:  # others use what it waits for: the rest go on without it
                    actors = min(actors, len(crew.busy) + len(crew.idle))
                    continue
                losses += 1
                if losses > MAX_LOSSES:
                    raise InfrastructureError(
                        f"{losses} scorers were lost, the last: {lost}; where it was memory, lower query.batch_size or"
                        " query.actors; the same command continues"
                    ) from None
                if not actors:
                    raise InfrastructureError(
                        f"no node of the cluster has room for a scorer ({num_cpus:g} CPUs) any more: lower"
                        " query.threads, or add a node; the same command continues"
                    ) from None
                continue
            if done:
                yield done[0]


@dataclass(slots=True, eq=False)
class _Actor:
    handle: Any
    vigil: Vigil
    item: Any = None


class _Lost(Exception):
    """An actor that is lost, and why; its item has still to be done."""

    def __init__(self, why: str, actor: _Actor, begun: bool) -> None:
        super().__init__(why)
        self.actor, self.begun = actor, begun


class _Crew(Generic[T]):
    """The actors of one stage, those at work by their calls; all of them end with it."""

    def __init__(
        self,
        remote: Any,
        make_worker: Callable[[], Any],
        method: str,
        timeout: float,
        beats: Path | None,
        offer: Offer | None,
        say: Callable[[str], None],
    ) -> None:
        self.remote, self.method, self.timeout, self.offer, self.say = remote, method, timeout, offer, say
        self.make = ray.put(make_worker)  # sent once, however many actors
        beats = offer.scratch if offer else beats
        self.folder = tempfile.TemporaryDirectory(prefix=".tmp-beats-", dir=beats, ignore_cleanup_errors=True)
        self.idle: list[_Actor] = []
        self.busy: dict[Any, _Actor] = {}
        self.hired = 0
        self.listened = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.offer and self.idle:
            gone = [actor.handle.leave.remote() for actor in self.idle]
            ray.wait(gone, num_returns=len(gone), timeout=LEAVE_S)
        for actor in [*self.idle, *self.busy.values()]:
            ray.kill(actor.handle)
        self.folder.cleanup()

    @property
    def works(self) -> bool:
        return any(actor.vigil.last for actor in [*self.idle, *self.busy.values()])

    def give(self, line: Line[T]) -> bool:
        """The next item to an actor without work, or to a new one; False where nothing is left."""
        actor = self.idle.pop() if self.idle else None
        item = line.take(actor)
        if item is None:
            self.idle += [actor] if actor else []
            return False
        if actor is None:
            path = Path(self.folder.name) / f"{self.hired}.json"
            handle = self.remote.remote(self.make, path, self.offer)
            actor, self.hired = _Actor(handle, Vigil(path, self.timeout)), self.hired + 1
        actor.item = item
        actor.vigil.rest()
        self.busy[actor.handle.call.remote(self.method, item, line.promise(actor, item))] = actor
        return True

    def wait(self) -> list[Any]:
        """The next result, alone in a list; none when there is none for a while.  _Lost where an actor is lost, and
        what `method` raises."""
        self._listen()
        ready, _ = ray.wait(list(self.busy), num_returns=1, timeout=BEAT_S)
        if not ready:
            return []
        actor = self.busy.pop(ready[0])
        try:
            result = ray.get(ready[0])
        except RayActorError as error:
            raise _Lost(cause(str(error)), actor, begun=True) from None
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise InfrastructureError(f"Ray: {cause(str(error))}; the same command continues") from None
        self.idle.append(actor)
        return [result]

    def _listen(self) -> None:
        """Once in a while, to those who work; the first who is lost is killed."""
        quiet = time.monotonic() - self.listened
        if quiet < BEAT_S:
            return
        self.listened += quiet
        for call, actor in list(self.busy.items()):
            # What is longer, this process stood still, or whoever takes the results took his time.
            why = actor.vigil.listen(min(quiet, 3 * BEAT_S))
            if warning := actor.vigil.warning():
                self.say(warning)
            if why and not ray.wait([call], timeout=0)[0]:
                del self.busy[call]
                ray.kill(actor.handle)
                self.say(f"{actor.vigil.who} is lost, {why}: its shard goes to another")
                raise _Lost(why, actor, begun=actor.vigil.last is not None)


class _Host:
    """Builds its worker at the first call, so that an error while building is raised like any other."""

    def __init__(self, make_worker: Callable[[], Any], beats: Path, offer: Offer | None = None) -> None:
        self.make_worker = make_worker
        self.worker: Any = None
        self.away = None if offer is None or offer.mark.seen() else Away(offer.far, offer.places)
        # About this thread, in which Ray makes every call of such an actor.
        keep_beating(beats, self.away.beat if self.away else put_beat)

    def call(self, method: str, item: Any, following: Sequence[tuple[Remote, str]] = ()) -> Any:
        """`following` is what will be read after this item."""
        expect(following)
        if self.away:
            with self.away.files_of(item) as mirror:
                return self._call(method, item, lambda value: moved(value, mirror.here))
        return self._call(method, item, lambda value: value)

    def _call(self, method: str, item: Any, here: Callable[[Any], Any]) -> Any:
        if self.worker is None:
            self.worker = here(self.make_worker)()
        return getattr(self.worker, method)(here(item))

    def leave(self) -> None:
        """Remove what lies on this node for this actor alone."""
        if self.away:
            self.away.leave()
