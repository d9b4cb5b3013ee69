"""The paper's chain beside ours, as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from benchmarks.figures.style import BLUE, INK, MUTED, SERIES, WIDTH

if TYPE_CHECKING:
    from benchmarks.results.chain import Chain


def draw_chain(chain: Chain) -> Figure:
    """A line per row: every seed as a dot, their mean with its 95 % interval, and the paper's number."""
    figure = Figure((WIDTH, 1.1 + 0.42 * len(chain.rows)), layout="constrained")
    axes = figure.add_subplot()
    for number, row in enumerate(chain.rows):
        axes.scatter(list(row.mious.values()), [number] * len(row.mious), s=14, color=MUTED, zorder=2)
        axes.errorbar(
            row.mean.mean, number, xerr=row.mean.half_interval, color=BLUE, marker="o", capsize=3, elinewidth=1.6,
            label="ours: mean and 95 % interval; grey: seeds" if number == 0 else None, zorder=3,
        )  # fmt: skip
        if row.step.paper is not None:
            label = "paper (360x480)" if number == 0 else None
            axes.scatter(row.step.paper, number, marker="D", color=SERIES[1], label=label, zorder=3)
    axes.set_yticks(range(len(chain.rows)), [row.step.title for row in chain.rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"mIoU (%), {chain.images}", color=INK)
    axes.grid(axis="x")
    axes.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure
