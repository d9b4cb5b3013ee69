"""The report of one run, or of several beside each other: figures, a Markdown table, one self-contained HTML page."""

from __future__ import annotations

import base64
import shlex
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from benchmarks.drawing import INK, MARKERS, SERIES, cycle_look, inline, save, styled
from benchmarks.figures import Dots, draw_class_iou, draw_confusion, draw_curve, draw_stage_times, draw_training
from benchmarks.findings import Findings, find_data, load_findings
from orchestrator.config import RunConfig, flatten
from orchestrator.provenance import drift_lines
from querying.files import check_folder, write_text
from querying.leftovers import writing_into
from querying.shards import DataIndex

TEMPLATE = "report_template.html"
KEYS = (
    "cycles", "budget", "stop_at", "initial.fraction", "initial.images", "model.backbone", "model.output_stride",
    "model.weights", "train.method", "train.epochs", "train.last_epochs", "train.steps_per_epoch", "train.batch_size",
    "train.batch_size_unlabelled", "train.lr", "train.precision", "train.workers", "teacher.epochs",
    "teacher.steps_per_epoch", "teacher.batch_size", "reco.weight", "query.acquisition", "query.unit", "query.select",
    "query.region_size", "query.per_image", "query.images", "query.threshold", "query.scales", "query.exclude_border",
)  # fmt: skip
"""What a reader asks about first; the whole recipe stands below them."""
PICTURES = ("queried", "pseudo")


def write_report(runs: Sequence[Path], out: Path, index: DataIndex | None = None) -> Path:
    """Write report.html, report.md and every figure (SVG and PNG) into `out`; returns the path of report.html.

    Reads run folders, and for the overlays the data set: `index`, or the one that recipe.yaml names.  UserError names
    a folder that is not a run with a finished cycle, or runs that can not be compared.
    """
    found = load_findings(runs)
    check_folder(out)
    with styled(), writing_into(out, print):
        context = _one(found[0], out, index) if len(found) == 1 else _several(found, out)
        write_text(out / "report.md", _markdown(found))
        page = _environment().get_template(TEMPLATE).render(runs=found, **context, **_embedded(out, context["figures"]))
        write_text(out / "report.html", page)
    return out / "report.html"


def _one(run: Findings, out: Path, index: DataIndex | None) -> dict[str, Any]:
    missing = ""
    if index is None:
        index, missing = find_data(run)
    figures: dict[str, Figure | None] = {
        "curve": draw_curve([run]),
        "class_iou": draw_class_iou(run.classes, _by_cycle(run), run.absent, run.summary["evaluated_on"]),
        "confusion": draw_confusion(run),
        "training": draw_training(run) if run.epochs else None,
        "stage_times": draw_stage_times(run),
    }
    coverage: dict[int, float | None] = {}
    if index:
        from benchmarks.overlays import coverage_of, draw_pseudo, draw_queried  # these load torch

        figures |= {"queried": draw_queried(run, index), "pseudo": draw_pseudo(run, index)}
        coverage = {row["cycle"]: coverage_of(run, row["cycle"]) for row in run.cycles}
    settings = flatten(run.config.model_dump(mode="json"))
    return {
        "figures": _saved(figures, out),
        "missing": missing,
        "settings": {key: settings[key] for key in KEYS if settings[key] != "null"},
        "recipe": run.config.to_yaml(),
        "bought": list(_bought(run, index)),
        "rates": run.rates(index),
        "coverage": coverage,
        "drift": drift_lines(run.provenance),
        "command": _command(run),
        "differing": {},
        "groups": [],
    }


def _several(runs: Sequence[Findings], out: Path) -> dict[str, Any]:
    series = [
        Dots(run.label, SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)], run.last["class_iou"],
             run.last["miou"])
        for place, run in enumerate(runs)
    ]  # fmt: skip
    split = runs[0].summary["evaluated_on"]
    figures: dict[str, Figure | None] = {
        "curve": draw_curve(runs),
        "class_iou": draw_class_iou(runs[0].classes, series, runs[0].absent, split),
    }
    return {
        "figures": _saved(figures, out),
        "missing": "",
        "differing": _differing(runs),
        "groups": _over_seeds(runs),
        "command": "\n".join(_command(run) for run in runs),
    }


def _by_cycle(run: Findings) -> list[Dots]:
    dots = [Dots(f"cycle {row['cycle']}", *cycle_look(row["cycle"]), row["class_iou"], row["miou"])
            for row in run.cycles]  # fmt: skip
    if run.reference:
        dots.append(Dots("all labels", INK, "D", run.reference["class_iou"], run.reference["miou"], hollow=True))
    return dots


def _bought(run: Findings, index: DataIndex | None) -> Iterator[dict[str, Any]]:
    """A row per class: its share of the known pixels labelled at the start, of those queried, of the train split."""
    initial = run.bought[run.cycles[0]["cycle"]][:-1]
    queried = sum((run.bought[row["cycle"]][:-1] for row in run.cycles[1:]), 0 * initial)
    data = 0 * initial
    for shard in index.shards("train") if index else ():
        data += shard.class_pixels
    for place, name in enumerate(run.classes):
        parts = (initial[place] / max(initial.sum(), 1), queried[place] / max(queried.sum(), 1))
        share = float(data[place] / data.sum()) if data.any() else None
        yield {"name": name, "initial": float(parts[0]), "queried": float(parts[1]), "data": share}


def _differing(runs: Sequence[Findings]) -> dict[str, list[Any]]:
    """Recipe keys, data and code that are not the same in all runs, with the value of each."""
    flat = []
    for run in runs:
        provenance = flatten(run.provenance)
        flat.append(
            {key: value for key, value in flatten(run.config.model_dump(mode="json")).items()}
            | {key: str(provenance.get(key, "unknown"))[:12] for key in ("data.sha256", "commit")}
        )
    return {key: [one[key] for one in flat] for key in flat[0] if len({one[key] for one in flat}) > 1}


def _over_seeds(runs: Sequence[Findings]) -> list[dict[str, Any]]:
    """Mean and standard deviation (n - 1) of the last mIoU over runs that differ in nothing but the seed."""
    groups: dict[RunConfig, list[float]] = {}
    for run in runs:
        groups.setdefault(run.config.model_copy(update={"seed": 0}), []).append(run.last["miou"])
    return [
        {"name": config.name, "seeds": len(values), "mean": statistics.mean(values), "sd": statistics.stdev(values)}
        for config, values in groups.items()
        if len(values) > 1
    ]


def _command(run: Findings) -> str:
    data = run.provenance.get("data", {}).get("root")
    parts = ["s4al", "run", str(run.layout.recipe), *(["--data", data] if data else [])]
    return shlex.join([*parts, "--out", f"{run.layout.root}-again"])


def _saved(figures: Mapping[str, Figure | None], out: Path) -> list[str]:
    """Write every figure; a picture that an earlier report left and this one does not have is removed."""
    drawn = []
    for name, figure in figures.items():
        if figure is None:
            (out / f"{name}.png").unlink(missing_ok=True)
            continue
        save(figure, out, name, svg=name not in PICTURES)
        drawn.append(name)
    return drawn


def _embedded(out: Path, names: Sequence[str]) -> dict[str, dict[str, Markup | str]]:
    """Charts as SVG elements (safe: drawn by us, names in them are outlines), pictures as data URIs."""
    charts: dict[str, Markup | str] = {
        name: Markup(inline((out / f"{name}.svg").read_text())) for name in names if name not in PICTURES
    }
    pictures: dict[str, Markup | str] = {
        name: "data:image/png;base64," + base64.b64encode((out / f"{name}.png").read_bytes()).decode()
        for name in names
        if name in PICTURES
    }
    return {"charts": charts, "pictures": pictures}


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["clock"] = _clock
    return environment


def _percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}"


def _clock(seconds: float) -> str:
    """Seconds as 0.4 s, 41 s, 3 min 20 s or 5 h 06 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _markdown(runs: Sequence[Findings]) -> str:
    """The cycles of every run and the IoU of every class, for a README or an issue."""
    lines = [
        "| run | cycle | labelled % | of non-void % | queried of pool % | cells | mIoU % | of full % |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in runs:
        for row in run.cycles:
            full = _percent(row["miou"] / run.supervised, 1) if run.supervised else "-"
            shares = (row["labelled_fraction"], row["labelled_fraction_valid"], row["queried_fraction_pool"])
            cells = [_cell(run.label), str(row["cycle"]), *map(_percent, shares), str(row["cells"])]
            lines.append(f"| {' | '.join([*cells, _percent(row['miou']), full])} |")
        if run.supervised:
            lines.append(
                f"| {_cell(run.label)} | all labels | 100.00 | 100.00 | | | {_percent(run.supervised)} | 100.0 |"
            )
    titles = [f"{_cell(run.label)}, cycle {row['cycle']}" for run in runs for row in run.cycles]
    lines += ["", f"| class IoU % | {' | '.join(titles)} |", f"|---|{'--:|' * len(titles)}"]
    for name in runs[0].classes:
        values = [_percent(row["class_iou"][name]) for run in runs for row in run.cycles]
        lines.append(f"| {_cell(name)} | {' | '.join(values)} |")
    drift = [f"- {_cell(run.label)}: {_cell(line)}" for run in runs for line in drift_lines(run.provenance)]
    return "\n".join([*lines, *(["", *drift] if drift else [])]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
