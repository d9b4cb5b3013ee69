"""What a command says at its end: our Markdown tables as tables of the terminal, its files, and what to do next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.report.terminal_tables import PLAIN_WIDTH
from orchestrator.process.terminal import console


def print_tables(markdown: str) -> None:
    """Paragraphs and tables of a text that this package wrote; on a terminal with rules, elsewhere in plain columns."""
    out = console(PLAIN_WIDTH)
    terminal = out.is_terminal
    for block in filter(None, markdown.strip().split("\n\n")):
        if not block.startswith("|"):
            print(block)
            continue
        heads, _, *rows = (_cells(line) for line in block.splitlines())
        table = Table(box=box.HEAVY_HEAD if terminal else None, pad_edge=terminal)
        for number, head in enumerate(heads):
            table.add_column(Text(head), justify="right" if number else "left")
        for row in rows:
            table.add_row(*map(Text, row))
        out.print(table)


def print_files(files: Sequence[Path]) -> None:
    print(f"written: {shlex.join(map(str, files))}")


def print_next(*commands: Sequence[object]) -> None:
    """Commands for a shell, a line each; words in capitals stand for what the user has."""
    print("next:")
    for words in commands:
        print(f"  {shlex.join(map(str, words))}")


def after_run(run: Path) -> None:
    """Where the model of a finished run is, and what can be done with it."""
    onnx = run / "model.onnx"
    checkpoint = max(run.glob("cycle-[0-9][0-9][0-9]/checkpoint"))
    print(f"model:   {checkpoint}{f', {onnx}' if onnx.exists() else ''}")
    print_next(
        ["s4al", "predict", run, "IMAGES", "--out", run.with_name(f"{run.name}-predictions")],
        *([] if onnx.exists() else [["s4al", "export", run, onnx]]),
        ["s4al", "compare", run, "OTHER_RUN"],
    )


def _cells(line: str) -> list[str]:
    return [
        cell.strip().replace("\\|", "|").replace("&lt;", "<") for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])
    ]
