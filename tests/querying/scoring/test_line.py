import os
import random
import time

import pytest

from querying.base.storage.place import place
from querying.base.storage.verbs import publish
from querying.dataset.shards import DataIndex, read_images
from querying.scoring.line import Line
from querying.scoring.pool import ScoreTask
from tests.store import environment


class Item:
    def __init__(self, number, root="s3://bucket/data"):
        self.number, self.root = number, place(root)

    def files(self):
        return [(self.root / f"{self.number}", f"hash of {self.number}")]


def far(number):
    return (place("s3://bucket/data") / f"{number}", f"hash of {number}")


def line(count, **keys):
    return Line(Item(number, **keys) for number in range(count))


def test_a_worker_gets_what_it_was_promised():
    todo = line(5)
    first, promised_first = todo.take(None), []
    promised_first = todo.promise("a", first)
    second = todo.take(None)
    assert (first.number, second.number, promised_first) == (0, 2, [far(1)])
    assert todo.promise("b", second) == [far(3)]
    assert todo.take("b").number == 3
    assert todo.promise("b", Item(3)) == [far(4)]
    assert todo.take("a").number == 1
    assert todo.promise("a", Item(1)) == []
    assert todo.take("a").number == 4, "nothing else is left, and b has not begun it"
    assert todo.take("a") is todo.take("b") is None


def test_what_was_promised_to_a_lost_worker_is_for_others():
    todo = line(4)
    first = todo.take(None)
    todo.promise("a", first)
    todo.back("a", first)
    assert [todo.take("b").number for _ in range(4)] == [0, 1, 2, 3]
    assert todo.take("b") is None


def test_in_a_folder_nobody_is_promised_anything():
    asked = []

    def items():
        for number in range(3):
            asked.append(number)
            yield Item(number, root="/data")

    todo = Line(items())
    assert todo.promise("a", todo.take("a")) == []
    assert asked == [0]


@pytest.mark.parametrize("seed", range(50))
def test_every_item_is_done_once_whoever_is_lost(seed):
    rng, todo, done, busy, idle = random.Random(seed), line(20), [], {}, []
    hired = iter(range(1000))
    while True:
        while len(busy) < 3:
            worker = idle.pop(rng.randrange(len(idle))) if idle and rng.random() < 0.8 else None
            item = todo.take(worker)
            if item is None:
                break
            worker = next(hired) if worker is None else worker
            todo.promise(worker, item)
            busy[worker] = item
        if not busy:
            break
        worker = rng.choice(sorted(busy))
        item = busy.pop(worker)
        if rng.random() < 0.2:
            todo.back(worker, item)
        else:
            done.append(item.number)
            idle.append(worker)
    assert sorted(done) == list(range(20))


class Waits:
    """A scorer that does not end before the next shard is on its machine."""

    def __init__(self, variables, expected):
        os.environ.update(variables)
        self.expected = expected

    def score_shard(self, task):
        from querying.base.storage.cache import cache_folder

        ids = [image_id for image_id, _ in read_images(task.root, task.shard)]
        end = time.monotonic() + 60
        following = self.expected.get(task.number)
        while following and not (cache_folder() / "objects" / following).exists():
            assert time.monotonic() < end, f"shard {task.number + 1} did not come"
            time.sleep(0.01)
        return ids


@pytest.mark.ray
@pytest.mark.slow
def test_an_actor_of_ray_fetches_its_next_shard_while_it_works(local_ray, url, store, toy_data, tmp_path):
    from functools import partial

    from querying.scoring.ray_map import map_unordered

    publish(toy_data.root, place(url), "index.json")
    index = DataIndex.load(place(url))
    shards = index.shards("train")
    tasks = [ScoreTask(number, index.root, shard, frozenset(), {}) for number, shard in enumerate(shards)]
    expected = {number: shard.images_sha256 for number, shard in enumerate(shards[1:])}
    store.reset()
    make = partial(Waits, environment(store.url, tmp_path / "cache"), expected)
    found = [image_id for ids in map_unordered(make, "score_shard", tasks, actors=1) for image_id in ids]
    assert len(found) == len(set(found)) == index.num_images("train")
    fetched = [path for _, path in store.seen if path.endswith(".arrow")]
    assert len(fetched) == len(set(fetched)) == len(tasks)
