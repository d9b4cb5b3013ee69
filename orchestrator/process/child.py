"""The command of another process of this project."""

import sys
from collections.abc import Sequence
from pathlib import Path

CODE = Path(__file__).resolve().parents[2]
"""Where the packages are that this process runs; what is installed may be another version."""


def child_command(words: Sequence[str]) -> list[str]:
    """`s4al WORDS...` by this interpreter and with this code, whatever lies in the folder where it is started."""
    return [sys.executable, "-P", str(CODE / "benchmarks" / "__main__.py"), *words]
