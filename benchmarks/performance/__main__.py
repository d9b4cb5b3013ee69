"""`make bench`: run every throughput benchmark, print its ratio and bar, and store the table beside the runs."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks.performance import bench_forward, bench_memory, bench_reco, bench_scoring
from querying.files import write_text


def main(out: Path) -> None:
    results: list[dict[str, Any]] = [*bench_forward.main(), *bench_scoring.main()]
    results += [bench_reco.main(), *bench_memory.main()]
    lines = ["| what | ratio | bar | |", "|---|---|---|---|"]
    for result in results:
        verdict = "holds" if result["passes"] else "falls short"
        lines.append(f"| {result.get('what', result['name'])} | {result['ratio']} | {result['bar']} | {verdict} |")
    out.mkdir(parents=True, exist_ok=True)
    machine = {"python": platform.python_version(), "machine": platform.machine(), "cpus": os.cpu_count()}
    write_text(out / "bench.json", json.dumps({"machine": machine, "results": results}, indent=1))
    write_text(out / "bench.md", "\n".join(lines) + "\n")
    print("\n".join(lines))
    print(out / "bench.md")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/bench"))
