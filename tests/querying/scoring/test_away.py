"""Scorers on a node that does not see the run folder: files go after each shard, and what is done stays done."""

import errno
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest

from querying.base.errors import DamagedError, InfrastructureError
from querying.base.pulse import keep_beating, read_beat
from querying.base.relay.places import Mark, Places
from querying.scoring.away import Away
from tests.apart import Asked
from tests.faults.processes import until


@dataclass(frozen=True)
class Item:
    number: int


@pytest.fixture
def places(tmp_path):
    for name in ("checkpoint", "scores"):
        (tmp_path / "run" / name).mkdir(parents=True)
    (tmp_path / "run" / "checkpoint" / "model").write_text("weights")
    scores = tmp_path / "run" / "scores"
    return Places(tmp_path / "run", (tmp_path / "run" / "checkpoint",), (scores,), scores)


@pytest.fixture
def away(places):
    made = Away(Asked(places, places.root), places)
    yield made
    made.leave()


def work(mirror, places, item):
    """As `ShardScorer.score_shard`: what is there is kept."""
    here = mirror.here(places.writes[0])
    name = f"{item.number:05d}"
    if (here / f"shard-{name}.json").exists():
        return "kept"
    assert mirror.here(places.reads[0] / "model").read_text() == "weights"
    (here / f"regions-{name}.arrow").write_text("scores")
    (here / f"shard-{name}.json").write_text("hashes")
    return "made"


def names(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".tmp"))


def test_each_shard_is_the_drivers_when_the_call_is_over_and_gone_here(away, places):
    for number in range(3):
        with away.files_of(Item(number)) as mirror:
            assert work(mirror, places, Item(number)) == "made"
            assert len(names(places.writes[0])) == 2 * number
        assert len(names(places.writes[0])) == 2 * number + 2
        assert names(mirror.here(places.writes[0])) == []
    assert [call[0] for call in away.far.calls].count("part") == 1, "the weights come once"
    away.leave()
    assert not mirror.here(places.writes[0]).exists()


def test_what_a_killed_attempt_has_finished_is_neither_made_nor_sent_again(away, places):
    scores = places.writes[0]
    (scores / "regions-00001.arrow").write_text("of before")
    (scores / "shard-00001.json").write_text("hashes of before")
    (scores / "regions-00002.arrow").write_text("without its hashes")
    (scores / "machine-abc.json").write_text("a note")
    told = []
    for number in (0, 1, 2):
        with away.files_of(Item(number)) as mirror:
            told.append(work(mirror, places, Item(number)))
    assert told == ["made", "kept", "made"]
    assert (scores / "regions-00001.arrow").read_text() == "of before"
    assert (scores / "regions-00002.arrow").read_text() == "scores"
    sent = [call[3] for call in away.far.calls if call[0] == "write"]
    assert sorted(sent) == [
        "regions-00000.arrow", "regions-00002.arrow", "shard-00000.json", "shard-00002.json",
    ]  # fmt: skip
    fetched = [call[1].name for call in away.far.calls if call[0] == "part"]
    assert sorted(fetched) == ["model", "regions-00001.arrow", "regions-00002.arrow", "shard-00001.json"]


def test_a_sign_of_life_arrives_before_there_is_a_mirror(away, places):
    path = places.writes[0] / "0.json"
    keep_beating(path, away.beat)
    assert until(lambda: read_beat(path), 10)
    assert read_beat(path).pid == os.getpid()
    assert away.mirror is None


def test_an_item_that_fails_sends_nothing_and_names_the_drivers_file(away, places):
    def fail():
        with away.files_of(Item(0)) as mirror:
            (mirror.here(places.writes[0]) / "regions-00000.arrow").write_text("half")
            raise DamagedError(f"{mirror.here(places.reads[0] / 'model')}: differs from what was written")

    with pytest.raises(DamagedError) as caught:
        fail()
    assert str(caught.value) == f"{places.reads[0] / 'model'}: differs from what was written"
    assert names(places.writes[0]) == []


class Host:
    """As a worker of the real ones, on real paths."""

    def __init__(self, weights, out):
        self.weights, self.out = Path(weights), Path(out)

    def write(self, item):
        name = f"regions-{item.number:05d}.arrow"
        (self.out / name).write_text(f"{(self.weights / 'model').read_text()} {item.number}")
        return str(self.out)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_actors_that_do_not_find_the_mark_work_on_copies(local_ray, places, tmp_path):
    from querying.base.relay.ray_relay import offered
    from querying.scoring.ray_map import map_unordered

    make = partial(Host, *places.reads, *places.writes)
    with offered(places, places.root) as offer:
        elsewhere = replace(offer, mark=Mark(offer.mark.path, "another"))
        with pytest.raises(FileNotFoundError) as caught:
            offer.far.part(places.reads[0] / "nothing", 0)
        assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(places.reads[0] / "nothing"))
        [folder] = set(map_unordered(make, "write", map(Item, range(3)), actors=1, offer=elsewhere))
    assert folder != str(places.writes[0])
    assert not Path(folder).exists(), "copies are left"
    assert {path.name: path.read_text() for path in places.writes[0].iterdir()} == {
        f"regions-{number:05d}.arrow": f"weights {number}" for number in range(3)
    }
    assert names(places.root) == ["checkpoint", "scores"]
    with pytest.raises(InfrastructureError, match=r"the run folder is out of reach: its relay is lost"):
        offer.far.files(places.reads[0])
    with offered(places, places.root) as offer:
        local_ray.kill(offer.relay)
        elsewhere = replace(offer, mark=Mark(offer.mark.path, "another"))
        with pytest.raises(InfrastructureError, match=r"its relay is lost"):
            list(map_unordered(make, "write", map(Item, range(3)), actors=1, offer=elsewhere))
    assert list(places.root.glob(".tmp*")) == []
