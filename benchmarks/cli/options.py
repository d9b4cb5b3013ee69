"""Choices and options that several commands share."""

from enum import StrEnum
from typing import Annotated

import typer


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
DataOption = Annotated[str | None, typer.Option(help="Ingested data set; toy recipes generate theirs.", metavar=PLACE)]
BackendOption = Annotated[BackendName, typer.Option(help="Ray, or everything in this process.")]
AddressOption = Annotated[str | None, typer.Option(help="Ray cluster HOST:PORT; default: a local one.")]
QuickOption = Annotated[
    bool,
    typer.Option("--quick", help="At most 2 epochs of 20 steps and one query: does it work?  Figures mean nothing."),
]
