"""The command line `s4al`.  Parses and delegates; heavy modules are imported by the command that needs them."""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

import benchmarks.import_path  # noqa: F401  # before anything else of the project
from benchmarks.cli.annotate import annotate
from benchmarks.cli.failures import failure
from benchmarks.cli.ingest import ingest
from benchmarks.cli.local_paths import Commands
from benchmarks.cli.options import (
    PLACE,
    AddressOption,
    BackendName,
    BackendOption,
    DataOption,
    OverridesArgument,
    QuickOption,
    RecipeArgument,
    RunArgument,
    beside,
    folder_of,
    worked_in,
)
from benchmarks.cli.project import init
from benchmarks.cli.studies import compare, headroom, query, replay, splits, sweep, trial
from orchestrator.process.guard import OneLine, guarded
from orchestrator.process.surroundings import check_working_folder, name_the_nameless
from querying.base.errors import Interrupted, UserError
from querying.base.redaction import one_line, redacted
from querying.base.storage.place import place

GROUPS = {
    "toy": "Generated scenes, without any data of yours",
    "custom": "Your own images (`s4al ingest folder`)",
    "camvid": "CamVid",
    "cityscapes": "Cityscapes",
}
"""What the first word of a recipe's name says."""

app = typer.Typer(
    name="s4al",
    cls=Commands,
    help="A good segmentation model from few labels: active learning, self-training and regional contrast on Ray.  "
    "Exit status: 0, 2 your mistake, 3 people have to answer, 4 damaged data, 5 machine or network, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"s4al {version('s4al-plus')}")
        except PackageNotFoundError:  # an uploaded source tree
            print("s4al, not installed")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; anywhere on the line.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """`main` takes --debug off the line, wherever it stands; it is declared here for --help."""


app.command()(init)
app.add_typer(annotate, name="annotate")
app.command()(ingest)


@app.command()
def run(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    data: DataOption = None,
    out: Annotated[str | None, typer.Option(help="Run folder; default runs/RECIPE.", metavar=PLACE)] = None,
    backend: BackendOption = BackendName.ray,
    address: AddressOption = None,
    tracking: Annotated[
        str | None,
        typer.Option(
            help="MLflow URI, or none; default MLFLOW_TRACKING_URI (passwords belong there) or SQLite beside the run."
        ),
    ] = None,
    quick: QuickOption = False,
    allow_drift: Annotated[
        bool,
        typer.Option(
            "--allow-drift", help="Continue with other workers, threads, batch sizes or precision, and note it."
        ),
    ] = False,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="annotator=human: go on; what is not answered goes back to the pool, unpaid."),
    ] = False,
) -> None:
    """A whole benchmark: train, score, query, label, retrain, report.  The same command again resumes."""
    from benchmarks.commands.run import run_command

    with worked_in(out, tracking) as (folder, uri):
        run_command(
            recipe, overrides or [], place(data), folder, backend.value, address, uri, allow_drift, quick, partial
        )  # fmt: skip


for _command in (splits, sweep, compare, replay, query, headroom):
    app.command()(_command)
app.command(hidden=True)(trial)


@app.command()
def recipes() -> None:
    """List the recipes, one a line: name, then what to expect; on a terminal below the data that they are for."""
    from benchmarks.recipes.catalogue import RECIPES

    group = ""
    for name, recipe in RECIPES.items():
        if sys.stdout.isatty() and name.partition("_")[0] != group:
            group = name.partition("_")[0]
            print(f"{os.linesep * (name != next(iter(RECIPES)))}{GROUPS.get(group, group)}:")
        print(f"{name:32} {(recipe.__doc__ or '').splitlines()[0]}")


@app.command()
def show(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="Ingested data set: also say what a run on it will take, from a few steps made here.", metavar=PLACE
        ),
    ] = None,
) -> None:
    """Print the resolved configuration, with what its keys mean, as YAML that `run` accepts."""
    from benchmarks.commands.show import show_recipe

    show_recipe(recipe, overrides or [], place(data))


@app.command()
def doctor(data: Annotated[str, typer.Argument(help="Ingested data set.", metavar=PLACE)]) -> None:
    """Check environment and data before anything is spent, and say what to start with."""
    from benchmarks.datasets.doctor import doctor_command

    doctor_command(place(data))


@app.command()
def verify(
    path: Annotated[str, typer.Argument(help="Run folder or ingested data set.", metavar="RUN_OR_DATA")],
    data: Annotated[
        str | None, typer.Option(help="Where the data set of a run is now, if it was moved.", metavar=PLACE)
    ] = None,
) -> None:
    """Audit every byte of a run and its data, or of a data set; exit status 4 names what is not what was written."""
    from benchmarks.commands.verify import verify_command

    verify_command(place(path), place(data))


@app.command()
def status(
    run: Annotated[str, typer.Argument(help="Folder of a run, of `splits` or of a sweep, or its address in a bucket.")],
) -> None:
    """Where it stands: running or stopped, by which process, its step, and what comes next."""
    from benchmarks.commands.status import status_command

    status_command(place(run))


@app.command()
def report(
    runs: Annotated[list[str], typer.Argument(help="Run folders, or their addresses in a bucket.", metavar="RUN...")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report; default RUN/report for one run.")] = None,
) -> None:
    """Curves, tables, overlays and one self-contained report.html."""
    from benchmarks.report.page import write_report

    if out is None and len(runs) > 1:
        raise UserError("a report on several runs needs --out DIR")
    folders = [folder_of(one) for one in runs]
    print(write_report(folders, beside(runs[0], "report", out) or folders[0] / "report"))


@app.command()
def predict(
    run: RunArgument,
    images: Annotated[Path, typer.Argument(help="An image, or a folder of images.")],
    out: Annotated[Path, typer.Option(help="Folder for masks (class ids) and coloured overlays.")],
    cycle: Annotated[int | None, typer.Option(min=0, help="Cycle whose model is used; default: the last.")] = None,
    legend: Annotated[bool, typer.Option("--legend", help="Names and shares of the classes below overlays.")] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Also NAME_confidence.png: grey, 255 times the class's probability.")
    ] = False,
    bits: Annotated[
        int | None, typer.Option(min=9, max=16, help="Of images of 16 bits: how many of them are used.")
    ] = None,
) -> None:
    """Segment images with the model that came out; those that can not be read are named, and the others are done."""
    from benchmarks.deploy.predict import predict_command

    predict_command(folder_of(run), images, out, cycle, legend, confidence, bits)


@app.command()
def export(
    run: RunArgument,
    file: Annotated[Path, typer.Argument(help="FILE.onnx")],
    cycle: Annotated[int | None, typer.Option(min=0, help="Cycle whose model is exported; default: the last.")] = None,
) -> None:
    """Write the model as ONNX: normalised RGB float32 NCHW in, full-resolution logits out; checked against PyTorch."""
    from benchmarks.deploy.predict import export_command

    export_command(folder_of(run), file, cycle)


def main() -> None:
    """Entry point: every failure is one line on stderr and an exit status of the contract."""
    warnings.filterwarnings("ignore")
    for stream in (sys.stdout, sys.stderr):  # a path need not be UTF-8
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    words = [word for word in sys.argv[1:] if word != "--debug"]
    helping = not words or "--help" in words  # our own text, with colours
    with nullcontext() if helping else guarded():
        _main(words)


def _main(words: list[str]) -> None:
    log = logging.StreamHandler(sys.stderr)
    log.setFormatter(OneLine())
    logging.basicConfig(level=logging.WARNING, handlers=[log])
    try:
        check_working_folder()
        name_the_nameless()
        status = app(args=words, standalone_mode=False)
        if status == Interrupted.exit_status:  # typer has turned the KeyboardInterrupt into this
            print("interrupted: the same command continues where it stopped", file=sys.stderr)
        sys.exit(status if isinstance(status, int) else 0)
    except Exception as error:
        if len(words) < len(sys.argv) - 1:
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
            sys.exit(1)
        line, status = failure(error)
        if line:
            print(f"s4al: {one_line(line)}", file=sys.stderr)
        sys.exit(status)
