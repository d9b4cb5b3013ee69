"""What a sweep has found: a table, three figures, MLflow, and the best trial's model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures.style import save, styled
from benchmarks.figures.sweep_figures import figures
from benchmarks.report.parts import in_words
from benchmarks.report.printed import print_files, print_next, print_tables
from benchmarks.report.sweep_table import LOGGED, as_csv, as_markdown
from benchmarks.results.sweep import best_so_far
from orchestrator.studies.sweep import DRAWN, FINISHED, Sample, SweepRecord, best, group_of
from orchestrator.tracking.grids import log_best, log_trials
from orchestrator.tracking.mirror import copy_now
from orchestrator.tracking.store import STATUS, tolerated
from orchestrator.tracking.uri import absolute, chosen_uri
from querying.base.errors import InfrastructureError, Interrupted, UserError
from querying.base.files import check_folder, write_text
from querying.base.leftovers import writing_into

FIGURES = ("progress", "importance", "parallel")


def sweep_again(root: Path, out: Path | None, tracking: str | None) -> None:
    """The table and figures of a sweep's folder, made anew in `out` or there (`s4al compare`)."""
    uri = absolute(chosen_uri(tracking, root))
    check_folder(out or root)
    record = SweepRecord(root)
    if not record.samples:
        raise UserError(f"{root}: no trial was begun")
    conclude(record, record.settings(), uri, out)


def end_sweep(record: SweepRecord, settings: Mapping[str, Any], uri: str) -> None:
    """What came out; an error where nothing did."""
    conclude(record, settings, uri)
    out, objective, mode = record.root, settings["objective"], settings["mode"]
    if not any(one.state == FINISHED for one in record.samples):
        logs = out / "trials"
        errors = (
            f"trial {one.number}: {one.error} ({logs / f'{one.number:04d}'}.log)" for one in record.samples if one.error
        )
        why = next(errors, "all were stopped early: more --samples, or --scheduler fifo")
        raise InfrastructureError(f"{out}: no trial finished; {why}")
    if not best(record.samples, objective, mode):  # of a class that is nowhere on val
        raise UserError(f"--objective {objective}: no finished trial of {out} has it")


def conclude(record: SweepRecord, settings: Mapping[str, Any], uri: str, out: Path | None = None) -> None:
    """Write sweep.md, sweep.csv and the figures into `out` or the sweep's folder, print the table, and log all with the
    best trial's model."""
    out = out or record.root
    objective, mode, samples = settings["objective"], settings["mode"], record.samples
    text = as_markdown(samples, settings)
    with styled(), writing_into(out, print):
        write_text(out / "sweep.md", text)
        write_text(out / "sweep.csv", as_csv(samples, objective))
        for name, figure in figures(samples, settings).items():
            save(figure, out, name, svg=False)
    print_tables(text)
    pictures = [path for name in FIGURES if (path := out / f"{name}.png").exists()]
    print_files([out / "sweep.md", out / "sweep.csv", *pictures])
    winner = best(samples, objective, mode)
    if winner:
        folder = record.folder(winner.number)
        print(f"best: trial {winner.number}, {folder}; as any run it can be used, and made again:")
        print_next(
            ["s4al", "predict", folder, "IMAGES", "--out", out / "predictions"],
            ["s4al", "export", folder, out / "best.onnx"],
            ["s4al", "run", folder / "recipe.yaml", "--data", "DATA", "--out", "NEW"],
        )
    if uri == "none":
        return
    with tolerated(uri, f"{record.root} is complete without"):
        _log(record, settings, uri, out)
    if winner and (model := _exported(record.folder(winner.number), out / "best.onnx")):
        with tolerated(uri, f"the best model is {model}"):
            log_best(uri, record.folder(winner.number), model, f"{settings['recipe']['name']}.sweep")


def _log(record: SweepRecord, settings: Mapping[str, Any], uri: str, out: Path) -> None:
    objective, mode, samples = settings["objective"], settings["mode"], record.samples
    ended = [one for one in samples if one.state != DRAWN]  # `s4al compare` may come while the others are on their way
    for one in ended:  # a trial that was stopped within seconds has not reached MLflow
        if (record.folder(one.number) / "recipe.yaml").exists():
            copy_now(record.folder(one.number), uri, group_of(record.root, settings, one.number), STATUS[one.state])
    pictures = [path for name in FIGURES if (path := out / f"{name}.png").exists()]
    files = [*pictures, out / "sweep.md", out / "sweep.csv"]
    trials = {record.folder(one.number): _numbers(one, objective) for one in ended}
    line = {number: value for number, value in enumerate(best_so_far(samples, objective, mode)) if value is not None}
    status = "FINISHED" if any(one.state == FINISHED for one in ended) else "FAILED"
    log_trials(uri, trials, files, {f"best/{objective}": line}, status if len(ended) == len(samples) else None)


def _exported(run: Path, file: Path) -> Path | None:
    """The last model of a run as ONNX; where that fails, a line says so and None is returned: the sweep is done."""
    from benchmarks.deploy.onnx_file import export_onnx
    from benchmarks.deploy.predict import find_checkpoint

    try:
        export_onnx(find_checkpoint(run, None), file)
    except Interrupted:
        raise
    except Exception as error:  # another format of a model that is there is not worth the sweep's end
        print(f"no {file.name}: {in_words(error)}; the sweep is finished without it;"
              f" later: {shlex.join(['s4al', 'export', str(run), str(file)])}")  # fmt: skip
        return None
    return file


def _numbers(sample: Sample, objective: str) -> dict[str, dict[int, float]]:
    """Name -> step -> value, for MLflow."""
    found: dict[str, dict[int, float]] = {"sweep/val_miou": {int(row["step"]): row["miou"] for row in sample.rows}}
    end = int(sample.rows[-1]["step"]) if sample.rows else 0
    for name in dict.fromkeys((objective, *LOGGED)):
        if name in sample.outcome:
            found[f"sweep/{name}"] = {end: sample.outcome[name]}
    return found
