"""Answers are taken in once, whole or not at all, and put together by rule."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from orchestrator.annotation.answer import Answer
from orchestrator.annotation.answers import given_rows, imports_of, publish, report_now
from orchestrator.annotation.given import by_annotator, common, vote
from orchestrator.annotation.imports import import_folders
from orchestrator.annotation.package import About, Asked, read_package, write_package
from orchestrator.annotation.rounds import Round
from orchestrator.folder.layout import locked, once
from orchestrator.folder.manifest import problems
from querying.base.errors import DamagedError, UserError
from querying.dataset.codecs import encode_label
from querying.labels.ledger import Ledger

SIZE, CLASSES = (16, 24), ("road", "car")
BOXES = [(0, 0, 0, 8, 8), (5, 8, 16, 16, 24)]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def package(tmp_path):
    pre = encode_label(np.zeros(SIZE, np.uint8))
    asked = [Asked(name, np.zeros((*SIZE, 3), np.uint8), BOXES, pre) for name in "abc"]
    about = About("run", 1, "m", "d", CLASSES, ((0, 0, 0), (1, 2, 3)), *SIZE, 8)
    folder = tmp_path / "run" / "cycle-000" / "package"
    once(folder, lambda out: write_package(out, about, asked, dict.fromkeys("abc")))
    return read_package(folder)


def answer(image="a", who="anna", value=1, *, uid="", updated="", seconds=6.0, painted=None):
    everywhere = np.ones(SIZE, bool) if painted is None else painted
    return Answer(
        image, who, uid or f"{image}{who}{value}", seconds, updated, np.full(SIZE, value, np.uint8), everywhere
    )


def take(package, answers, name="file.json", **options):
    root = package.root.parents[1]
    source = root.parent / name
    source.write_text(name)
    return publish(root, package, source, answers, **options)


def label(package, image="a", region=0, rule="majority"):
    rows = given_rows(imports_of(round_of(package), package, None, print))
    return int(common(by_annotator(rows)[image, region].values(), rule)[0, 0])


def round_of(package):
    return Round(package.root.parents[1], package.root.parent, package.cycle)


def folders(package):
    return [path.name for path in import_folders(round_of(package).answers)]


def test_what_is_handed_in_is_kept_byte_for_byte_and_once(package):
    report = take(package, [answer("a"), answer("b", value=0)])
    assert (report.answered, report.unanswered, report.regions, report.exit_status) == (4, 2, 6, 3)
    assert report.named_unanswered == ("c region 0", "c region 5")
    folder = import_folders(round_of(package).answers)[0]
    assert (folder / "source").read_text() == "file.json"
    assert not problems(folder)
    again = take(package, [answer("b", value=0), answer("a")])
    assert (again.new, again.known, again.imported_as) == (0, 2, None)
    assert folders(package) == ["import-000"]
    assert "nothing new" in str(again)
    last = take(package, [answer("c", "bert")], "two.json")
    assert (last.complete, last.exit_status, last.imported_as) == (True, 0, "import-001")
    assert folders(package) == ["import-000", "import-001"]
    assert report_now(round_of(package), package).complete


def test_a_dry_run_writes_nothing_and_says_the_same(package):
    before = sorted(package.root.parents[1].rglob("*"))
    report = take(package, [answer("a")], dry_run=True)
    assert (report.answered, report.new, report.imported_as) == (2, 1, None)
    assert sorted(package.root.parents[1].rglob("*")) == before


def test_partly_painted_is_blank_and_nothing_painted_is_unanswered(package):
    painted = np.zeros(SIZE, bool)
    painted[:8, :7] = True  # 7 of 8 columns of region 0, nothing of region 5
    report = take(package, [answer("a", painted=painted)])
    assert (report.answered, report.blank, report.named_blank) == (0, 1, ("a region 0",))
    void = take(package, [answer("a", painted=painted)], blank="void")
    assert (void.answered, void.blank, void.imported_as) == (2, 0, "import-001")
    almost = np.ones(SIZE, bool)
    almost[0, 0] = False  # 1 of 64 pixels: 1.6 %
    assert take(package, [answer("b", painted=almost)], "b").answered == 4
    nothing = take(package, [answer("c", painted=np.zeros(SIZE, bool))], "c", blank="void")
    assert (nothing.answered, nothing.unanswered) == (4, 2)


def test_a_later_answer_of_the_same_person_replaces_the_earlier_one_whatever_comes_first(package):
    early = answer(value=0, uid="x", updated="2026-12-01T10:00:00Z")
    late = answer(value=1, uid="x", updated="2026-12-01T11:00:00+00:00")
    take(package, [late], "late")
    take(package, [early], "early")
    assert label(package) == 1
    take(package, [answer(value=0, uid="x", updated="2026-12-01T10:30:00-09:00")], "elsewhere")
    assert label(package) == 0
    empty = np.zeros(SIZE, bool)
    take(package, [answer(uid="x", updated="2027-01-01T00:00:00Z", painted=empty)], "emptied")
    assert label(package) == 0, "what was drawn is not lost by an empty answer"


def test_rules(package):
    times = [f"2026-12-01T1{hour}:00:00Z" for hour in range(4)]
    take(package, [answer(who="anna", value=0, updated=times[2]), answer(who="bert", value=1, updated=times[0])])
    assert [label(package, rule=rule) for rule in ("majority", "latest", "first")] == [0, 0, 1]
    take(package, [answer(who="cleo", value=1, updated=times[1])], "third")
    assert [label(package, rule=rule) for rule in ("majority", "latest", "first")] == [1, 0, 1]
    report = take(package, [answer(who="dora", value=0, updated=times[3])], "fourth")
    assert label(package, rule="majority") == 255, "a tie"
    assert report.shared == 2
    assert report.agreement == pytest.approx(2 / 6)
    assert report.workers["anna"].kept_share == 1.0
    assert report.workers["bert"].kept_share == 0.0
    assert report.workers["bert"].minutes == pytest.approx(0.1)


def test_votes_pixel_by_pixel():
    one, two, three = np.array([[0, 1, 2, 255, 0]]), np.array([[0, 1, 1, 255, 1]]), np.array([[1, 1, 0, 0, 1]])
    assert vote([part.astype(np.uint8) for part in (one, two, three)]).tolist() == [[0, 1, 255, 255, 1]]


def test_outside_is_counted_and_not_used(package):
    report = take(package, [answer("a", value=1)])
    assert report.outside == 16 * 24 - 2 * 64
    assert "outside the frames" in str(report)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (answer("z"), "image 'z': was not asked"),
        (answer(who=""), "--as NAME"),
        (answer(who="an\x1b[31mna"), "printable"),
        (answer(value=7), "label 7"),
        (Answer("a", "x", "u", None, "", np.zeros((3, 3), np.uint8), np.ones((3, 3), bool)), "pixels"),
    ],
    ids=["image", "nobody", "escape", "class", "size"],
)
def test_what_is_none_of_it_is_refused_whole(package, wrong, said):
    with pytest.raises(UserError, match=said):
        take(package, [answer("b"), wrong])
    assert not folders(package)


def test_odd_times_are_unknown(package):
    for number, seconds in enumerate((-1.0, float("nan"), float("inf"), 1e300)):
        report = take(package, [answer("a", seconds=seconds, uid=str(number), value=number % 2)], str(number))
        assert report.workers["anna"].minutes is None


def test_a_source_that_is_altered_meanwhile_is_refused(package, tmp_path):
    source = tmp_path / "file"
    source.write_text("one")

    def reading():
        yield answer("a")
        source.write_text("two")

    with pytest.raises(UserError, match="altered while it was read"):
        publish(package.root.parents[1], package, source, reading())
    assert not folders(package)


def test_a_folder_is_kept_as_one_file(package, tmp_path):
    folder = tmp_path / "handed in"
    (folder / "masks").mkdir(parents=True)
    (folder / "masks" / "a.png").write_bytes(b"x")
    for part in ("one", "two"):
        root = tmp_path / part
        shutil.copytree(package.root.parents[1], root)
        publish(root, read_package(root / "cycle-000/package"), folder, [answer("a")])
    kept = [tmp_path / part / "cycle-000/answers/import-000/source" for part in ("one", "two")]
    assert kept[0].read_bytes() == kept[1].read_bytes()
    assert kept[0].read_bytes()[:2] == b"PK"


def test_two_at_once_and_a_round_that_is_over(package):
    root = package.root.parents[1]
    with locked(root), pytest.raises(UserError, match="another process works on this run"):
        take(package, [answer("a")])
    take(package, [answer("a")])
    for cycle in range(2):
        Ledger(root / "ledger").append(cycle, [])
    with pytest.raises(UserError, match="answers of cycle 1 are labels of the run already"):
        take(package, [answer("b")], "b")
    assert take(package, [answer("a")]).new == 0


@pytest.mark.parametrize("name", ["regions.parquet", "report.json", "manifest.json", "source"])
@pytest.mark.parametrize("how", ["flip", "remove"])
def test_no_answer_is_lost_by_one_damaged_file(package, name, how):
    given = [answer("a"), answer("b", value=0)]
    take(package, given)
    folder = import_folders(round_of(package).answers)[0]
    rows = (folder / "regions.parquet").read_bytes()
    damage(folder / name, how)
    said = []
    found = imports_of(round_of(package), package, lambda package, source, who: iter(given), said.append)
    assert len(found[0].rows) == 4
    assert (folder / "regions.parquet").read_bytes() == rows
    assert len(said) == 1
    assert name in said[0]
    assert bool(problems(folder)) == (name == "source")


def test_an_import_that_nothing_vouches_for_is_named(package):
    take(package, [answer("a")])
    folder = import_folders(round_of(package).answers)[0]
    for name in ("regions.parquet", "source"):
        damage(folder / name, "flip")
    before = sorted(path.read_bytes() for path in folder.iterdir())
    with pytest.raises(DamagedError, match=r"import-000/regions\.parquet.*put a copy back"):
        imports_of(round_of(package), package, lambda package, source, who: iter(()), print)
    assert sorted(path.read_bytes() for path in folder.iterdir()) == before


def damage(path, how):
    if how == "remove":
        path.unlink()
        return
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


CHILD = """
import sys
from pathlib import Path
from tests.orchestrator.annotation.test_answers import answer, publish, read_package
root = Path(sys.argv[1])
print(publish(root, read_package(root / "cycle-000/package"), root.parent / "file", [answer("a"), answer("b")]))
"""


def child(root, **env):
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(root)], cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True
    )


def test_a_kill_at_any_place_of_an_import_leaves_all_or_nothing(package, tmp_path):
    root = package.root.parents[1]
    (tmp_path / "file").write_text("file")
    trace = tmp_path / "trace"
    whole = tmp_path / "whole"
    shutil.copytree(root, whole)
    assert child(whole, S4AL_FAILPOINT_TRACE=str(trace)).returncode == 0
    wanted = (whole / "cycle-000/answers/import-000/regions.parquet").read_bytes()
    places = trace.read_text().split("\n")[:-1]
    assert {"answers/import-000:sealed", "regions.parquet:opened", "answers/import-000:published"} <= set(places)
    chosen = list(dict.fromkeys(places))
    for place in chosen:
        work = tmp_path / "killed"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(root, work)
        assert child(work, S4AL_FAILPOINT=f"{place}=kill").returncode == -9, place
        here = work / "cycle-000/answers"
        there = import_folders(here)
        assert not there or not problems(there[0]), place
        second = publish(work, read_package(work / "cycle-000/package"), tmp_path / "file", [answer("a"), answer("b")])
        assert second.answered == 4, place
        assert [path.name for path in import_folders(here)] == ["import-000"], place
        assert (here / "import-000/regions.parquet").read_bytes() == wanted, place
