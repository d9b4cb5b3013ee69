"""`query.batch_size=auto`: found once, kept with the run, and the result that of the number that was found."""

import pytest

from orchestrator.audit.files import audit_run
from orchestrator.folder.batch_size import kept_batch_size
from orchestrator.folder.layout import RunLayout
from querying.base.files import read_json
from querying.settings import QuerySettings
from tests.small import small_run
from training.inference.batch_finder import BatchFinder

FOUND = {"batch_size": 8, "seconds_per_image": {"1": 0.5, "8": 0.25}, "stopped_by": "no faster", "device": "cpu"}


def test_it_is_found_once_and_found_again_where_the_file_is_damaged(tmp_path, caplog):
    path, said, searches = tmp_path / "batch_size.json", [], []

    def find():
        searches.append(1)
        return FOUND

    assert [kept_batch_size(path, find, said.append) for _ in range(3)] == [8, 8, 8]
    assert len(searches) == 1
    assert said == ["query.batch_size=auto: 8 images at a time, kept in batch_size.json (images/s by size: 1: 2, 8: 4)"]
    path.write_text(path.read_text().replace('"batch_size": 8', '"batch_size": 9'))
    assert kept_batch_size(path, find, said.append) == 8
    assert len(searches) == 2
    assert "batch_size.json" in caplog.text
    assert read_json(path)["batch_size"] == 8


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "many", None, [4], float("nan"), "4"])
def test_a_batch_size_is_a_number_or_auto(wrong):
    with pytest.raises(ValueError, match="expected a number from 1, or auto"):
        QuerySettings(batch_size=wrong)


def test_auto_is_a_value():
    assert QuerySettings(batch_size="auto").images_at_once == QuerySettings().images_at_once == 4
    assert QuerySettings(batch_size=7).images_at_once == 7


def test_a_run_finds_it_before_its_first_pass_and_goes_on_with_it(toy_data, tmp_path, monkeypatch):
    """Two trainings, two evaluations and a scoring, as with the number itself; then again without a search."""
    asked = []
    monkeypatch.setattr(BatchFinder, "find", lambda self, most: asked.append((self.size, self.scales, most)) or SMALL)
    auto, fixed = RunLayout(tmp_path / "auto"), RunLayout(tmp_path / "fixed")
    words = ("train.epochs=1", "query.scales=[0.5,1.0]", "train.validate_epochs=1")
    summary = small_run(toy_data.root, auto.root, *words, "query.batch_size=auto")
    [(size, scales, most)] = asked
    assert (size, scales) == ((toy_data.height, toy_data.width), (0.5, 1.0))
    shards = [shard.rows for split in ("train", "test") for shard in toy_data.shards(split)]
    assert most == min(64, max(shards))
    assert read_json(auto.batch_size) == {**SMALL, "device": "cpu"}
    assert not [line for line in audit_run(auto) if "batch_size" in line]
    before = auto.batch_size.read_text()
    auto.batch_size.write_text(before.replace("no faster", "no slower"))
    assert len([line for line in audit_run(auto) if "batch_size" in line]) == 1
    auto.batch_size.write_text(before)

    small_run(toy_data.root, fixed.root, *words, "query.batch_size=3")
    for name in ("cycle-000/scores/regions-00000.arrow", "cycle-001/evaluation/confusion.json"):
        assert (auto.root / name).read_bytes() == (fixed.root / name).read_bytes()

    seen = []
    monkeypatch.setattr("orchestrator.run.stages.ShardEvaluator", lambda *args: seen.append(args[2]) or 1 / 0)
    manifest = auto.evaluation(1) / "manifest.json"
    manifest.unlink()
    with pytest.raises(ZeroDivisionError):
        small_run(toy_data.root, auto.root, *words, "query.batch_size=auto")
    assert (seen, len(asked)) == ([3], 1)
    assert summary["cycles"]


SMALL = {"batch_size": 3, "seconds_per_image": {"1": 1.0}, "stopped_by": "no faster"}
