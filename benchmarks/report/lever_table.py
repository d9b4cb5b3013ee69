"""Options tried one at a time beside a plain run, as Markdown and as single numbers.

A record's runs are called `NAME-seedN`: a `student` is compared with its own first cycle, which is its teacher; another
run of several cycles with the `student` of its seed, one of a single cycle with the `teacher` of its seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean

from benchmarks.report.plain_tables import markdown_heads, markdown_row
from benchmarks.results.curves import paired
from benchmarks.results.findings import Findings, load_findings

TEACHER, STUDENT = "teacher", "student"


def lever_table(paths: Sequence[Path], classes: Sequence[str]) -> tuple[str, dict[str, str]]:
    """mIoU and IoU of the `classes` in percent, each a mean over the run's seeds with its difference to what it is
    compared with, over common seeds; and `NAME`, `NAME/difference` and `NAME/CLASS` -> number."""
    runs: dict[str, dict[int, Findings]] = {}
    for path in paths:
        name, _, seed = path.name.rpartition("-seed")
        runs.setdefault(name, {})[int(seed)] = load_findings([path])[0]
    lines = markdown_heads(["run", "seeds", "mIoU", "difference", "to", *classes], numbers=True)
    numbers = {}
    for name in sorted(runs, key=lambda name: (name != TEACHER, name != STUDENT, name)):
        base = TEACHER if name == STUDENT or len(next(iter(runs[name].values())).cycles) == 1 else STUDENT
        pairs = [
            (_iou(one.last, classes), _iou(to, classes) if (to := _compared(runs, name, base, seed)) else None)
            for seed, one in sorted(runs[name].items())
        ]
        own = [mean(one[n] for one, _ in pairs) for n in range(len(classes) + 1)]
        gains = [paired([one[n] - to[n] for one, to in pairs if to]) for n in range(len(classes) + 1)]
        shown = [f"{gain.mean:+z.2f}" if gain else "" for gain in gains]
        interval = f" ± {gains[0].half_interval:.2f}" if gains[0] and gains[0].half_interval else ""
        numbers[name] = f"{own[0]:.2f}"
        numbers |= {f"{name}/{label}": f"{value:.1f}" for label, value in zip(classes, own[1:], strict=True)}
        if shown[0]:
            numbers[f"{name}/difference"] = shown[0]
        by_class = [f"{value:.1f}" + f" ({gain})" * bool(gain) for value, gain in zip(own[1:], shown[1:], strict=True)]
        first = [name, str(len(pairs)), numbers[name], shown[0] + interval, base if shown[0] else ""]
        lines.append(markdown_row([*first, *by_class]))
    return "\n".join(lines) + "\n", numbers


def _compared(
    runs: Mapping[str, Mapping[int, Findings]], name: str, base: str, seed: int
) -> Mapping[str, object] | None:
    """The cycle that a run is compared with; None of the plain teacher, and where there is none of the seed."""
    if name == STUDENT:
        return runs[name][seed].cycles[0]
    return runs[base][seed].last if name != base and seed in runs.get(base, {}) else None


def _iou(cycle: Mapping[str, object], classes: Sequence[str]) -> list[float]:
    """mIoU and the IoU of `classes`, in percent."""
    by_class: Mapping[str, float] = cycle["class_iou"]  # type: ignore[assignment]
    miou: float = cycle["miou"]  # type: ignore[assignment]
    return [100 * miou, *(100 * by_class[name] for name in classes)]
