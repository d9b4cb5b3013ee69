"""Killed or damaged anywhere between the query and the labels, a project goes on with what was asked and answered."""

import shutil
import signal

import pytest

from orchestrator.annotation.package import read_package
from orchestrator.audit.files import audit_run
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import problems
from orchestrator.folder.published import read_query
from querying.base.errors import WaitingForLabels
from querying.labels.ledger import Ledger
from tests.annotated import answers_of, child, hand_in, image_id, make_data, truth
from tests.faults.common import Process, ended
from tests.orchestrator.annotation.test_human_project import again_with, never
from tests.small import small_run

IMAGES, FIRST = 20, 5
KEYS = ("cycles=2", "query.region_size=16", "query.per_image=1", "train.epochs=1", "train.steps_per_epoch=1",
        "query.scales=[1]", "augment.cutout_size=8")  # fmt: skip
HUMAN = (*KEYS, "annotator=human", f"initial.images={FIRST}")
ASKING = [f"cycle-000/package:{when}" for when in ("made", "flushed", "sealed", "published")]
ASKING += [f"{name}:{when}" for name in ("package.json", "query.parquet") for when in ("opened", "written", "renamed")]
MERGING = [f"{name}:{when}" for name in ("merged.json", "cycle-001.json", "cycle-001.parquet")
           for when in ("opened", "written", "renamed")]  # fmt: skip
ALL = [("asking", place) for place in ASKING] + [("merging", place) for place in MERGING]
SAMPLE = {"cycle-000/package:sealed", "merged.json:renamed", "cycle-001.parquet:written"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The data, a run that waits, and the bytes of what it asks and becomes."""
    root = tmp_path_factory.mktemp("killed")
    data = make_data(root / "data", IMAGES, FIRST)
    (root / "first.txt").write_text("".join(f'"{image_id(number)}"\n' for number in range(FIRST)))
    everything = make_data(root / "everything", IMAGES, IMAGES)
    small_run(everything, root / "simulated", *KEYS, f"initial.list={root / 'first.txt'}")
    with pytest.raises(WaitingForLabels):
        small_run(data, root / "run", *HUMAN)
    return root


def run(project, where, failpoint="", trace=""):
    process = Process(target=child, args=(project / "data", where, HUMAN, failpoint, str(trace)))
    process.start()
    return ended(process)


def package_of(where):
    root = RunLayout(where).package(0)
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*")
            if path.is_file() and path.name != "manifest.json"}  # fmt: skip


@pytest.fixture
def before(project, tmp_path):
    """The same run before anybody was asked, and after all have answered."""

    def made(what):
        where = shutil.copytree(project / "run", tmp_path / what)
        if what == "asking":
            shutil.rmtree(RunLayout(where).package(0))
        else:
            hand_in(where, truth(IMAGES))
        return where

    return made


def test_these_are_the_places(project, before, tmp_path):
    for what, places in (("asking", ASKING), ("merging", MERGING)):
        trace = tmp_path / f"{what}.trace"
        assert run(project, before(what), trace=trace) == 3
        passed = trace.read_text().splitlines()
        assert set(places) <= set(passed)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("what", "place"),
    [pytest.param(*one, marks=[] if one[1] in SAMPLE else pytest.mark.slow) for one in ALL],
    ids=lambda value: value,
)
def test_killed_at_a_place_it_goes_on_with_what_was_asked(project, before, what, place):
    where = before(what)
    assert run(project, where, f"{place}=kill") == -signal.SIGKILL
    assert run(project, where) == 3
    assert not problems(RunLayout(where).package(0))
    assert package_of(where) == package_of(project / "run")
    wanted = [read_query(RunLayout(one).query(0), 6) for one in (where, project / "run")]
    assert wanted[0] == wanted[1]
    assert Ledger(where / "ledger").has(1) == (what == "merging")
    if what == "merging":
        for name in ("cycle-001.parquet", "cycle-001.json"):
            assert (where / "ledger" / name).read_bytes() == (project / "simulated" / "ledger" / name).read_bytes()


AFTER = (
    "ledger/cycle-001.parquet", "ledger/cycle-001.json", "ledger/cycle-000.parquet", "cycle-000/query/query.parquet",
    "cycle-000/package/package.json", "cycle-000/package/query.parquet", "cycle-000/answers/merged.json",
    "cycle-000/answers/import-000/report.json", "cycle-000/answers/import-000/regions.parquet",
    "cycle-000/scores/regions-00001.arrow", "cycle-000/scores/manifest.json", "cycle-001/checkpoint/model.safetensors",
    "cycle-001/query/query.parquet", "cycle-001/package/package.json",
)  # fmt: skip


@pytest.mark.ray
@pytest.mark.parametrize("how", ["flip", "remove"])
def test_no_answer_is_lost_after_it_has_become_a_label(project, before, how, monkeypatch):
    where = before("merging")
    assert run(project, where) == 3
    ledger = {path.name: path.read_bytes() for path in (where / "ledger").iterdir()}
    asked = [read_package(RunLayout(where).package(cycle)).query_id for cycle in (0, 1)]
    monkeypatch.setattr("orchestrator.run.stages.choose", never)
    for name in AFTER:
        path = where / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        if how == "remove":
            path.unlink()
        with pytest.raises(WaitingForLabels, match="labels of cycle 2"):
            again_with(
                HUMAN, project / "data", where, lambda package, source, options: answers_of(package, truth(IMAGES))
            )
        there = {path.name: path.read_bytes() for path in (where / "ledger").iterdir() if path.name in ledger}
        assert there == ledger, name
        assert [read_package(RunLayout(where).package(cycle)).query_id for cycle in (0, 1)] == asked, name
        assert not [line for line in audit_run(RunLayout(where)) if "answers" in line or "package" in line], name
