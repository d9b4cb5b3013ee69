"""Work in a folder that lies in a bucket: a copy on this machine, which is published while it changes."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from orchestrator.folder.lock_file import holder, take
from orchestrator.process.interrupt import stop_work
from orchestrator.remote.lease import BEAT_S, Lease, Lost, acquire
from orchestrator.remote.log import RunLog, State, Table
from orchestrator.remote.working_copy import WORK, WorkingCopy
from querying.base.errors import InfrastructureError, S4ALError, UserError
from querying.base.failpoints import failpoint
from querying.base.storage.cache import made_cache_folder
from querying.base.storage.place import Remote

LOG = logging.getLogger(__name__)
PUBLISH_S = 5.0
"""What has changed is looked for so often."""
_READINGS = 5
LARGE = (".arrow", ".safetensors", ".png", ".onnx")


class Publisher:
    """Publishes what changes in a working copy, and shows signs of life, from threads of its own."""

    def __init__(self, copy: WorkingCopy, lease: Lease) -> None:
        self.copy, self.lease = copy, lease
        self.lost: Lost | None = None
        self._ended, self._busy = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)]
        for thread in self._threads:
            thread.start()

    def publish(self) -> bool:
        """All that is there now; was there anything new?  Lost, and InfrastructureError where the store fails."""
        with self._busy:
            files = self.copy.files(self.lease.token, self.lease.files)
            failpoint("bucket:objects")
            new = self.lease.publish(files, self.copy.note)
            if new:
                failpoint("bucket:entry")
            return new

    def stop(self) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(BEAT_S if count else 0):
            count += 1
            self.lease.beat(count, datetime.now(UTC).isoformat(timespec="seconds"))

    def _watch(self) -> None:
        while not self._ended.wait(PUBLISH_S):
            try:
                if not self.publish():
                    self.lease.check()
            except Lost as error:
                self.lost = error
                LOG.warning("%s", error)
                stop_work(error.exit_status)
                return
            except (S4ALError, OSError) as error:  # the work goes on; at its end all is published
                LOG.warning("not published yet: %s", error)


@contextmanager
def checked_out(place: Remote, say: Callable[[str], None] = print) -> Iterator[Path]:
    """A folder of this machine that is equal to the one at `place`, and published there while it changes and at the
    end.  UserError where another process works on it, InfrastructureError where not all could be published: the folder
    here keeps it.  Lost where another driver has taken over meanwhile: the work is stopped by a signal, which the
    caller handles."""
    root = _folder("runs", place)
    with _alone(root, place):
        log = RunLog(place)
        lease, before = acquire(log, holder(), say=say)
        copy = WorkingCopy(root, log)

        def lacking(path: str, error: Exception) -> None:
            say(f"{path}: left out, and made again as the run needs it: {error}")
            lease.lack(path)

        try:
            fetched = copy.make_equal(before.files, keep_others=copy.goes_on_from(before.last), lacking=lacking)
        except BaseException:
            with suppress(S4ALError):  # what went wrong before is what counts
                lease.end()  # the next need not wait
            raise
        copy.note(lease.begun)
        say(f"{place}: works in {root}{f' ({fetched} files fetched)' if fetched else ''}")
        publisher = Publisher(copy, lease)
        try:
            yield root
            publisher.stop()
        except BaseException:  # it may be the signal by which the publisher says that it has lost
            publisher.stop()
            if publisher.lost:
                raise publisher.lost from None
            _last(publisher, LOG.warning)
            raise
        if publisher.lost:
            raise publisher.lost
        publisher.publish()
        lease.end(copy.note)


def _last(publisher: Publisher, say: Callable[[str], None]) -> None:
    """Publish what is there when the work has failed, whose error is what counts."""
    try:
        publisher.publish()
        publisher.lease.end(publisher.copy.note)
    except (S4ALError, OSError) as error:
        say(f"not all is published, {publisher.copy.root} has it: {error}")


def view(place: Remote, *, small: bool = False) -> Path:
    """A folder of this machine that is equal to what is published at `place`, but for states of a training that goes
    on; `small`: without images, scores and weights.  UserError where nothing is."""
    root = _folder("small" if small else "views", place)
    with _alone(root, place):
        log = RunLog(place)
        for _ in range(_READINGS):
            state = readable(log)
            files: Table = {path: one for path, one in state.files.items() if shown(path, small)}
            try:
                WorkingCopy(root, log).make_equal(files)
                return root
            except FileNotFoundError:  # removed, since the folder has changed
                continue
        raise InfrastructureError(f"{place}: changes faster than it can be read: try again")


def readable(log: RunLog) -> State:
    """What is published; UserError where nothing is."""
    state = log.state()
    if not state.files:
        raise UserError(
            f"{log.root}: there is no run, no grid and no sweep, or nothing of it yet: is the address right?"
        )
    return state


def shown(path: str, small: bool = False) -> bool:
    """Is a file part of a view?"""
    return WORK not in PurePosixPath(path).parts and not (small and path.endswith(LARGE))


def _folder(kind: str, place: Remote) -> Path:
    name = place.key.rpartition("/")[2] or place.bucket
    key = hashlib.sha256(str(place).encode()).hexdigest()[:8]
    return made_cache_folder() / kind / key / name


@contextmanager
def _alone(root: Path, place: Remote) -> Iterator[None]:
    """One process of this machine at a time works in a copy."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with root.with_name("copy.lock").open("a+") as file:
        try:
            take(file)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{place}: another process of this machine works on it ({file.read().strip()})") from None
        file.truncate(0)
        file.write(holder())
        file.flush()
        yield
