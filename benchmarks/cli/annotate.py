"""The commands `s4al annotate export` and `s4al annotate import`.  The page on them is docs/use/annotate_formats.md."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.cli.local_paths import Commands


class FormatName(StrEnum):
    labelstudio = "labelstudio"
    cvat = "cvat"
    folder = "folder"


class TagName(StrEnum):
    brush = "brush"
    bitmask = "bitmask"


class RuleName(StrEnum):
    majority = "majority"
    latest = "latest"
    first = "first"


class BlankName(StrEnum):
    ask = "ask"
    void = "void"
    background = "background"


ProjectArgument = Annotated[
    Path, typer.Argument(help="Run that waits for labels, or folder of `s4al init`.", metavar="RUN_OR_DIR")
]
annotate = typer.Typer(
    cls=Commands, no_args_is_help=True, help="What people are asked, to an annotation tool and back."
)


@annotate.command("export")
def export_(
    project: ProjectArgument,
    dst: Annotated[Path, typer.Argument(help="New folder.")],
    format_: Annotated[
        FormatName, typer.Option("--format", help="Label Studio, CVAT, or plain images and masks.")
    ] = FormatName.labelstudio,
    tag: Annotated[
        TagName, typer.Option(help="labelstudio: kind of mask; bitmask is smaller, and has open defects there.")
    ] = TagName.brush,
    annotators: Annotated[
        int, typer.Option(min=1, max=100, help="People; each has a folder DST/1, DST/2, ... of the images.")
    ] = 1,
    shared: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the images that all of them get, to compare people.")
    ] = 0.0,
    pre: Annotated[
        float, typer.Option(min=0, max=1, help="Part of the images that come with what the model takes them for.")
    ] = 1.0,
    no_pre: Annotated[bool, typer.Option("--no-pre", help="The same as --pre 0.")] = False,
) -> None:
    """What a run asks -> a folder for an annotation tool, with a README.txt; the same bytes each time."""
    from benchmarks.commands.people.annotate import export_command

    export_command(project, dst, format_.value, tag.value, annotators, shared, 0.0 if no_pre else pre)


@annotate.command("import")
def import_(
    project: ProjectArgument,
    file: Annotated[
        Path, typer.Argument(help="Label Studio's JSON, CVAT's 'Segmentation mask 1.1', folder or zip with masks/.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report; writes nothing.")] = False,
    as_: Annotated[str, typer.Option("--as", help="Who answered, where the file does not say.", metavar="NAME")] = "",
    rule: Annotated[RuleName, typer.Option(help="What counts where several have answered.")] = RuleName.majority,
    blank: Annotated[
        BlankName,
        typer.Option(help="What nobody painted: ask again, or not labelled (void); CVAT: the class background."),
    ] = BlankName.ask,
    partial: Annotated[bool, typer.Option("--partial", help="Status 0 although something is missing.")] = False,
) -> None:
    """Answers -> the run, all of a file or nothing; the same file again adds nothing.  Status 3: some are missing."""
    from benchmarks.commands.people.annotate import import_command

    raise typer.Exit(import_command(project, file, dry_run, as_, rule.value, blank.value, partial))
