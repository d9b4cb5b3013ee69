"""Where stages run: this process, or a cluster."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from querying.base.relay.places import Places
from training.fit.job import TrainJob


class Backend(Protocol):
    device: str
    """What computes (see `training.fit.job.device_name`)."""

    @property
    def address(self) -> str | None:
        """Where another process finds the cluster; None where there is none."""

    def room(self, processes: int, threads: int) -> int:
        """How many groups of so many processes of so many threads find room at the same time."""

    def train(self, job: TrainJob) -> None: ...

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
        """Yield `make_worker().method(item)` in any order; an item may be tried again after a crash.

        A process that shows no sign of work for `timeout` seconds is replaced, which is said.  `places` is what of the
        run they read and write.
        """
