"""Writes tables, numbers and figures of README.md and docs/ from records: `python docs/make_results.py`.

`<!-- results: RECORD/KIND -->` ... `<!-- end -->` holds a table, `RECORD/KIND/figure` a picture that is drawn anew, and
`RECORD/KIND/NAME` one number within a sentence.  RECORD is a folder of docs/results/records (`python -m
benchmarks.results.records` makes one of finished runs), KIND one of KINDS below.
"""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.figures.chain_figure import draw_chain
from benchmarks.figures.grid_figure import draw_grid
from benchmarks.figures.style import save, styled
from benchmarks.figures.systems_figures import draw_curves
from benchmarks.performance.result import as_markdown as bench_markdown, shown
from benchmarks.report import experiment_tables
from benchmarks.report.chain_table import chain_markdown, chain_numbers
from benchmarks.report.grid_table import class_markdown, class_means, grid_markdown
from benchmarks.report.lever_table import lever_table
from benchmarks.report.plain_tables import markdown_heads, markdown_row
from benchmarks.report.run_tables import as_markdown as cycles_markdown
from benchmarks.report.systems_table import as_markdown as systems_markdown, numbers
from benchmarks.report.terminal_tables import outcome_text
from benchmarks.results.chain import difference, load_chain
from benchmarks.results.curves import Paired, paired
from benchmarks.results.findings import load_findings
from benchmarks.results.grid import controls, load, table
from benchmarks.results.systems import load_systems
from querying.base.errors import UserError
from querying.base.files import read_json, write_text

ROOT = Path(__file__).parents[1]
RECORDS = Path("docs/results/records")
IMAGES = Path("docs/images")
MARK = re.compile(r"(<!-- results: (\S+) -->)(.*?)(<!-- end -->)", re.DOTALL)
FIGURE = "figure"
BASE = "mobilenetv2_100"
"""The encoder that others are compared with."""


@dataclass(frozen=True)
class Made:
    """What one kind makes of a record."""

    text: str
    numbers: Mapping[str, str] = field(default_factory=dict)
    draw: Callable[[], Figure] | None = None
    caption: str = ""


def chain(record: Path) -> Made:
    found = load_chain(record)
    caption = "mIoU of every row of the chain, ours and the paper's"
    return Made(chain_markdown(found), chain_numbers(found), lambda: draw_chain(found), caption)


def encoders(record: Path) -> Made:
    """Runs of one recipe with several encoders, by share of labels; differences are to `BASE`, seed by seed."""
    mious: dict[tuple[str, str], dict[int, float]] = {}
    for path in _runs(record):
        [run] = load_findings([path])
        share = f"{100 * run.config.initial.fraction:.0f} %" if run.config.initial.fraction else "?"
        mious.setdefault((share, run.config.model.backbone), {})[run.config.seed] = 100 * run.last["miou"]
    lines, numbers = (
        markdown_heads(["labels", "encoder", "mIoU", "seeds", f"difference to {BASE}", "found with 80 %"]),
        {},
    )
    for (share, encoder), seeds in sorted(mious.items(), key=lambda item: (len(item[0][0]), item[0], min(item[1]))):
        average = paired(list(seeds.values()))
        of_share = {name: found for (of, name), found in mious.items() if of == share}
        found = difference(of_share, encoder, BASE) if encoder != BASE and BASE in of_share else None
        assert average, "an encoder has a run"
        numbers[f"{share.split()[0]}/{encoder}"] = f"{average.mean:.2f}"
        if found:
            numbers[f"{share.split()[0]}/{encoder}/difference"] = f"{found.found.mean:+z.2f}"
        lines.append(
            markdown_row(
                [share, encoder, _interval(average), str(average.seeds), _interval(found.found, "+") if found else "",
                 f"{found.findable:.1f}" if found and found.findable else ""]
            )
        )  # fmt: skip
    return Made("\n".join(lines) + "\n", numbers)


def _interval(found: Paired, sign: str = "") -> str:
    return f"{found.mean:{sign}z.2f}" + (f" ± {found.half_interval:.2f}" if found.half_interval else "")


def grid(record: Path) -> Made:
    results = load(record)
    methods = [one.method for one in results]
    against = min(methods, key=lambda method: method != "supervised")
    rows = table(results, against)
    named = {f"{row.method}/{row.split.replace('/', '_')}": f"{row.miou:.2f}" for row in rows}
    named |= {
        f"{row.method}/{row.split.replace('/', '_')}/difference": f"{row.difference:+z.2f}"
        for row in rows
        if row.difference is not None
    }
    found = controls(results).items()
    named |= {f"control/{split.replace('/', '_')}": f"{one.gain:+z.2f}" for split, one in found if one}
    return Made(grid_markdown(rows, results, against), named, lambda: draw_grid(rows), "mIoU by share of labels")


def grid_classes(record: Path) -> Made:
    """IoU by class of a grid of one split."""
    results = load(record)
    [split] = {one.split for one in results}
    means = class_means(results, split)
    numbers = {f"{method}/{name}": f"{iou:.1f}" for name, ious in means.items() for method, iou in ious.items() if iou}
    return Made(class_markdown(results, split, "supervised"), numbers)


def levers(record: Path) -> Made:
    return Made(*lever_table(_runs(record), ("pole", "sign", "fence", "pedestrian", "bicyclist")))


def systems(record: Path) -> Made:
    found = load_systems(_runs(record))
    return Made(
        systems_markdown(found, found[0].name),
        {f"{name.removeprefix('miou/')}": f"{100 * value:.2f}" for name, value in numbers(found).items()},
        lambda: draw_curves(found),
        "mIoU by share of labels and system",
    )


def cycles(record: Path) -> Made:
    runs = load_findings(_runs(record))
    numbers = {}
    for path, run in zip(_runs(record), runs, strict=True):
        for row in run.cycles:
            numbers[f"{path.name}/{row['cycle']}/miou"] = f"{100 * row['miou']:.2f}"
            numbers[f"{path.name}/{row['cycle']}/labelled"] = f"{100 * row['labelled_fraction']:.2f}"
            if "train" in row["seconds"]:
                numbers[f"{path.name}/{row['cycle']}/train_seconds"] = f"{row['seconds']['train']:,.0f}"
        if run.supervised:
            numbers[f"{path.name}/full"] = f"{100 * run.supervised:.2f}"
    return Made(cycles_markdown(runs, []), numbers)


def ending(record: Path) -> Made:
    """What the terminal says at the end of the record's only run, two columns left out."""
    [run] = load_findings(_runs(record))
    return Made(f"```\n{outcome_text(run.summary, run.reference, without=('of non-void %', 'seconds'))}```\n")


def experiment(make: Callable[[Path], tuple[str, dict[str, str]]], record: Path) -> Made:
    return Made(*make(record))


def bench(record: Path) -> Made:
    results = json.loads((record / "bench.json").read_text())["results"]
    return Made(bench_markdown(results), {one["name"]: shown(one["ratio"], one["unit"]) for one in results})


def gpu_tests(record: Path) -> Made:
    """Of `make gpu`: how the tests marked `gpu` ended."""
    found = read_json(record / "tests.json")
    numbers = {name: str(found[name]) for name in ("passed", "failed", "skipped")}
    return Made(f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped.\n", numbers)


KINDS: dict[str, Callable[[Path], Made]] = {
    "chain": chain,
    "encoders": encoders,
    "grid": grid,
    "grid_classes": grid_classes,
    "levers": levers,
    "systems": systems,
    "cycles": cycles,
    "ending": ending,
    **{kind: partial(experiment, make) for kind, make in experiment_tables.KINDS.items()},
    "bench": bench,
    "gpu_tests": gpu_tests,
}


def _runs(record: Path) -> list[Path]:
    return [path.parent for path in sorted(record.glob("*/recipe.yaml"))]


class Results:
    """Documents of the tree at `root`, and what its records say."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root
        self.made = cache(self._made)

    def documents(self) -> list[Path]:
        return [self.root / "README.md", *sorted((self.root / "docs").rglob("*.md"))]

    def rewritten(self, document: Path) -> str:
        """The document with what its marks stand for.  UserError names a mark that stands for nothing."""

        def between(match: re.Match[str]) -> str:
            begin, mark, _, end = match.groups()
            try:
                return f"{begin}{self.said(mark, document)}{end}"
            except (UserError, OSError, KeyError, ValueError) as error:
                raise UserError(f"{document}: mark {mark!r}: {error}") from error

        return MARK.sub(between, document.read_text())

    def said(self, mark: str, document: Path) -> str:
        """What stands between a mark and its end."""
        record, kind, key = [*mark.split("/", 2), ""][:3]
        made = self.made(record, kind)
        if not key:
            return f"\n\n{made.text.strip()}\n\n"
        if key == FIGURE:
            place = os.path.relpath(self.figure(mark), document.parent)
            return f"\n\n![{made.caption}]({place})\n\n"
        if key not in made.numbers:
            raise UserError(f"no number of that name; there are {', '.join(made.numbers) or 'none'}")
        return made.numbers[key]

    def figure(self, mark: str) -> Path:
        """The file of a mark's picture."""
        record, kind, _ = mark.split("/", 2)
        return self.root / IMAGES / f"{record}-{kind}.png"

    def figures(self) -> dict[str, Callable[[], Figure]]:
        """Mark -> how its picture is drawn, of all marks in all documents."""
        marks = {mark for document in self.documents() for _, mark, _, _ in MARK.findall(document.read_text())}
        found = {}
        for mark in sorted(mark for mark in marks if mark.endswith(f"/{FIGURE}")):
            draw = self.made(*mark.split("/")[:2]).draw
            if draw is None:
                raise UserError(f"mark {mark!r}: that kind has no figure")
            found[mark] = draw
        return found

    def _made(self, record: str, kind: str) -> Made:
        folder = self.root / RECORDS / record
        if not folder.is_dir():
            raise UserError(f"{folder}: no such record")
        if kind not in KINDS:
            raise UserError(f"no such kind; there are {', '.join(KINDS)}")
        return KINDS[kind](folder)


def write_all(results: Results) -> Iterator[Path]:
    """Every file that was not what the records say, after it has been written."""
    for document in results.documents():
        text = results.rewritten(document)
        if text != document.read_text():
            write_text(document, text)
            yield document
    for mark, draw in results.figures().items():
        path = results.figure(mark)
        before = path.read_bytes() if path.exists() else b""
        with styled():
            save(draw(), path.parent, path.stem, svg=False)
        if path.read_bytes() != before:
            yield path


def main() -> int:
    try:
        changed = list(write_all(Results()))
    except UserError as error:
        print(f"make_results: {error}", file=sys.stderr)
        return error.exit_status
    print("\n".join(f"written: {path.relative_to(ROOT)}" for path in changed) or "every result is what its record says")
    return 0


if __name__ == "__main__":
    sys.exit(main())
