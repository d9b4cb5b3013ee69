"""The next shard of a bucket is fetched while this one is computed; once, in order, within the bound, and by a thread
whose errors are the reader's."""

import fcntl
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import pytest

from orchestrator.backends.local_backend import LocalBackend
from querying.base.errors import DamagedError, InfrastructureError, UserError
from querying.base.storage import ahead, bucket, cache
from querying.base.storage.ahead import announced, far_files
from querying.base.storage.cache import copy_of
from querying.base.storage.place import place
from querying.base.storage.room import NotAhead
from querying.base.storage.verbs import publish
from querying.dataset.shards import DataIndex, read_images
from querying.labels.pool_counts import CountTask
from querying.scoring.pool import ScoreTask
from tests.store import process_environment
from training.inference.evaluation import EvaluationTask


@pytest.fixture(autouse=True)
def settled():
    """Nothing is left of a test before this one, and nothing for the next one."""
    yield
    ahead.expect([])
    settle()


@pytest.fixture
def index(url, toy_data, store):
    publish(toy_data.root, place(url), "index.json")
    found = DataIndex.load(place(url))
    store.reset()
    return found


def tasks_of(index, root=None):
    shards = index.shards("train")
    return [ScoreTask(number, root or index.root, shard, frozenset(), {}) for number, shard in enumerate(shards)]


def settle(seconds=30):
    thread = ahead._thread
    if thread:
        thread.join(seconds)
        assert not thread.is_alive()


def fetched(store):
    """Names of shards by the requests for their bytes, in order."""
    return [path.rpartition("/")[2] for method, path in store.seen if method == "GET" and path.endswith(".arrow")]


def names(tasks):
    return [task.shard.images.rpartition("/")[2] for task in tasks]


@dataclass
class Reader:
    """Reads a shard; then, still at work on it, does what the test says."""

    then: object = lambda task: settle()

    def score_shard(self, task):
        ids = [image_id for image_id, _ in read_images(task.root, task.shard)]
        self.then(task)
        return ids


def read_all(tasks, then=lambda task: settle()):
    unused = dict(actors=1, threads=1, timeout=9, places=None, say=print)
    return list(LocalBackend().map(lambda: Reader(then), "score_shard", iter(tasks), **unused))


def test_while_a_shard_is_worked_on_the_next_one_comes_and_no_other(index, store):
    there, tasks = [], tasks_of(index)

    def look(task):
        settle()
        there.append(fetched(store))

    assert sum(map(len, read_all(tasks, look))) == index.num_images("train")
    order = names(tasks)
    assert there == [order[: number + 2] for number in range(len(tasks))]


def test_in_a_folder_there_is_no_thread_and_no_item_before_its_time(toy_data, monkeypatch):
    asked, began = [], threading.Thread.start

    def start(thread):
        assert thread.name != "fetches ahead"
        began(thread)

    def tasks():
        for task in tasks_of(toy_data):
            asked.append(task.number)
            yield task

    monkeypatch.setattr(threading.Thread, "start", start)
    seen = []
    read_all(tasks(), lambda task: seen.append(list(asked)))
    assert seen == [list(range(number + 1)) for number in range(len(seen))]
    assert len(seen) == len(toy_data.shards("train"))
    assert not ahead._expected


READ = """
import sys
from querying.base.storage.ahead import announced
from querying.base.storage.place import place
from querying.dataset.shards import DataIndex, read_images
from querying.scoring.pool import ScoreTask
index = DataIndex.load(place(sys.argv[1]))
for task in announced(ScoreTask(n, index.root, s, frozenset(), {}) for n, s in enumerate(index.shards("train"))):
    list(read_images(task.root, task.shard))
print("read")
"""


def test_those_who_fetch_ahead_and_those_who_read_fetch_a_shard_once(index, store, tmp_path):
    """This process and two others, all of which do both, as fast as they can."""
    store.reset(lambda method, path, number: 0.2 if path.endswith(".arrow") else None)
    environment = process_environment(store.url, tmp_path / "cache")
    command = [sys.executable, "-c", READ, str(index.root)]
    children = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    while not fetched(store):
        time.sleep(0.01)
    read_all(tasks_of(index), lambda task: None)
    assert [child.communicate()[0] for child in children] == ["read\n"] * 2
    assert sorted(fetched(store)) == sorted(names(tasks_of(index)))
    assert not list(cache.cache_folder().glob("objects/*.part"))


def test_what_is_done_already_is_not_fetched(index, store):
    """As in a scoring that goes on: shards whose scores are there are not read."""
    done = 0
    for task in announced(tasks_of(index)):
        done += 1
        if task.number >= 3:
            list(read_images(task.root, task.shard))
            settle()
    assert done == len(tasks_of(index))
    assert fetched(store) == names(tasks_of(index))[3:]


@pytest.mark.parametrize("fault", ["missing", "flip"])
def test_whoever_reads_what_can_not_be_fetched_ahead_has_the_error(index, store, fault):
    tasks, done = tasks_of(index), []
    bad = tasks[2].shard.images
    if fault == "missing":
        bucket.remove(index.root / bad)
    else:
        store.reset(lambda method, path, number: "flip" if path.endswith(bad) else None)
    what = (
        "does not exist, although"
        if fault == "missing"
        else f"differs from what was published, {bucket.READINGS} times"
    )
    with pytest.raises(DamagedError, match=f"{index.root / bad}: {what}"):
        read_all(tasks, lambda task: (settle(), done.append(task.number)))
    assert done == [0, 1], "what comes before it is done"


def test_a_store_that_fails_once_costs_the_fetch_ahead_and_nothing_else(index, store):
    failing = set()

    def once_each(method, path, number):
        new = path not in failing
        failing.add(path)
        return 403 if new and not path.endswith("train-00000.arrow") else None

    store.reset(once_each)
    assert sum(map(len, read_all(tasks_of(index)))) == index.num_images("train")
    assert sorted(set(fetched(store))) == names(tasks_of(index))


def of_largest(toy_data, times):
    largest = max(path.stat().st_size for path in (toy_data.root / "images").glob("train*.arrow"))
    return str(times * largest / 1e9)


@pytest.mark.parametrize(("times", "comes"), [(2.5, False), (3.9, False), (4.1, True)])
def test_ahead_is_for_who_has_room_and_what_is_read_stays(index, store, toy_data, monkeypatch, times, comes):
    """What is being read and what comes have at most half of the bound."""
    monkeypatch.setattr(cache, "_fetched", set())
    monkeypatch.setenv(cache.BOUND, of_largest(toy_data, times))
    tasks, sizes, held = tasks_of(index)[:4], [], []

    def look(task):
        settle()
        files = list((cache.cache_folder() / "objects").iterdir())
        sizes.append(sum(path.stat().st_size for path in files))
        held.append(task.shard.images_sha256 in {path.name for path in files})
        there = set(fetched(store))
        assert (names(tasks)[min(task.number + 1, 3)] in there) == (comes or task.number == 3)

    def read_it_slowly(task):
        for row, _ in enumerate(read_images(task.root, task.shard)):
            if row == 2:  # it is mapped
                look(task)

    for task in announced(tasks):
        read_it_slowly(task)
    assert held == [True] * 4
    assert max(sizes) <= float(of_largest(toy_data, times)) * 1e9 + 1
    assert sorted(fetched(store)) == names(tasks), "each once"


def test_a_copy_that_somebody_holds_is_not_removed_for_what_comes(index, toy_data, monkeypatch):
    monkeypatch.setenv(cache.BOUND, of_largest(toy_data, 6.5))
    tasks = tasks_of(index)
    held = copy_of(tasks[4].root / tasks[4].shard.images, tasks[4].shard.images_sha256)  # the oldest
    for task in announced(tasks[:4]):
        list(read_images(task.root, task.shard))
        settle()
        assert held.path.exists()


def test_a_reader_waits_for_the_room_of_what_comes_ahead(index, toy_data, monkeypatch):
    """Not with an error: it was none before there was anything ahead."""
    tasks, come_on, arrived = tasks_of(index), threading.Event(), threading.Event()

    def slowly(name):
        if threading.current_thread().name == "fetches ahead":
            arrived.set()
            assert come_on.wait(30)

    monkeypatch.setattr(cache, "failpoint", slowly)
    first, second, third = tasks[:3]
    held = copy_of(first.root / first.shard.images, first.shard.images_sha256)
    ahead.expect(far_files(second))
    ahead.begin()
    assert arrived.wait(30)
    monkeypatch.setenv(cache.BOUND, of_largest(toy_data, 2.5))
    threading.Timer(0.5, come_on.set).start()
    assert [image_id for image_id, _ in read_images(third.root, third.shard)]
    settle()
    assert held.path.exists()
    assert len(list((cache.cache_folder() / "objects").iterdir())) == 2
    monkeypatch.setenv(cache.BOUND, of_largest(toy_data, 1.5))
    with pytest.raises(UserError, match="does not fit beside"):
        list(read_images(second.root, second.shard))


def first_object(index):
    shard = index.shards("train")[0]
    return index.root / shard.images, shard.images_sha256


def test_what_somebody_else_fetches_is_not_waited_for(index, store):
    where, digest = first_object(index)
    objects = cache.cache_folder() / "objects"
    objects.mkdir(parents=True)
    with (objects / f"{digest}{cache.PART}").open("wb") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        began = time.monotonic()
        cache.bring(where, digest, lambda: True)
        assert time.monotonic() - began < 5
    assert not fetched(store)


def test_what_has_come_in_the_moment_before_is_not_fetched_again(index, store, monkeypatch):
    where, digest = first_object(index)
    copy_of(where, digest)
    held, late = cache._held, iter([None])
    monkeypatch.setattr(cache, "_held", lambda path: next(late, held(path)))
    assert copy_of(where, digest).path.exists()
    assert len(fetched(store)) == 1


def test_parts_are_brought_while_they_are_wanted_and_without_patience(index, store, monkeypatch):
    where, digest = first_object(index)
    monkeypatch.setattr(bucket, "_PART", 512)
    monkeypatch.setenv(bucket.PATIENCE, "60")
    wishes = iter([True, True, False])
    with pytest.raises(NotAhead):
        cache.bring(where, digest, lambda: next(wishes))
    assert len(fetched(store)) == 3
    store.reset(lambda method, path, number: 503 if number > 2 else None)
    began = time.monotonic()
    with pytest.raises(InfrastructureError):
        cache.bring(where, digest, lambda: True)
    assert time.monotonic() - began < 30
    assert not list(cache.cache_folder().glob("objects/*"))


def test_what_others_took_the_room_of_meanwhile_is_no_error(index, toy_data, monkeypatch):
    monkeypatch.setattr(cache, "check_room_ahead", lambda folder: None)
    monkeypatch.setenv(cache.BOUND, of_largest(toy_data, 0.5))
    with pytest.raises(NotAhead):
        cache.bring(*first_object(index), lambda: True)


def test_what_is_expected_takes_the_place_of_what_was(index, store):
    first, second, third, fourth = [far_files(task) for task in tasks_of(index)[:4]]
    store.reset(lambda method, path, number: 1.0 if path.endswith("train-00000.arrow") else None)
    for files in (first, second, third):
        ahead.expect(files)
        ahead.begin()
        while not fetched(store):
            time.sleep(0.01)
    ahead.expect(fourth)  # and nothing is opened
    settle()
    assert fetched(store) == ["train-00000.arrow", "train-00002.arrow"]


END = """
import sys
import time
from querying.base.storage import ahead
from querying.base.storage.place import place
from querying.dataset.shards import DataIndex, read_images
from training.inference.evaluation import EvaluationTask
index = DataIndex.load(place(sys.argv[1]))
tasks = ahead.announced(EvaluationTask(index.root, s) for s in index.shards("train"))
task = next(tasks)
list(read_images(task.root, task.shard))
time.sleep(1)
assert ahead._thread.is_alive()
if len(sys.argv) > 2:
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("more", [[], ["interrupted"]])
def test_a_program_ends_when_it_is_done_whatever_comes_ahead(index, store, tmp_path, more):
    store.reset(lambda method, path, number: 2.0 if path.endswith("train-00001.arrow") else None)
    command = [sys.executable, "-c", END, str(index.root), *more]
    environment = process_environment(store.url, tmp_path / "cache")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.splitlines()[-1:]) == ((-2, ["KeyboardInterrupt"]) if more else (0, []))
    assert not list((tmp_path / "cache").glob("objects/*.part"))
    assert len(fetched(store)) == 2, "the second file of the two that were to come is not asked for"


def test_what_a_task_says_that_it_reads_is_in_the_index(toy_data):
    shard, root = toy_data.shards("val")[0], place("s3://bucket/data")
    images, truth = (root / shard.images, shard.images_sha256), (root / shard.truth, shard.truth_sha256)
    assert far_files(ScoreTask(0, root, shard, frozenset(), {})) == [images]
    assert far_files(CountTask(0, root, shard)) == [truth]
    assert far_files(EvaluationTask(root, shard)) == [images, truth]
    assert far_files(EvaluationTask(toy_data.root, shard)) == []
    assert far_files(7) == []
