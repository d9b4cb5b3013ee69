"""The report of one run, or of several beside each other: figures, a Markdown table, one self-contained HTML page."""

from __future__ import annotations

import base64
import shlex
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from benchmarks.figures.run_figures import (
    Dots,
    draw_class_iou,
    draw_confusion,
    draw_curve,
    draw_stage_times,
    draw_training,
)
from benchmarks.figures.style import INK, MARKERS, SERIES, cycle_look, inline, save, styled
from benchmarks.report.diagnosis import diagnosis
from benchmarks.report.parts import Parts
from benchmarks.report.run_tables import as_markdown, percent
from benchmarks.report.terminal_tables import about_intervals, interval_of
from benchmarks.results.findings import Findings, find_data, load_findings
from benchmarks.results.people import answered
from orchestrator.annotation.report import Report
from orchestrator.folder.products import REPORT_NOTE
from orchestrator.recipe.config import RunConfig, flatten
from orchestrator.recipe.provenance import drift_lines
from orchestrator.run.preflight import few_images
from querying.base.files import check_folder, sha256, write_json, write_text
from querying.base.leftovers import writing_into
from querying.dataset.shards import DataIndex

TEMPLATE = "page.html"
KEYS = (
    "cycles", "budget", "stop_at", "initial.fraction", "initial.images", "model.backbone", "model.output_stride",
    "model.weights", "train.method", "train.pool_labels", "train.start", "train.labelled_draw", "train.epochs",
    "train.last_epochs", "train.steps_per_epoch", "train.batch_size", "train.batch_size_unlabelled", "train.lr",
    "train.precision", "train.workers", "teacher.epochs", "teacher.steps_per_epoch", "teacher.batch_size",
    "reco.weight", "query.acquisition", "query.unit", "query.select", "query.region_size", "query.per_image",
    "query.images", "query.threshold", "query.class_share", "query.scales", "augment.sized_for",
    "query.exclude_border",
)  # fmt: skip
"""What a reader asks about first; the whole recipe stands below them."""
PICTURES = ("final", "queried", "pseudo")


def write_report(runs: Sequence[Path], out: Path, index: DataIndex | None = None) -> Path:
    """Write report.html, report.md and every figure (SVG and PNG) into `out`; returns the path of report.html.

    Reads run folders, and for the overlays the data set: `index`, or the one that recipe.yaml names.  UserError names
    a folder that is not a run with a finished cycle, or runs that can not be compared.  A figure or table that fails is
    named, on the page and in the log, and left out; where it failed because the run is not what was written,
    DamagedError says so when all else is there.
    """
    found = load_findings(runs)
    check_folder(out)
    if len(runs) == 1 and out.resolve() == (runs[0] / "report").resolve():
        (runs[0] / REPORT_NOTE).unlink(missing_ok=True)  # a killed report is none that was altered
    parts = Parts()
    with styled(), writing_into(out, print):
        context = _one(found[0], out, index, parts) if len(found) == 1 else _several(found, out, parts)
        write_text(out / "report.md", as_markdown(found, parts.failed))
        page = _environment().get_template(TEMPLATE).render(runs=found, failed=parts.failed, **context)
        write_text(out / "report.html", page)
    if len(runs) == 1 and out.resolve() == (runs[0] / "report").resolve():
        files = [path for path in sorted(out.iterdir()) if path.is_file() and not path.name.startswith(".")]
        write_json(runs[0] / REPORT_NOTE, {path.name: sha256(path) for path in files})
    parts.raise_damage()
    return out / "report.html"


def _one(run: Findings, out: Path, index: DataIndex | None, parts: Parts) -> dict[str, Any]:
    missing = ""
    if index is None:
        index, missing = find_data(run)
    reference = parts.make("reference", lambda: run.reference, None)
    absent: frozenset[str] = parts.make("absent classes", lambda: run.absent, frozenset())
    figures: dict[str, Callable[[], Figure | None]] = {
        "curve": lambda: draw_curve([run]),
        "class_iou": lambda: draw_class_iou(
            run.classes, _by_cycle(run, reference), absent, run.summary["evaluated_on"]
        ),
        "confusion": lambda: draw_confusion(run),
        "training": lambda: draw_training(run) if run.epochs else None,
        "stage_times": lambda: draw_stage_times(run),
    }
    coverage: dict[int, float | None] = {}
    if index:
        from benchmarks.figures.final_pictures import draw_final  # these load torch
        from benchmarks.figures.overlays import coverage_of, draw_pseudo, draw_queried

        pictures = {"final": draw_final, "queried": draw_queried, "pseudo": draw_pseudo}
        figures |= {name: partial(draw, run, index) for name, draw in pictures.items()}
        coverage = parts.make(
            "coverage", lambda: {row["cycle"]: coverage_of(run, row["cycle"]) for row in run.cycles}, {}
        )
    shares: list[dict[str, Any]] = parts.make("class shares of what was bought", lambda: list(_bought(run, index)), [])
    rates: dict[int, dict[str, float]] = parts.make("rates", lambda: run.rates(index), {})
    people: list[Report] = parts.make("answers of people", lambda: answered(run.layout.root), [])
    settings = flatten(run.config.model_dump(mode="json"))
    return {
        **_drawn(figures, out, parts),
        "missing": missing,
        "few": few_images(index, run.summary["evaluated_on"]) if index else "",
        "intervals": about_intervals(run.cycles),
        "settings": {key: settings[key] for key in KEYS if settings[key] != "null"},
        "recipe": run.config.to_yaml(),
        "reference": reference,
        "absent": absent,
        "bought": shares,
        "rates": rates,
        **diagnosis(run, index, parts),
        "coverage": coverage,
        "people": people,
        "masked": index is not None and _masked(index),
        "drift": drift_lines(run.provenance),
        "command": _command(run),
        "differing": {},
        "groups": [],
    }


def _several(runs: Sequence[Findings], out: Path, parts: Parts) -> dict[str, Any]:
    series = [
        Dots(run.label, SERIES[place % len(SERIES)], MARKERS[place % len(MARKERS)], run.last["class_iou"],
             run.last["miou"])
        for place, run in enumerate(runs)
    ]  # fmt: skip
    split = runs[0].summary["evaluated_on"]
    absent: frozenset[str] = parts.make("absent classes", lambda: runs[0].absent, frozenset())
    figures: dict[str, Callable[[], Figure | None]] = {
        "curve": lambda: draw_curve(runs),
        "class_iou": lambda: draw_class_iou(runs[0].classes, series, absent, split),
    }
    return {
        **_drawn(figures, out, parts),
        "missing": "",
        "few": "",
        "intervals": about_intervals([run.last for run in runs]),
        "absent": absent,
        "reference": None,
        "differing": _differing(runs),
        "groups": _over_seeds(runs),
        "command": "\n".join(_command(run) for run in runs),
    }


def _by_cycle(run: Findings, reference: Mapping[str, Any] | None) -> list[Dots]:
    dots = [Dots(f"cycle {row['cycle']}", *cycle_look(row["cycle"]), row["class_iou"], row["miou"])
            for row in run.cycles]  # fmt: skip
    if reference:
        dots.append(Dots("all labels", INK, "D", reference["class_iou"], reference["miou"], hollow=True))
    return dots


def _masked(index: DataIndex) -> bool:
    """Is the truth of every train image known?"""
    return all(shard.masked == shard.rows for shard in index.shards("train"))


def _bought(run: Findings, index: DataIndex | None) -> Iterator[dict[str, Any]]:
    """A row per class: its share of the known pixels labelled at the start, of those queried, of the train split where
    all of its images have masks."""
    initial = run.bought[run.cycles[0]["cycle"]][:-1]
    queried = sum((run.bought[row["cycle"]][:-1] for row in run.cycles[1:]), 0 * initial)
    data = 0 * initial
    for shard in index.shards("train") if index and _masked(index) else ():
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
            flatten(run.config.model_dump(mode="json"))
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


def _drawn(
    figures: Mapping[str, Callable[[], Figure | None]], out: Path, parts: Parts
) -> dict[str, dict[str, Markup | str]]:
    """Write every figure, and return what stands of it in the page: charts as SVG elements (safe: drawn by us, names in
    them are outlines), pictures as data URIs.  Files that an earlier report left and this one does not have go."""
    charts: dict[str, Markup | str] = {}
    pictures: dict[str, Markup | str] = {}
    for name, draw in figures.items():
        picture = name in PICTURES

        def element(name: str = name, draw: Callable[[], Figure | None] = draw, picture: bool = picture) -> Any:
            figure = draw()
            if figure is None:
                return None
            save(figure, out, name, svg=not picture)
            if picture:
                return "data:image/png;base64," + base64.b64encode((out / f"{name}.png").read_bytes()).decode()
            return Markup(inline((out / f"{name}.svg").read_text()))

        found = parts.make(name, element, None)
        if found is None:
            for kind in ("png", "svg"):
                (out / f"{name}.{kind}").unlink(missing_ok=True)
        else:
            (pictures if picture else charts)[name] = found
    return {"charts": charts, "pictures": pictures}


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["clock"] = _clock
    environment.filters["interval"] = interval_of
    return environment


def _clock(seconds: float) -> str:
    """Seconds as 0.4 s, 41 s, 3 min 20 s or 5 h 06 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
