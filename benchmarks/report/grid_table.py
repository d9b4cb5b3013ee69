"""The cells of a grid side by side, as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.report.plain_tables import csv_text, markdown_heads, markdown_row
from benchmarks.results.grid import Result, Row


def grid_csv(results: Sequence[Result]) -> str:
    """A line per cell, IoU of every class included; in percent, empty for a class that is nowhere."""
    classes = list(results[0].class_iou)
    rows: list[list[object]] = [
        ["method", "split", "seed", "miou", *classes, "train_hours", "images_per_second", "labelled_set", "protocol"]
    ]
    for one in results:
        iou = [_percent(one.class_iou[name]) for name in classes]
        rate = "" if one.images_per_second is None else f"{one.images_per_second:.2f}"
        facts = [f"{one.hours:.4f}", rate, one.labelled_set, one.protocol]
        rows.append([one.method, one.split, one.seed, _percent(one.miou), *iou, *facts])
    return csv_text(rows)


def grid_markdown(rows: Sequence[Row], results: Sequence[Result], against: str) -> str:
    lines = [
        f"mIoU in %; {results[0].protocol}. Mean ± sample standard deviation over seeds; difference to `{against}`",
        "",
    ]
    lines[0] += " over common seeds with its 95 % interval."
    heads = ["method", "split", "seeds", "mIoU", "difference", "hours of training", "images/s"]
    lines += markdown_heads(heads)
    for row in rows:
        spread = "" if row.spread is None else f" ± {row.spread:.2f}"
        difference = "" if row.difference is None else f"{row.difference:+z.2f}"
        if row.interval is not None:
            difference += f" ± {row.interval:.2f}"
        cells = [row.method, row.split, str(row.seeds), f"{row.miou:.2f}{spread}", difference, f"{row.hours:.2f}"]
        cells.append("" if row.images_per_second is None else f"{row.images_per_second:.1f}")
        lines.append(markdown_row(cells))
    return "\n".join(lines) + "\n"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3f}"
