"""A project that people answer, from the first training to the end: the same ledger as with simulated answers."""

import shutil

import pytest

import orchestrator.run.stages as stages
from benchmarks.results.people import answered
from orchestrator.annotation.package import read_note
from orchestrator.annotation.rounds import current_round
from orchestrator.audit.files import audit_run
from orchestrator.backends.local_backend import LocalBackend
from orchestrator.folder.layout import RunLayout
from orchestrator.process.progress import SilentProgress
from orchestrator.run.context import RunContext
from orchestrator.run.loop import run as loop
from querying.base.errors import DamagedError, UserError, WaitingForLabels
from querying.dataset.index import DataIndex
from querying.labels.ledger import Ledger
from tests.annotated import answers_of, hand_in, image_id, make_data, truth
from tests.small import small_config, small_run

IMAGES, FIRST = 60, 6
KEYS = ("cycles=2", "query.region_size=16", "query.per_image=1", "train.epochs=1", "train.steps_per_epoch=1",
        "query.scales=[1]", "query.threshold=0.3", "augment.cutout_size=8")  # fmt: skip
HUMAN = (*KEYS, "annotator=human", f"initial.images={FIRST}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("people")
    (root / "first.txt").write_text("".join(f'"{image_id(number)}"\n' for number in range(FIRST)))
    return make_data(root / "all", IMAGES, IMAGES), make_data(root / "few", IMAGES, FIRST), root / "first.txt"


@pytest.fixture(scope="module")
def simulated(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("simulated") / "run"
    small_run(data[0], run, *KEYS, f"initial.list={data[2]}")
    return run


@pytest.fixture(scope="module")
def asked(data, tmp_path_factory):
    """A run that waits for its first answers."""
    run = tmp_path_factory.mktemp("asked") / "run"
    with pytest.raises(WaitingForLabels):
        small_run(data[1], run, *HUMAN)
    return run


@pytest.fixture
def waiting(asked, tmp_path):
    return shutil.copytree(asked, tmp_path / "run")


def ledger_bytes(run):
    return {path.name: path.read_bytes() for path in sorted((run / "ledger").iterdir())}


def test_the_ledger_of_people_who_know_the_truth_is_the_simulated_one(data, simulated, waiting):
    masks, run = truth(IMAGES), waiting
    for cycle in (1, 2):
        for part in range(3):
            report = hand_in(run, masks, part, 3, seed=part + cycle)
            assert report.complete == (part == 2)
        assert set(report.workers) == {"anna", "bert", "cleo"}
        if cycle == 1:
            with pytest.raises(WaitingForLabels, match=r"cycle 2: 54 regions of 54 images, about 4 minutes"):
                small_run(data[1], run, *HUMAN)
    summary = small_run(data[1], run, *HUMAN)
    assert summary["finished"]
    assert ledger_bytes(run) == ledger_bytes(simulated)
    assert not [line for line in audit_run(RunLayout(run)) if "recipe.yaml" not in line]
    reports = answered(run)
    assert [(one.cycle, one.answered, one.complete) for one in reports] == [(1, 54, True), (2, 54, True)]
    assert [round(one.minutes, 2) for one in reports] == [3.6, 3.6]
    assert all(0 < one.kept_share < 1 for one in reports)
    assert list(ledger_bytes(run)) == [f"cycle-00{k}.{kind}" for k in range(3) for kind in ("json", "parquet")]


def test_what_waits_says_what_to_do_and_goes_on_with_the_answers_alone(data, waiting):
    with pytest.raises(WaitingForLabels) as waits:
        small_run(data[1], waiting, *HUMAN)
    assert waits.value.exit_status == 3
    said = str(waits.value)
    assert said.startswith("waiting for labels of cycle 1: 54 regions of 54 images, about 9 minutes (a guess of 10 s")
    assert f"s4al annotate export {waiting} DST" in said
    assert f"s4al annotate import {waiting} FILE, then this command again" in said
    hand_in(waiting, truth(IMAGES), 0, 3)
    with pytest.raises(WaitingForLabels, match=r"36 of 54 regions of 54 images, about 2 minutes \(4 s an"):
        small_run(data[1], waiting, *HUMAN)
    assert not Ledger(waiting / "ledger").has(1)
    assert not [line for line in audit_run(RunLayout(waiting)) if "recipe.yaml" not in line]


def test_a_part_is_enough_where_it_is_said_and_the_rest_is_not_charged(data, waiting):
    with pytest.raises(WaitingForLabels, match="nothing is answered yet"):
        again(data[1], waiting, part=True)
    hand_in(waiting, truth(IMAGES), 0, 3)
    with pytest.raises(WaitingForLabels, match="labels of cycle 2"):
        again(data[1], waiting, part=True)
    table = Ledger(waiting / "ledger").read(1)
    assert table.num_rows == 18
    assert not [line for line in audit_run(RunLayout(waiting)) if "recipe.yaml" not in line]
    # Lost and merged again, without the option: what was taken is what counts.
    content = ledger_bytes(waiting)
    (waiting / "ledger" / "cycle-001.parquet").unlink()
    with pytest.raises(WaitingForLabels, match="labels of cycle 2"):
        small_run(data[1], waiting, *HUMAN)
    assert ledger_bytes(waiting) == content


def files_of(run):
    return sorted(
        str(path.relative_to(run))
        for path in run.rglob("*")
        if path.is_file() and "damaged" not in str(path) and path.name != "run.lock"
    )


def damage(path, at=2):
    content = bytearray(path.read_bytes())
    content[len(content) // at] ^= 1
    path.write_bytes(content)


def cells(run, cycle=0):
    note = read_note(RunLayout(run).package(cycle))
    return note.query_id, (note.root / "query.parquet").read_bytes()


PLACES = (
    "cycle-000/query/query.parquet", "cycle-000/query/manifest.json", "cycle-000/package/package.json",
    "cycle-000/package/query.parquet", "cycle-000/package/manifest.json", "cycle-000/scores/regions-00000.arrow",
    "cycle-000/scores/shard-00001.json", "cycle-000/scores/manifest.json", "cycle-000/checkpoint/model.safetensors",
    "cycle-000/checkpoint/meta.json", "cycle-000/evaluation/confusion.json", "ledger/cycle-000.parquet",
    "ledger/cycle-000.json", "cycle-000/answers/import-000/regions.parquet",
    "cycle-000/answers/import-000/report.json", "cycle-000/answers/import-000/manifest.json", "labelled_set.json",
    "metrics.jsonl", "summary.json",
)  # fmt: skip


def test_no_damage_after_a_package_was_published_asks_anything_else(data, simulated, waiting, tmp_path, monkeypatch):
    """One file after another is flipped; nothing is ever selected again, and the answers become the same ledger."""
    hand_in(waiting, truth(IMAGES), 0, 2)
    wanted = cells(waiting)
    images = [name for name in files_of(waiting) if "/images/" in name or "/pre/" in name][:2]
    assert set(PLACES) <= set(files_of(waiting))

    monkeypatch.setattr(stages, "choose", never)
    reread = rereading(truth(IMAGES))
    for name in (*PLACES, *images):
        damage(waiting / name)
        with pytest.raises(WaitingForLabels, match="27 of 54 regions"):
            again(data[1], waiting, reread)
        assert cells(waiting) == wanted, name
    # Everything that the query could be chosen from at once, and the query itself.
    for name in PLACES[:2] + PLACES[5:10]:
        damage(waiting / name)
    with pytest.raises(WaitingForLabels, match="27 of 54 regions"):
        again(data[1], waiting, reread)
    assert cells(waiting) == wanted
    # Both copies of the query: named, nothing is asked instead.
    for name in (PLACES[0], PLACES[3], *all_copies(waiting)):
        damage(waiting / name, at=3)
    with pytest.raises(DamagedError, match=r"what people were asked in cycle 1 is damaged"):
        again(data[1], waiting, reread)


def all_copies(run):
    """Copies of the query that were set aside."""
    return [str(path.relative_to(run)) for path in run.glob("cycle-000/damaged-*/query.parquet")]


def rereading(masks):
    return lambda package, source, who: answers_of(package, masks, 0, 2)


def again(data, run, reread=None, part=False):
    return again_with(HUMAN, data, run, reread, part)


def never(*args, **kwargs):
    raise AssertionError("selected again")


def again_with(keys, data, run, reread=None, part=False):
    return loop(RunContext(config=small_config(*keys), index=DataIndex.load(data), layout=RunLayout(run),
                           backend=LocalBackend(), progress=SilentProgress(), part=part, reread=reread))  # fmt: skip


def test_a_round_is_found_from_the_folder_alone(waiting, tmp_path):
    one = current_round(waiting)
    assert (one.number, one.closed) == (1, False)
    with pytest.raises(UserError, match="neither a run"):
        current_round(tmp_path)
