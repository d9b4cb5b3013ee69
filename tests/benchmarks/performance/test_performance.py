"""The benchmarks still run; what they measure is said nowhere here."""

import json

from benchmarks.performance.benches import shards
from benchmarks.performance.benches.memory import _prepare, drive
from orchestrator.folder.layout import RunLayout
from querying.labels.ledger import Ledger


def test_the_memory_benchmark_selects_and_buys(tmp_path, capsys):
    _prepare(tmp_path, 20)
    drive(tmp_path)
    assert json.loads(capsys.readouterr().out)["peak_mb"] > 0
    assert (tmp_path / "run/ledger/cycle-001.parquet").exists()


def test_the_benchmark_of_many_shards_scores_buys_and_reports(tmp_path):
    """As in the processes that it starts."""
    shards.prepare(tmp_path, 100)
    found = {part: shards.measure(part, tmp_path, 1) for part in shards.PARTS}
    assert all(one["seconds"] > 0 for one in found.values())
    run = RunLayout(tmp_path / "run")
    assert len(list(run.scores(0).glob("regions-*.arrow"))) == 4
    assert Ledger(run.ledger).spent(1).cells == 4 * 4 + 96
    assert (run.root / "report/queried.png").exists()
