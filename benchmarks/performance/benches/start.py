"""How long the user waits before anything happens: the command line, and a process that is ready for a stage.

Run:  python -m benchmarks.performance.benches.start
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

from benchmarks.performance.result import Result, found
from benchmarks.performance.timing import interleaved

STAGE = """
from benchmarks.recipes.catalogue import find
from orchestrator.run.stages import Stages
find("camvid_cpu")
"""
COMMANDS = {
    "python": ["-c", "pass"],
    "help": ["-m", "benchmarks", "--help"],
    "show": ["-m", "benchmarks", "show", "camvid_cpu"],
    "stage": ["-c", STAGE],
}
WHAT = {
    "help": "start-up: s4al --help",
    "show": "start-up: s4al show camvid_cpu",
    "stage": "start-up: a process with stages (torch, Arrow) and a recipe",
}


def main(*, rounds: int = 5, threads: int = 2) -> list[Result]:
    """Medians in seconds; no bar.  `python` alone is the floor."""
    forms: dict[str, Callable[[], object]] = {name: partial(started, name) for name in COMMANDS}
    seconds = interleaved(forms, rounds)
    floor = round(seconds["python"], 3)
    return [
        found(f"start_{name}", what, "files in the page cache", seconds[name], unit="s", python_alone=floor)
        for name, what in WHAT.items()
    ]


def started(name: str) -> None:
    subprocess.run([sys.executable, *COMMANDS[name]], check=True, capture_output=True)


if __name__ == "__main__":
    main()
