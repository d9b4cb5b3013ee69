"""The benchmarks still run; what they measure is said nowhere here."""

import json

from benchmarks.performance.bench_memory import _prepare, drive


def test_the_memory_benchmark_selects_and_buys(tmp_path, capsys):
    _prepare(tmp_path, 20)
    drive(tmp_path)
    assert json.loads(capsys.readouterr().out)["peak_mb"] > 0
    assert (tmp_path / "run/ledger/cycle-001.parquet").exists()
