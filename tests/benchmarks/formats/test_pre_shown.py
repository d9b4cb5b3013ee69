"""What people left as the network had it is counted where they were shown it, and nowhere else."""

import pytest

from benchmarks.formats.answers_in import read_answers, reread
from benchmarks.formats.export import export
from benchmarks.formats.shares import with_pre
from orchestrator.annotation.answers import publish, report_now
from orchestrator.annotation.rounds import Round
from querying.base.errors import UserError
from tests.benchmarks.formats.packages import blocks, make_package
from tests.benchmarks.formats.painted import ANSWER

IMAGES = 6


def answered(root, format_, pre):
    """A round whose answers are the network's own where it was shown, and other classes elsewhere."""
    package = make_package(
        root / "run" / "cycle-000" / "package", {f"i{number}": blocks() for number in range(IMAGES)},
        classes=("road", "car", "tree", "sky"),
    )  # fmt: skip
    chosen = with_pre(package, pre)
    export(package, root / "out", format_, pre=pre)
    masks = {one.image_id: blocks(shift=one.image_id not in chosen) for one in package.images}
    file = ANSWER[format_](package, root / "out", masks, 1)
    with read_answers(package, file) as answers:
        report = publish(root / "run", package, answers.source, answers.found, annotator="anna", reread=reread)
    assert report.complete
    return package, report


@pytest.mark.parametrize("format_", ANSWER)
def test_of_the_images_that_came_without_nothing_is_left_as_predicted(tmp_path, format_):
    package, report = answered(tmp_path, format_, 0.5)
    [worker] = report.workers.values()
    shown = 3 * (6 * 8 + 5 * 8)  # the last row has no class
    assert (worker.predicted, worker.kept, worker.kept_share) == (shown, shown, 1.0)
    # The cells are made again from what was handed in, and say the same.
    cells = tmp_path / "run" / "cycle-000" / "answers" / "import-000" / "regions.parquet"
    content = cells.read_bytes()
    cells.write_bytes(b"x")
    again = report_now(Round(tmp_path / "run", package.root.parent, 1), package, reread, say=lambda line: None)
    assert again.workers == report.workers
    assert cells.read_bytes() == content


@pytest.mark.parametrize("format_", ANSWER)
@pytest.mark.parametrize(("pre", "share"), [(0.0, None), (1.0, 1.0)])
def test_nothing_or_everything_was_shown(tmp_path, format_, pre, share):
    _, report = answered(tmp_path, format_, pre)
    assert report.kept_share == share
    assert ("-" if share is None else "100.0 %") in str(report).splitlines()[-1].split("  ")[-1]


def test_what_stands_in_the_query_is_checked(tmp_path):
    package, _ = answered(tmp_path, "folder", 0.5)
    query = tmp_path / "out" / "query.json"
    assert '"without_pre": [' in query.read_text()
    for wrong in ('"0"', "[true]", "{}", '["i0"]'):
        query.write_text(f'{{"query_id": "{package.query_id}", "without_pre": {wrong}}}')
        said = r"query\.json: without_pre is .*put a copy of it back"
        with pytest.raises(UserError, match=said), read_answers(package, tmp_path / "out") as answers:
            list(answers.found)
