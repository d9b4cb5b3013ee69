"""The answers of a round: taken in, one import at a time, and put together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import partial as bound
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.annotation.answer import Answer
from orchestrator.annotation.given import BLANKS, RULES, Blank, Cell, Given, Rule, by_annotator, cut, rule_of
from orchestrator.annotation.imports import Import, next_folder, read_imports, source_digest, write_import
from orchestrator.annotation.masks import write_masks
from orchestrator.annotation.package import AskedImage, Package
from orchestrator.annotation.report import Report, report_of
from orchestrator.annotation.rounds import Reread, Round
from orchestrator.folder.layout import locked
from querying.base.errors import DamagedError, UserError
from querying.dataset.codecs import UInt8, decode_label
from querying.dataset.label_values import IGNORE

LONGEST_NAME = 200
Say = Callable[[str], None]


def publish(
    run_root: Path,
    package: Package,
    source: Path,
    answers: Iterable[Answer],
    *,
    dry_run: bool = False,
    blank: Blank = "ask",
    rule: Rule = "majority",
    partial: bool = False,
    annotator: str = "",
    left_out: Mapping[str, Any] | None = None,
    reread: Reread | None = None,
    say: Say = print,
) -> Report:
    """Take in what somebody handed in as `source`, of which `answers` are read; nothing is written with `dry_run`.

    All or nothing, and once: a file of which every answer is known adds nothing.  `annotator`: who it was, where the
    format does not say.  `left_out`: what the reader has not taken, looked at after the last answer.  `reread`: reads
    a source again, for an earlier import of which a file is damaged.  UserError where another process works on the
    run, the round is over, or an answer is none of this package.
    """
    if rule not in RULES:
        raise UserError(f"--rule {rule}: there are {', '.join(RULES)}")
    if blank not in BLANKS:
        raise UserError(f"--blank {blank}: there are {', '.join(BLANKS)}")
    one = Round(run_root, package.root.parent, package.cycle)
    with nullcontext() if dry_run else locked(run_root):
        digest = source_digest(source)
        rows = list(cells_of(package, answers, blank, annotator, source))
        before = imports_of(one, package, reread, say)
        known = {row.known_as for given in before for row in given.rows}
        new = {(row.unique_id, row.annotator) for row in rows if row.known_as not in known}
        seen = {(row.unique_id, row.annotator) for row in rows} - new
        same_rule = bool(before) and before[-1].rule == rule
        if new and one.closed:
            raise UserError(
                f"{source}: the answers of cycle {package.cycle} are labels of the run already, so nothing can be added"
                f" or changed ({len(new)} new answers); answer the next cycle"
            )
        cells = by_annotator(chain(given_rows(before), rows))
        told = dict(new=len(new), known=len(seen), partial=partial, left_out=dict(left_out or {}))
        if not new and (same_rule or not rows or one.closed):
            if not dry_run:
                _finish(one, cells, before[-1].rule if before else rule)
            return report_of(package, cells, **told)
        folder = next_folder(one.answers)
        report = report_of(package, cells, **told, imported_as=None if dry_run else folder.name)
        if not dry_run:
            options = {"rule": rule, "blank": blank, "annotator": annotator}
            write_import(folder, source, digest, rows, options, {"source": source.name, **report.to_dict()})
            _finish(one, cells, rule)
        return report


def _finish(one: Round, cells: Mapping[Cell, Mapping[str, Given]], rule: str) -> None:
    """Before any run, answers are masks of the data set that is to be; a kill in between leaves them to the next
    import."""
    if not one.number:
        write_masks(one.project, cells, rule_of(rule))


def cells_of(package: Package, answers: Iterable[Answer], blank: Blank, annotator: str, where: Path) -> Iterator[Given]:
    """The asked cells of every answer.  UserError names one that is none of this package."""
    asked = {one.image_id: one for one in package.images}
    for answer in answers:
        one = asked.get(answer.image_id)
        if one is None:
            raise UserError(f"{where}: image {answer.image_id[:80]!r}: was not asked in cycle {package.cycle}")
        checked = _checked(answer, one, package, annotator, where)
        pre_HW = _pre(package, one) if answer.pre_shown else None
        yield from cut(checked, one, pre_HW, blank, _digest(checked))


def imports_of(one: Round, package: Package | None, reread: Reread | None, say: Say) -> list[Import]:
    """Every import of a round, those that are damaged made again."""
    return read_imports(one.answers, bound(_again, package, reread), say)


def given_rows(imports: Iterable[Import]) -> Iterator[Given]:
    return chain.from_iterable(one.rows for one in imports)


def report_now(one: Round, package: Package, reread: Reread | None = None, say: Say = print) -> Report:
    """What has come back of a round so far."""
    return report_of(package, by_annotator(given_rows(imports_of(one, package, reread, say))))


def _again(package: Package | None, reread: Reread | None, folder: Path, options: Mapping[str, str]) -> None:
    """Read the source of an import again and publish it in the place of the damaged one."""
    source = folder / "source"
    if reread is None or package is None:
        raise DamagedError(f"{folder}: is damaged: `s4al run`, or the next import, makes it again from its source")
    rows = list(cells_of(package, reread(package, source, options), _blank(options), options["annotator"],
                         source))  # fmt: skip
    cells: dict[Cell, dict[str, Given]] = by_annotator(rows)
    copy = folder.with_name(f".tmp-{folder.name}-source")  # the folder itself is set aside before it is made again
    copy.unlink(missing_ok=True)
    copy.hardlink_to(source)
    try:
        report = report_of(package, cells, imported_as=folder.name).to_dict()
        write_import(folder, copy, source_digest(copy), rows, dict(options), {"source": "", **report})
    finally:
        copy.unlink(missing_ok=True)


def _blank(options: Mapping[str, str]) -> Blank:
    return {"void": "void", "background": "background"}.get(options["blank"], "ask")  # type: ignore[return-value]


def _checked(answer: Answer, one: AskedImage, package: Package, annotator: str, where: Path) -> Answer:
    """The answer with a name; whatever a reader has let through that can be no label is refused here."""
    image = answer.image_id
    name = answer.annotator or annotator
    if not name:
        raise UserError(f"{where}: says not who has answered: --as NAME")
    if not name.isprintable() or len(name) > LONGEST_NAME:
        raise UserError(f"{where}: image {image}: annotator {name[:40]!r}: at most {LONGEST_NAME} printable characters")
    for found in (answer.label_HW.shape, answer.painted_HW.shape):
        if found != one.size:
            raise UserError(f"{where}: image {image}: {found} pixels, where {one.size} were asked (height, width)")
    strange = (answer.label_HW >= len(package.classes)) & (answer.label_HW != IGNORE) & answer.painted_HW
    if strange.any():
        raise UserError(f"{where}: image {image}: label {answer.label_HW[strange][0]} is none of the classes")
    seconds = answer.seconds if answer.seconds is not None and 0 <= answer.seconds < 1e7 else None
    return Answer(
        image, name, answer.unique_id, seconds, answer.updated, answer.label_HW, answer.painted_HW, answer.ambiguous,
        answer.pre_shown,
    )  # fmt: skip


def _pre(package: Package, one: AskedImage) -> UInt8 | None:
    path = package.pre(one)
    return None if path is None else decode_label(path.read_bytes(), one.size)


def _digest(answer: Answer) -> str:
    """What an answer says, whenever it was said."""
    said = np.where(answer.painted_HW, answer.label_HW.astype(np.int16), -1)
    return hashlib.sha256(said.tobytes()).hexdigest()[:32]
