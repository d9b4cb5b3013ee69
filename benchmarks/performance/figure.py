"""`bench.png`: each figure that has a bar, as a multiple of it; one line parts what holds from what does not."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.figures.style import BLUE, INK, MUTED, SERIES, WIDTH, save, styled
from benchmarks.performance.result import Result, shown

TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)


def margin(result: Result) -> float:
    """How many times better than its bar, above 1 where it holds by its value."""
    value, bar = max(result["ratio"], 1e-9), result["bar"]
    return float(bar / value if result.get("at_most") else value / bar)


def draw_bench(results: list[Result], folder: Path) -> None:
    """Writes nothing where no result has a bar."""
    held = [result for result in results if result["bar"] is not None][::-1]
    if not held:
        return
    with styled():
        figure = Figure(figsize=(WIDTH, 0.8 + 0.34 * len(held)), layout="constrained")
        axes = figure.subplots()
        colours = [BLUE if result["passes"] else SERIES[1] for result in held]
        # A figure that is far below an upper bar would squeeze all the others.
        lengths = [min(max(margin(result), 0.1), 20.0) for result in held]
        axes.barh(range(len(held)), [length - 1 for length in lengths], left=1, color=colours, height=0.62)
        for place, (result, length) in enumerate(zip(held, lengths, strict=True)):
            unit = result.get("unit", "x")
            text = f"{shown(result['ratio'], unit)} (bar {shown(result['bar'], unit)})"
            axes.text(max(length, 1) * 1.06, place, text, va="center", fontsize=8, color=INK)
        axes.axvline(1, color=INK, linewidth=1)
        axes.set_yticks(range(len(held)), [result["name"] for result in held])
        axes.set_xscale("log")
        axes.set_xlim(0.1, 80)
        axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
        axes.minorticks_off()
        axes.set_xlabel("times better than its bar (orange: falls short)", color=MUTED)
        save(figure, folder, "bench", svg=False)
