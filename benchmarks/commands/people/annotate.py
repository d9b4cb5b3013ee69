"""`s4al annotate export` and `s4al annotate import`: a round's package out, its answers in."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import cast

from benchmarks.commands.people.project_files import steps
from benchmarks.formats.answers_in import read_answers, reread
from benchmarks.formats.export import Format, export
from benchmarks.formats.labelstudio_out import Tag
from benchmarks.report.printed import print_next
from orchestrator.annotation.answers import publish
from orchestrator.annotation.given import Blank, Rule
from orchestrator.annotation.package import read_package
from orchestrator.annotation.rounds import current_round, is_project
from orchestrator.process.interrupt import handled
from querying.base.errors import UserError


def export_command(
    project: Path, dst: Path, format_: str, tag: str, annotators: int, shared: float, pre: float
) -> None:
    if format_ != "labelstudio" and tag != "brush":
        raise UserError(f"--tag {tag}: only with --format labelstudio, not with {format_}")
    if shared and annotators == 1:
        raise UserError(f"--shared {shared}: what do they share? --annotators says how many people there are")
    package = read_package(current_round(project).package)
    with handled():
        lists = export(
            package, dst, cast(Format, format_), tag=cast(Tag, tag), annotators=annotators, shared=shared, pre=pre
        )
    regions = sum(len(one.boxes) for one in package.images)
    print(f"{dst}: {regions} regions of {len(package.images)} images, cycle {package.cycle}, for {format_}")
    if annotators > 1:
        for place, images in enumerate(lists, 1):
            print(f"{dst / str(place)}: {len(images)} images")
    print(f"what to do: {dst / 'README.txt' if annotators == 1 else dst / '1' / 'README.txt'}")
    print_next(["s4al", "annotate", "import", project, "FILE"])


def import_command(
    project: Path, file: Path, dry_run: bool, annotator: str, rule: str, blank: str, partial: bool
) -> int:
    """The exit status: 0 where nothing is missing, else 3."""
    package = read_package(current_round(project).package)
    with handled(), read_answers(package, file, blank=blank) as answers:
        if blank == "background" and answers.kind != "cvat":
            raise UserError(f"{file}: --blank background is for CVAT's masks alone; --blank void takes it for no class")
        report = publish(
            project, package, answers.source, answers.found, dry_run=dry_run, blank=cast(Blank, blank),
            rule=cast(Rule, rule), partial=partial, annotator=annotator, left_out=answers.dropped, reread=reread,
        )  # fmt: skip
    print(report)
    if report.complete and not dry_run:
        print_after(project)
    return report.exit_status


def print_after(project: Path) -> None:
    """How it goes on when all is answered."""
    if is_project(project):
        print("\n  ".join(["next:", *steps(shlex.quote(str(project)))[2:]]))
    else:
        print("next: the same `s4al run` again, which goes on")
