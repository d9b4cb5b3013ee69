"""A training on a node that does not see the run folder: what it reads comes first, what it writes follows it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from querying.base.errors import S4ALError
from querying.base.relay.mirror import Mirror
from querying.base.relay.places import Places
from querying.settings import Extra
from training.fit.heartbeat import EPOCHS, PROGRESS, VALIDATION
from training.fit.job import TrainJob, stop_file
from training.fit.states import STATES

LOG = logging.getLogger(__name__)
ROUND_S = 1.0
"""What is new goes to the driver, and its wish to stop comes from there, so often."""
SMALL = (PROGRESS, VALIDATION, EPOCHS)
SCORES_ALONE = ("regions-*", *(f"{kind}-*" for kind in get_args(Extra)))
"""Files beside the pseudo-labels that no training reads."""


def places_of(job: TrainJob) -> Places:
    """All that a training reads and writes, but for the data and the user's own code."""
    first = [path for path in (job.backbone, job.previous) if path]
    return Places(job.work.parent, reads=(job.ledger, *job.pseudo, *first), writes=(job.work, job.out))


@contextmanager
def mirrored(job: TrainJob, mirror: Mirror, rank: int) -> Iterator[None]:
    """Meanwhile, `job` of the driver can be run on the mirror's paths.  Rank 0's states, also those of a training that
    is stopped or fails, and at the end every rank's `out` are the driver's before this is left.

    Where they can not be sent, the training stops as if it was asked to, and the reason is raised.
    """
    for place in places_of(job).reads:
        mirror.pull(place, SCORES_ALONE if place in job.pseudo else ())
    mirror.pull(job.work / STATES)
    follower = Follower(job.work, mirror) if rank == 0 else None
    try:
        yield
    finally:
        if follower:
            follower.end()
    mirror.push(job.out, flush=True)


class Follower:
    """Keeps the driver's folder of a training as the mirror's is, from a thread of its own."""

    def __init__(self, work: Path, mirror: Mirror) -> None:
        self.work, self.mirror = work, mirror
        self.states = mirror.here(work / STATES)
        self.sent = {folder.name: _identity(folder) for folder in self.states.glob("step-*")}
        """States that the driver has, each as it was here."""
        self.error: Exception | None = None
        self.round()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._follow, daemon=True, name="follower")
        self.thread.start()

    def end(self) -> None:
        """Send what is left; what has gone wrong is raised."""
        self.over.set()
        self.thread.join()
        if self.error:
            raise self.error
        self.round()

    def round(self) -> None:
        """What is new there, and here."""
        stop = stop_file(self.work)
        if self.mirror.far.exists(stop):
            self.mirror.here(stop).touch()
        self.mirror.push(self.work, flush=True, only=SMALL)
        self._send_states()

    def _follow(self) -> None:
        while not self.over.wait(ROUND_S):
            try:
                self.round()
            except (OSError, S4ALError) as error:
                LOG.warning("%s: %s", self.work, error)
                self.error = error
                self.mirror.here(stop_file(self.work)).touch()
                return

    def _send_states(self) -> None:
        """Those that are new, then nothing stays there that is not here any more."""
        here = {folder.name: _identity(folder) for folder in sorted(self.states.glob("step-*"))}
        new = {name: state for name, state in here.items() if self.sent.get(name) != state}
        for name, state in new.items():
            if self.mirror.push_whole(self.work / STATES / name):
                self.sent[name] = state
        if new:
            for name in set(self.sent) - {folder.name for folder in self.states.glob("step-*")}:
                self.mirror.far.remove(self.work / STATES / name, self.mirror.token)
                del self.sent[name]


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
