"""Records of single experiments as Markdown and as single numbers: `s4al headroom`'s answers, and why CPS collapses."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.datasets.sources.camvid import CLASSES
from benchmarks.report.plain_tables import markdown_heads, markdown_row
from orchestrator.studies.headroom import SUPERVISED, TRUTH
from querying.base.files import read_json

Table = tuple[str, dict[str, str]]
"""The text, and name -> number within a sentence."""
ALL = 0.99
"""Share of the pixels from which one class counts as all of them."""


def ceiling(record: Path) -> Table:
    """Of `s4al headroom`, on CamVid."""
    shown_classes = ("pole", "sign", "pedestrian", "bicyclist")
    found = {}
    for path in record.glob("ceiling-*.json"):
        answer = read_json(path)
        height, width = answer["asked"]["recipe"]["data"]["size"]
        found[height, width] = answer["found"]
    lines, numbers = markdown_heads(["size", "mIoU", *shown_classes]), {}
    for (height, width), one in sorted(found.items()):
        iou = [f"{100 * one['iou'][CLASSES.index(name)]:.0f}" for name in shown_classes]
        numbers[f"{height}x{width}"] = f"{100 * one['miou']:.1f}"
        lines.append(markdown_row([f"{height}x{width}", numbers[f"{height}x{width}"], *iou]))
    return _text(lines), numbers


def overfit(record: Path) -> Table:
    """Of `s4al headroom`, on CamVid."""
    shown_classes = ("pole", "sign", "fence", "pedestrian", "bicyclist")
    [path] = record.glob("overfit-*.json")
    found = read_json(path)["found"]
    rows = {"network": found, "best logits at stride 4": found["fitted"], "averaged truth": found["averaged"]}
    lines = markdown_heads(["", "mean", *shown_classes])
    numbers = {name.split()[0]: f"{100 * one['miou']:.1f}" for name, one in rows.items()}
    for name, one in rows.items():
        iou = [f"{100 * one['iou'][CLASSES.index(label)]:.0f}" for label in shown_classes]
        lines.append(markdown_row([name, numbers[name.split()[0]], *iou]))
    return _text(lines), numbers


def control(record: Path) -> Table:
    """Of `s4al headroom`, from `control-*.json`: a row for each recipe and seed; `RECIPE/gain` and `RECIPE/spread`."""
    lines = markdown_heads(
        ["recipe", "seed", "fit to labelled images", "supervised", "pool's true labels", "gain"], numbers=True
    )
    numbers = {}
    for path in sorted(record.glob("control-*.json")):
        answer = read_json(path)
        name, found = answer["asked"]["recipe"]["name"], answer["found"]
        for row in found["seeds"]:
            values = [f"{100 * value:.2f}" for value in (row["fit"]["miou"], row[SUPERVISED], row[TRUTH])]
            lines.append(
                markdown_row([name, str(row["seed"]), *values, f"{100 * (row[TRUTH] - row[SUPERVISED]):+z.2f}"])
            )
        numbers[f"{name}/gain"] = f"{100 * found['gain']:+z.2f}"
        if found["spread"] is not None:
            numbers[f"{name}/spread"] = f"{100 * found['spread']:.2f}"
    return _text(lines), numbers


def few_steps(record: Path) -> Table:
    """Lines `... STEPS loss L eval mIoU X ...` of a script that fitted four images twice."""
    line = re.compile(r"(\d+) loss \S+ eval mIoU (\S+)")
    sides = [dict(line.findall((record / f"{name}.txt").read_text())) for name in ("with-dropout", "without-dropout")]
    lines = markdown_heads(["steps", "dropout 0.5, decay 1e-4", "neither"])
    for steps in sorted({*sides[0], *sides[1]}, key=int):
        lines.append(markdown_row([steps, *(f"{float(side[steps]):.1f}" if steps in side else "" for side in sides)]))
    return _text(lines), {}


def cps(record: Path) -> Table:
    """When both networks call nearly all pixels one class, of the steps that `steps.json` has."""
    lines = markdown_heads(["setting", "both call all pixels one class", "classes at the end", "mIoU on val"])
    for run in json.loads((record / "steps.json").read_text())["runs"].values():
        if "steps" in run:
            ending = str(max(run["steps"][-1][3]))
            at, miou = _collapse(run["steps"]), ", ".join(f"{x:.2f}" for x in run["val_miou_by_epoch_of_40_steps"])
        else:
            ending, at = str(sum(iou > 0 for iou in run["class_iou_at_the_end"].values())), "not recorded"
            miou = ", ".join(f"{x:.2f} ({step})" for step, x in run["val_miou_by_step"].items())
        lines.append(markdown_row([run["setting"], at, ending, miou]))
    return _text(lines), {}


def _collapse(steps: Sequence[tuple[int, Sequence[int], Sequence[float], Any, float]]) -> str:
    for step, (first, second), shares, _, _ in steps:
        if first == second and min(shares) > ALL:
            return f"at step {step}: {CLASSES[first]}"
    return "never"


def node_faults(record: Path) -> Table:
    """Of `python -m tests.faults.nodes`, from `nodes.json`: a row for each fault; `trials`, `failures` and `runs`."""
    found = json.loads((record / "nodes.json").read_text())
    lines = markdown_heads(["fault", "trials", "failures", "median, s", "longest, s"], numbers=True)
    for fault in found["faults"]:
        trials = [trial for trial in found["trials"] if trial["fault"] == fault]
        seconds = [trial["seconds"] for trial in trials]
        failures = str(sum(bool(trial["problem"]) for trial in trials))
        times = (f"{median(seconds):.0f}", f"{max(seconds):.0f}") if seconds else ("", "")
        lines.append(markdown_row([fault, str(len(trials)), failures, *times]))
    all_ = found["trials"]
    numbers = {
        "trials": str(len(all_)),
        "failures": str(sum(bool(trial["problem"]) for trial in all_)),
        "runs": str(len({trial["run"] for trial in all_})),
    }
    return _text(lines), numbers


def _text(lines: Sequence[str]) -> str:
    return "\n".join(lines) + "\n"


KINDS: Mapping[str, Any] = {
    "ceiling": ceiling, "overfit": overfit, "control": control, "few_steps": few_steps, "cps": cps,
    "node_faults": node_faults,
}  # fmt: skip
