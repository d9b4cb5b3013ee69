"""What comes next, asked before every stage of runs that end in every way."""

import pytest

from orchestrator.folder.layout import RunLayout
from orchestrator.run import loop, stages
from orchestrator.run.next_stage import next_stage
from orchestrator.run.stages import Stages
from querying.dataset.schemas import QUERY
from tests.small import small_config, small_run

BEGINNING = ["checkpoint of cycle 0", "evaluation of cycle 0"]
QUERIED = ["scores of cycle 0", "query of cycle 0"]
SECOND = ["checkpoint of cycle 1", "evaluation of cycle 1"]
REFERENCE = ["checkpoint of the reference", "evaluation of the reference"]
ENDS = {
    "after the last cycle": ([], [*BEGINNING, *QUERIED, *SECOND]),
    "after the reference": (["reference=true"], [*BEGINNING, *QUERIED, *SECOND, *REFERENCE]),
    "without a query": (["reference=true", "cycles=0"], [*BEGINNING, *REFERENCE]),
    "accurate enough": (["reference=true", "stop_at=0.001"], [*REFERENCE, *BEGINNING]),
    "out of budget": (["reference=true", "budget=0.2084"], [*BEGINNING, *REFERENCE]),
    "nothing to ask": (["reference=true", "cycles=2"], [*BEGINNING, *QUERIED, *REFERENCE]),
}
"""Changes of the recipe, and the stages that are made then."""


@pytest.mark.parametrize("end", ENDS)
def test_what_is_said_to_be_next_is_what_is_made_next(toy_data, tmp_path, monkeypatch, end):
    changes, expected = ENDS[end]
    changes, made, said = ["train.epochs=1", *changes], [], []
    layout, config, once = RunLayout(tmp_path), small_config(*changes), loop.once

    def asked(folder, make, **options):
        said.append(next_stage(layout, config))
        whose = "the reference" if "reference" in folder.parts else f"cycle {int(folder.parent.name[-3:])}"
        made.append(f"{folder.name} of {whose}")
        return once(folder, make, **options)

    monkeypatch.setattr(loop, "once", asked)
    if end == "nothing to ask":
        monkeypatch.setattr(Stages, "select", lambda *_: QUERY.empty_table())
    small_run(toy_data.root, tmp_path, *changes)
    assert said == made == expected
    assert next_stage(layout, config) == "the report"


def test_without_a_readable_summary_or_query_a_stage_is_named(toy_data, tmp_path):
    small_run(toy_data.root, tmp_path, "train.epochs=1")
    layout = RunLayout(tmp_path)
    (layout.query(0) / "query.parquet").write_text("x")
    layout.summary.unlink()
    assert next_stage(layout, small_config("cycles=2")) == "scores of cycle 1"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], [3 * 2 * 4, 0]),
        (["reference=true"], [3 * 2 * 4 + 3 * 2 * 2, 3 * 2 * 2, 0]),  # two cycles, then all labels
        (["reference=true", "stop_at=1.0"], [3 * 2 * 2 + 3 * 2 * 4, 3 * 2 * 4, 0]),  # all labels first
    ],
)
def test_the_time_left_in_a_run_is_that_of_all_its_trainings(toy_data, tmp_path, monkeypatch, changes, expected):
    """3 epochs of 2 steps, of 2 images for teacher and reference, and of 2 + 2 for the student."""
    said, followed = [], stages.followed

    def asked(work, progress, name, images, live, later):
        said.append(later)
        return followed(work, progress, name, images, live, later)

    monkeypatch.setattr(stages, "followed", asked)
    small_run(toy_data.root, tmp_path, *changes)
    assert said[:2] == expected[:2]  # the second cycle may not be needed
