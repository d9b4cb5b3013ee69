"""`s4al init`, with its options."""

from pathlib import Path
from typing import Annotated

import typer


def init(
    folder: Annotated[Path, typer.Argument(help="New folder of the project.", metavar="DIR")],
    images: Annotated[Path, typer.Option(help="Folder of your images; only read.")],
    classes: Annotated[
        Path | None,
        typer.Option(help="File of the classes, a name a line; default: classes.txt in or beside the images."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="HxW that people see and the network learns; default: each image's shape, about 240x320."),
    ] = None,
    val: Annotated[
        int | None, typer.Option(min=1, help="Images to watch the training; default 30, of few fewer.")
    ] = None,
    test: Annotated[int | None, typer.Option(min=1, help="Images to measure it; default 60, of few fewer.")] = None,
    first: Annotated[
        int | None, typer.Option(min=1, help="Images to learn from first; default 40, of few fewer.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of these images.")] = 0,
) -> None:
    """A folder of images without masks -> a project that people can begin to label: classes, recipe, and what to label
    first."""
    from benchmarks.commands.people.init import init_command

    counts = {"val": val, "test": test, "first": first}
    init_command(folder, images, classes=classes, size=size, counts=counts, seed=seed)
