"""Choices and options that several commands share."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from querying.base.storage.place import place


class Kind(StrEnum):
    camvid = "camvid"
    cityscapes = "cityscapes"
    folder = "folder"
    toy = "toy"


class BackendName(StrEnum):
    local = "local"
    ray = "ray"


class Scheduler(StrEnum):
    asha = "asha"
    fifo = "fifo"


class Search(StrEnum):
    random = "random"
    optuna = "optuna"
    grid = "grid"


class Mode(StrEnum):
    max = "max"
    min = "min"


def _recipes(incomplete: str) -> list[str]:
    from benchmarks.recipes.catalogue import RECIPES

    return [name for name in RECIPES if name.startswith(incomplete)]


def _keys(incomplete: str) -> list[str]:
    from orchestrator.recipe.config import RunConfig, flatten

    keys = flatten(RunConfig(name="any").model_dump(mode="json"))
    return [f"{key}=" for key in keys if key.startswith(incomplete)]


RecipeArgument = Annotated[
    str,
    typer.Argument(help="A recipe's name or a YAML file (see `s4al recipes`, `s4al show`).", autocompletion=_recipes),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Keys to change, as train.epochs=40; `s4al show RECIPE` lists them.",
        metavar="[KEY=VALUE]...",
        autocompletion=_keys,
    ),
]
PLACE = "PATH|URL"
RunArgument = Annotated[str, typer.Argument(help="Run folder, or its address in a bucket.", metavar="RUN")]


def folder_of(text: str) -> Path:
    """A run, grid or sweep as a folder of this machine: of one in a bucket a copy of what is published."""
    where = place(text)
    if isinstance(where, Path):
        return where
    from orchestrator.remote.checkout import view

    return view(where)


def beside(text: str, name: str, out: Path | None) -> Path | None:
    """Where a command writes that would write into a run, or beside it: of one in a bucket here."""
    where = place(text)
    return out if out or isinstance(where, Path) else Path(f"{where.key.rpartition('/')[2]}.{name}")


@contextmanager
def worked_in(out: str | None, tracking: str | None) -> Iterator[tuple[Path | None, str | None]]:
    """The folder in which a command works, and where it tracks: of a place in a bucket this machine's copy, and not
    a file beside that."""
    where = place(out)
    if where is None or isinstance(where, Path):
        yield where, tracking
        return
    from orchestrator.process.interrupt import handled
    from orchestrator.remote.checkout import checked_out
    from orchestrator.tracking.uri import VARIABLE, default_uri

    if not (tracking or os.environ.get(VARIABLE)):
        tracking = default_uri(Path("runs") / "run")
    with handled(), checked_out(where) as folder:
        yield folder, tracking


DataOption = Annotated[str | None, typer.Option(help="Ingested data set; toy recipes generate theirs.", metavar=PLACE)]
BackendOption = Annotated[BackendName, typer.Option(help="Ray, or everything in this process.")]
AddressOption = Annotated[str | None, typer.Option(help="Ray cluster HOST:PORT; default: a local one.")]
QuickOption = Annotated[
    bool,
    typer.Option("--quick", help="At most 2 epochs of 20 steps and one query: does it work?  Figures mean nothing."),
]
