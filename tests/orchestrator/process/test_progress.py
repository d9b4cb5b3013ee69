"""What a terminal shows of a run: nothing is cut, also where it is narrow."""

import io

import pytest
from rich.console import Console

from orchestrator.process.progress import BarProgress, bars_on, clock

NOTE = "steps, loss 3.571, 10.6 images/s, 12 % waiting for data, run: about 2:03:10 of training left"


def drawn(width, total):
    console = Console(width=width, force_terminal=True, file=io.StringIO(), color_system=None)
    bars = bars_on(console)
    progress = BarProgress(console, bars)
    progress.stage("reference cycle 12: train (self_training)")
    if total:
        progress.update(12000, total, NOTE)
    with console.capture() as got:
        console.print(bars.get_renderable())
    return got.get()


@pytest.mark.parametrize("width", [40, 80, 100, 200])
def test_nothing_is_cut_in_a_narrow_terminal(width):
    text = drawn(width, 25000)
    assert all(len(line) <= width for line in text.splitlines())
    words = "".join(c for c in text if c not in "━╸╺ \n")
    assert "…" not in text
    for said in ("reference cycle 12: train (self_training): 0:00 elapsed", f"12000/25000 {NOTE}"):
        assert said.replace(" ", "") in words
    assert ("━" in text) == (width >= 80)


def test_before_the_first_step_it_says_that_it_is_starting():
    text = drawn(80, None)
    assert "starting, 0:00 elapsed" in text
    assert "?" not in text


def test_hours_are_hours():
    assert [clock(s) for s in (5, 65, 3600, 7389.6)] == ["0:05", "1:05", "1:00:00", "2:03:10"]
