"""The cells of a grid side by side, as Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean

from benchmarks.report.plain_tables import csv_text, markdown_heads, markdown_row
from benchmarks.results.control import Control
from benchmarks.results.grid import Result, Row, controls, is_method
from orchestrator.studies.cells import POOL_TRUTH, SUPERVISED


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
    ranks = any(row.place for row in rows)
    heads = ["method", "split", "seeds", "mIoU", "difference", *(["place"] if ranks else [])]
    heads += ["hours of training", "images/s"]
    lines += markdown_heads(heads)
    for row in rows:
        spread = "" if row.spread is None else f" ± {row.spread:.2f}"
        difference = "" if row.difference is None else f"{row.difference:+z.2f}"
        if row.interval is not None:
            difference += f" ± {row.interval:.2f}"
        cells = [row.method, row.split, str(row.seeds), f"{row.miou:.2f}{spread}", difference]
        cells += [str(row.place or "")] if ranks else []
        cells += [f"{row.hours:.2f}"]
        cells.append("" if row.images_per_second is None else f"{row.images_per_second:.1f}")
        lines.append(markdown_row(cells))
    lines += ["", *_verdicts(controls(results), rows)]
    return "\n".join(lines) + "\n"


def class_markdown(results: Sequence[Result], split: str, first: str) -> str:
    """IoU of every class by method, `first` first, on one split: the mean over the seeds of each."""
    methods = sorted({one.method for one in results if one.split == split}, key=lambda name: (name != first, name))
    lines = markdown_heads(["class", *methods], numbers=True)
    for name, ious in class_means(results, split).items():
        lines.append(markdown_row([name, *(_number(ious[method]) for method in methods)]))
    return "\n".join(lines) + "\n"


def class_means(results: Sequence[Result], split: str) -> dict[str, dict[str, float | None]]:
    """Class -> method -> mean IoU in percent over the method's seeds on the split; None where no seed has the class."""
    found: dict[str, dict[str, float | None]] = {name: {} for name in results[0].class_iou}
    for method in dict.fromkeys(one.method for one in results if one.split == split):
        own = [one.class_iou for one in results if (one.method, one.split) == (method, split)]
        for name, ious in found.items():
            known = [100 * iou for iou in (one[name] for one in own) if iou is not None]
            ious[method] = mean(known) if known else None
    return found


def _verdicts(found: Mapping[str, Control | None], rows: Sequence[Row]) -> Iterator[str]:
    """A line for each split that has a control, and one for all others: may the table rank?"""
    for split, control in found.items():
        if control:
            methods = [row for row in rows if row.split == split and is_method(row.method)]
            yield " ".join([f"- {split}: {control.verdict}.", *_order(control, methods)])
    if without := [split for split, control in found.items() if control is None]:
        yield (
            f"- {', '.join(without)}: nothing is ranked, for nobody knows whether this schedule could have shown a"
            f" difference: there is no control (`--methods {SUPERVISED},{POOL_TRUTH},...`, the same seeds)."
        )


def _order(control: Control, methods: Sequence[Row]) -> Iterator[str]:
    """Sentences on the places of one split."""
    if not control.shows:
        yield "Nothing is ranked."
        return
    if any(row.place for row in methods):
        yield "Places are by mean mIoU over the control's seeds."
    if left := [row.method for row in methods if not row.place]:
        yield f"No place, for a seed of the control is missing: {', '.join(left)}."


def _number(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.1f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.3f}"
