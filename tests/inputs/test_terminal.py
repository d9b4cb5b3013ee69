"""Whatever a file says that somebody else wrote: the terminal obeys nothing of it, a spreadsheet computes nothing."""

import csv
import hashlib
import io
import json
import logging
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

from benchmarks.cli import app
from benchmarks.report.plain_tables import csv_text, markdown_heads, markdown_row
from benchmarks.report.printed import print_tables
from orchestrator.process.guard import OneLine, guarded
from orchestrator.process.progress import BarProgress, LineProgress, shown
from orchestrator.process.terminal import console
from querying.base.files import read_json, sealed, write_json

ROOT = Path(__file__).parents[2]
RUN_1 = ROOT / "tests/fixtures/run-1"
TITLE, CLEAR, BELL, RIGHT_TO_LEFT = "\x1b]0;pwned\x07", "\x1b[2J", "\x07", "\u202e"
HOSTILE = f"a{TITLE}b{CLEAR}c\rd{RIGHT_TO_LEFT}e\x9bf"
OBEYED = (TITLE, CLEAR, BELL, "\r", RIGHT_TO_LEFT, "\x9b", "\x1b]")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def harmless(said):
    return not [mark for mark in OBEYED if mark in said]


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_what_is_printed_logged_or_drawn_is_obeyed_by_no_terminal(monkeypatch, kind):
    out = kind()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    logger = logging.Logger("any")  # noqa: LOG001  (one that no other test sees)
    with guarded():
        print(f"{HOSTILE}\n\tsecond line", file=sys.stderr)
        sys.stdout.writelines([HOSTILE])
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(OneLine())
        logger.addHandler(handler)
        logger.warning("%s\nforged line", HOSTILE)
        table = Table(HOSTILE, title=HOSTILE)
        table.add_row(HOSTILE)
        table.add_row("[red]x[/] :smile:")
        console(100).print(table)
        print_tables(f"{HOSTILE}\n\n| {HOSTILE} |\n|---|\n| {HOSTILE} |\n")
        LineProgress().say(f"{HOSTILE}\nforged line")
    assert harmless(out.getvalue())
    assert "\\x1b]0;pwned\\x07" in out.getvalue()
    assert "[red]x[/] :smile:" in out.getvalue()
    assert "\n\tsecond line" in out.getvalue()
    assert "\nforged line" not in out.getvalue()


def test_neither_is_what_is_printed_beside_bars(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    with guarded(), shown() as bars:
        assert isinstance(bars, BarProgress)
        bars.stage(HOSTILE)
        bars.update(1, 2, HOSTILE)
        bars.say(HOSTILE)
        print(HOSTILE)
        print("\x1b[31mred")
    said = stream.getvalue()
    assert [mark for mark in (TITLE, CLEAR, BELL, RIGHT_TO_LEFT, "\x9b", "c\rd") if mark in said] == []
    assert "\\x1b[31mred" in said, "a colour is the bars' own"
    assert "\x1b[" in said, "bars move the cursor themselves"
    assert sys.stdout is stream


def on_a_terminal(*words):
    """What a command writes to one, and how it ends."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "benchmarks", *map(str, words)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, env={**os.environ, "TERM": "xterm-256color"}
    )
    os.close(slave)
    said = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        said += part
    os.close(master)
    return process.wait(), said.decode(errors="replace").replace("\r\n", "\n")


def hostile_summary(run):
    summary = read_json(run / "summary.json")
    summary["recipe"] = HOSTILE
    write_json(run / "summary.json", summary)


def hostile_drift(run):
    for path in (run / "recipe.yaml", run / ".recipe.yaml.copy"):
        text = path.read_text().rpartition("# seal: ")[0]
        entry = {"time": HOSTILE, "from": HOSTILE, "changes": [HOSTILE]}
        text += f"  drift: {json.dumps([entry])}\n"
        path.write_text(f"{text}# seal: {hashlib.sha256(text.encode()).hexdigest()}\n")


def hostile_record(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write(sealed({"run": HOSTILE, "cycle": HOSTILE, "stage": HOSTILE}) + "\n")


def hostile_manifest(run):
    path = run / "cycle-000/checkpoint/manifest.json"
    manifest = read_json(path)
    manifest["files"][HOSTILE] = {"size": 1, "sha256": "0" * 64}
    write_json(path, manifest)


def hostile_file(run):
    (run / f"cycle-000/checkpoint/{HOSTILE}").write_text("")


CHANGES = [hostile_summary, hostile_drift, hostile_record, hostile_manifest, hostile_file]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("command", ["status", "verify"])
def test_a_run_folder_that_somebody_gives_says_nothing_that_a_terminal_obeys(tmp_path, monkeypatch, change, command):
    run, out = shutil.copytree(RUN_1, tmp_path / "run"), Terminal()
    change(run)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(sys, "argv", ["s4al", command, str(run)])
    with pytest.raises(SystemExit) as caught:
        app.main()
    assert caught.value.code in (0, 2, 4), out.getvalue()
    assert harmless(out.getvalue())


def test_neither_does_a_real_command_on_a_real_terminal(tmp_path):
    run = shutil.copytree(RUN_1, tmp_path / "run")
    hostile_summary(run)
    hostile_drift(run)
    status, said = on_a_terminal("status", run)
    assert status == 0, said
    assert "\\x1b]0;pwned\\x07" in said
    assert harmless(said)


FORMULAS = ["=cmd|' C'!A0", "+1+2", "-2+3", "@SUM(1)", " =1", "\t=1"]


def test_no_cell_of_a_csv_file_is_a_formula_and_numbers_stay_numbers():
    text = csv_text([FORMULAS, [-1.5, "-1.5", "+2", 3, None, "name"], [HOSTILE, "a\nb"]])
    first, second, third = csv.reader(io.StringIO(text))
    assert all(cell.startswith("'") for cell in first)
    assert second == ["-1.5", "-1.5", "+2", "3", "", "name"]
    assert harmless("".join(third))
    assert third[1] == "a\\nb"
    assert len(text.splitlines()) == 3


def test_a_cell_of_a_markdown_table_stays_one_cell():
    cells = ["a|b", "<script>", "two\nlines", HOSTILE]
    row = markdown_row(cells)
    assert row.count("|") - row.count("\\|") == len(cells) + 1
    assert "\n" not in row
    assert "<" not in row
    assert harmless(row)
    assert markdown_heads(["a", "b|c"]) == ["| a | b\\|c |", "|---|---|"]
