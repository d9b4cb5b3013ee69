"""A back end in this process whose workers are as on a node that does not see the run folder: they have copies."""

from contextlib import ExitStack, contextmanager
from pathlib import Path

from orchestrator.backends.local_backend import LocalBackend
from querying.base import arrow_file
from querying.base.relay.mirror import mirror_of
from querying.base.relay.places import Mark
from querying.base.relay.ray_relay import moved
from querying.base.relay.served import Served
from querying.scoring.away import Away
from training.fit.loop import run_job
from training.fit.mirrored import mirrored, places_of
from training.fit.worker import Worker


class Asked:
    """`Served`, and what it was asked for."""

    def __init__(self, places, marked):
        mark = Mark(marked / ".tmp-mark", "a text")
        mark.path.write_text(mark.text)
        self.served, self.calls = Served(places, mark), []

    def __getattr__(self, name):
        def call(*args, **keys):
            self.calls.append((name, *args))
            return getattr(self.served, name)(*args, **keys)

        return call

    def close(self):
        self.served.mark.path.unlink()


@contextmanager
def another_process():
    """One in which nobody watches over the files that the driver reads."""
    watching, arrow_file._watching[:] = list(arrow_file._watching), []
    try:
        yield
    finally:
        arrow_file._watching[:] = watching


class ApartBackend(LocalBackend):
    """`worker` is that of trainings; `far` is who was asked last."""

    def __init__(self, worker=None):
        super().__init__()
        self.worker, self.items = worker or Worker(), []

    def asked(self, stack, places, folder):
        self.far = Asked(places, folder)
        stack.callback(self.far.close)
        return self.far

    def train(self, job):
        job.work.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            places = places_of(job)
            mirror = stack.enter_context(mirror_of(self.asked(stack, places, job.work.parent), places))
            stack.enter_context(mirrored(job, mirror, 0))
            stack.enter_context(another_process())
            run_job(only_here(moved(job, mirror.here), places), self.worker)

    def map(self, make_worker, method, items, *, places, **_):
        with ExitStack() as stack:
            away, worker = Away(self.asked(stack, places, places.root), places), None
            stack.callback(away.leave)
            for item in items:
                with away.files_of(item) as mirror, another_process():
                    worker = worker or only_here(moved(make_worker, mirror.here), places)()
                    self.items.append((method, item))
                    found = getattr(worker, method)(only_here(moved(item, mirror.here), places))
                yield found


def only_here(value, places):
    """The value, if no path of the run is left in it."""

    def look(path):
        assert places.root not in Path(path).parents, f"{path}: is the driver's"
        assert not any(place == path for place in places.all), f"{path}: is the driver's"
        return path

    moved(value, look)
    return value
