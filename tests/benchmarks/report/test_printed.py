"""What a command says at its end can be read, found with grep and pasted into a shell."""

import shlex
from pathlib import Path

from benchmarks.report.printed import after_run, print_files, print_next, print_tables
from benchmarks.report.terminal_tables import print_cells

MARKDOWN = """mIoU in %; [bold] whole image.

| method | split | mIoU |
|---|---|---|
| super\\|vised | 1/8 | 35.69 ± 1.42 |
| [red]cps |  | 3.00 |
"""


def test_a_markdown_table_is_printed_in_plain_columns_where_no_terminal_is(capsys):
    print_tables(MARKDOWN)
    title, heads, *rows = capsys.readouterr().out.splitlines()
    assert title == "mIoU in %; [bold] whole image."
    assert heads.split() == ["method", "split", "mIoU"]
    assert [row.split() for row in rows] == [["super|vised", "1/8", "35.69", "±", "1.42"], ["[red]cps", "3.00"]]
    assert len({row.index("1/8") if "1/8" in row else heads.index("split") + 2 for row in rows}) == 1, "right-aligned"
    assert "|---|" not in "".join(rows)


def test_commands_and_files_can_be_pasted(tmp_path, capsys):
    print_files([Path("a b/compare.md"), Path("x.csv")])
    print_next(["s4al", "predict", Path("runs/a b"), "IMAGES"])
    written, heading, command = capsys.readouterr().out.splitlines()
    assert shlex.split(written) == ["written:", "a b/compare.md", "x.csv"]
    assert heading == "next:"
    assert shlex.split(command) == ["s4al", "predict", "runs/a b", "IMAGES"]


def test_a_finished_run_says_where_its_model_is_and_offers_the_export_where_there_is_none(tmp_path, capsys):
    run = tmp_path / "my run"
    for cycle in (0, 10):
        (run / f"cycle-{cycle:03d}/checkpoint").mkdir(parents=True)
    after_run(run)
    shown = capsys.readouterr().out
    assert f"model:   {run}/cycle-010/checkpoint\n" in shown
    assert f"s4al export '{run}' '{run}/model.onnx'" in shown
    assert f"s4al predict '{run}' IMAGES --out '{run}-predictions'" in shown
    (run / "model.onnx").touch()
    after_run(run)
    shown = capsys.readouterr().out
    assert f"cycle-010/checkpoint, {run}/model.onnx\n" in shown
    assert "s4al export" not in shown


def test_a_grid_and_its_comparison_have_one_spread(capsys):
    """The sample standard deviation of 30, 32 and 37 is 3.61; half their range would be 3.50."""
    print_cells([("cps", "1/8", 0.30), ("cps", "1/8", 0.32), ("cps", "1/8", 0.37), ("ael", "1/8", 0.25)], "title")
    shown = capsys.readouterr().out
    assert "33.00 ± 3.61 (n = 3)" in shown
    assert "25.00 ±" not in shown
