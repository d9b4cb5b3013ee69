"""The page says what became of each class in the pseudo-labels, and whether the trainings had come to an end."""

import re
import shutil

import numpy as np
import pytest

from benchmarks.report.diagnosis import endings, pool_of, pool_table
from benchmarks.report.page import write_report
from benchmarks.results.findings import load_findings
from orchestrator.folder.layout import RunLayout
from orchestrator.recipe.config import override
from orchestrator.run.diagnosis import POOL_COUNTS
from querying.base.files import read_json, sealed
from querying.labels.pool_counts import PoolCounts


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


def lost(run, name):
    """Counts in which every pixel of a class is labelled as another one."""
    path = RunLayout(run).scores(0) / POOL_COUNTS
    data = read_json(path)
    counts, place = np.array(data["counts"]), load_findings([run])[0].classes.index(name)
    other = (place + 1) % (len(counts) - 1)
    counts[:, other] += counts[:, place]
    counts[:, place] = 0
    path.write_text(sealed({**data, "counts": counts.tolist()}) + "\n")
    return other


def row_of(page, name):
    [row] = re.findall(rf"<tr><th>{name}</th>((?:<td>[^<]*</td>)+)</tr>", page.split("labelled by itself</h2>")[1])
    return re.findall("<td>([^<]*)</td>", row)


def test_the_page_has_a_row_a_class_and_a_warning_for_a_lost_one(copy, tmp_path, toy_data):
    name = "road"
    other = lost(copy, name)
    page = write_report([copy], tmp_path / "report", toy_data).read_text()
    counts = PoolCounts.from_dict(read_json(RunLayout(copy).scores(0) / POOL_COUNTS))
    row = counts.summary(list(toy_data.classes))
    for one in toy_data.classes:
        precision = row["class_precision"][one]
        shown = [f"{100 * row['class_share'][one]:.2f}", "-" if precision is None else f"{100 * precision:.1f}"]
        assert row_of(page, one)[:2] == shown
    assert re.search(rf"cycle 0: no pixel of [^:]*\b{name}\b[^:]* is pseudo-labelled", page)
    assert re.search(rf"pixels of {name}: .*\d+ % {toy_data.classes[other]}", page)


def test_a_run_of_an_earlier_version_is_counted_for_the_page(copy, toy_data):
    [run] = load_findings([copy])
    before = pool_of(run, 0, None)
    (RunLayout(copy).scores(0) / POOL_COUNTS).unlink()
    assert pool_of(run, 0, None) is None
    assert np.array_equal(pool_of(run, 0, toy_data).counts, before.counts)


def test_a_method_that_labels_the_pool_itself_says_that_nothing_is_counted(copy, toy_data):
    [run] = load_findings([copy])
    for cycle in (0, 1):
        (RunLayout(copy).scores(cycle) / POOL_COUNTS).unlink()
    for method, said in (("mean_teacher", "labels the pool itself"), ("supervised", "learns no pseudo-labels")):
        object.__setattr__(run, "config", override(run.config, [f"train.method={method}"]))
        table = pool_table(run, toy_data)
        assert table["cycles"] == []
        assert said in table["why"]


def test_endings_are_those_of_the_summary(copy):
    [run] = load_findings([copy])
    for row, there in zip(endings(run), run.cycles, strict=True):
        assert row["cycle"] == there["cycle"]
        assert row["fall"] == there.get("learning", {"fall": None})["fall"]
