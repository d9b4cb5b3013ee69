"""People answer: a package is published, their answers are put together, and until these are there the run waits."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial as bound
from pathlib import Path

import numpy as np
import pyarrow as pa

from orchestrator.annotation.annotator import Annotator
from orchestrator.annotation.answers import given_rows, imports_of, report_now
from orchestrator.annotation.given import Cell, Given, Rule, by_annotator, common, rule_of, state_of
from orchestrator.annotation.imports import REGIONS_FILE, Import
from orchestrator.annotation.package import (
    NOTE,
    QUERY_FILE,
    About,
    Asked,
    Box,
    Package,
    PackageNote,
    read_note,
    write_package,
)
from orchestrator.annotation.rounds import Reread, Round, round_of, rounds, was_asked
from orchestrator.folder.layout import RunLayout, once
from orchestrator.folder.manifest import MANIFEST, digest, set_aside
from orchestrator.folder.published import read_query
from orchestrator.folder.recipe_file import read_recipe
from orchestrator.folder.shapes import Manifest, Sha256, Shape, Text, read_shaped
from orchestrator.recipe.config import RunConfig
from querying.base.arrow_file import scored_file
from querying.base.errors import DamagedError, UserError, WaitingForLabels
from querying.base.files import sha256, write_json, written
from querying.dataset.codecs import UInt8
from querying.dataset.label_values import IGNORE
from querying.dataset.schemas import PSEUDO_LABELS
from querying.dataset.shards import DataIndex, SplitIds, read_images, size_of
from querying.labels.bought import by_shard
from querying.labels.ledger import Ledger
from querying.labels.oracle import SimulatedOracle, ledger_rows
from querying.labels.regions import WHOLE, RegionGrid

GUESS_S = 10.0
"""Seconds a region, until somebody has been timed."""


class MergedNote(Shape):
    """`merged.json`: what has become the labels of a cycle."""

    imports: list[Text]
    rule: Text
    partial: bool
    regions_sha256: dict[Text, Sha256]


class HumanAnnotator:
    """Answers queries with what people have handed in.  The first images' masks are those of the data set."""

    def __init__(
        self, index: DataIndex, grid: RegionGrid, layout: RunLayout, *, partial: bool = False,
        say: Callable[[str], None] = print, reread: Reread | None = None,
    ) -> None:  # fmt: skip
        """`partial`: what is not answered goes back to the pool, and is not charged."""
        self.index, self.grid, self.layout = index, grid, layout
        self.partial, self.say, self.reread = partial, say, reread
        self.oracle, self.ledger = SimulatedOracle(index, grid), Ledger(layout.ledger)

    def answerable(self) -> list[str]:
        return self.oracle.answerable()

    def classes(self) -> dict[str, frozenset[int]]:
        return self.oracle.classes()

    def asked(self, cycle: int) -> Callable[[Path], None] | None:
        """Once a package was published it is authoritative: its query is restored, and never selected anew."""
        one = round_of(self.layout, cycle)
        return bound(_restore, one, self.layout.query(cycle)) if was_asked(one) else None

    def ask(self, cycle: int, query: Path) -> None:
        """Publish the package of a query; one that is not what was written is set aside and made again."""
        make = bound(self._write, cycle, query)
        once(self.layout.package(cycle), make, inputs={"query": digest(query, "*.parquet")}, say=self.say)
        if self.ledger.has(cycle + 1):
            self._mend(round_of(self.layout, cycle))

    def annotate(self, cycle: int, query: pa.Table) -> Iterator[pa.RecordBatch]:
        if not cycle:
            yield from self.oracle.annotate(cycle, query)
            return
        one = round_of(self.layout, cycle - 1)
        imports, rule, partial = self._decided(one)
        cells = by_annotator(given_rows(imports))
        wanted = list(zip(query["image_id"].to_pylist(), query["region"].to_pylist(), strict=True))
        there = np.array([state_of(cells.get(cell, {})) == "answered" for cell in wanted], bool)
        if not there.all() and not partial:
            raise WaitingForLabels(waiting_line(self.layout.root))
        if not there.any():
            raise WaitingForLabels(f"{waiting_line(self.layout.root)} (--partial: nothing is answered yet)")
        _write_note(one, imports, rule, partial)
        if not there.all():
            self.say(f"cycle {cycle}: {int((~there).sum())} regions are not answered: they go back to the pool")
        answered = by_shard(query.filter(pa.array(there)), SplitIds(self.index, "train"))
        yield from ledger_rows(self.grid, cycle, zip(answered, self._labels(cells, rule), strict=True))

    def _mend(self, one: Round) -> None:
        """Answers that are labels already, and what was noted of it: made again where a file of them is damaged.  What
        is beyond that is said, and costs the run nothing."""
        try:
            imports = imports_of(one, read_note(one.package), self.reread, self.say)
            with suppress(DamagedError):
                read_shaped(one.merged, MergedNote)
                return
            if one.merged.exists():
                self.say(f"{one.merged}: not what was written: set aside as {set_aside(one.merged).name}, made again")
            part = self.ledger.read(one.number, ["region"]).num_rows < read_note(one.package).regions
            _write_note(one, imports, rule_of(imports[-1].rule if imports else ""), part)
        except DamagedError as error:
            self.say(f"{error} (the labels of cycle {one.number} are in the ledger and count)")

    def _labels(self, cells: Mapping[Cell, Mapping[str, Given]], rule: Rule) -> Iterator[Iterator[tuple[str, UInt8]]]:
        """Shard by shard each answered image and its label (H, W), void where nothing was answered."""
        regions: dict[str, list[int]] = {}
        for (image_id, region), given in cells.items():
            if state_of(given) == "answered":
                regions.setdefault(image_id, []).append(region)
        for shard, of_shard in zip(self.index.shards("train"), SplitIds(self.index, "train"), strict=True):
            ids = [image_id for image_id in of_shard.to_pylist() if image_id in regions]
            yield _labels(self.grid.on(shard.size), {image_id: regions[image_id] for image_id in ids}, cells, rule)

    def _decided(self, one: Round) -> tuple[list[Import], Rule, bool]:
        """The imports that count, the rule and whether a part is enough: as written down, where it has been."""
        package = read_note(one.package)
        imports = imports_of(one, package, self.reread, self.say)
        rule: Rule = rule_of(imports[-1].rule if imports else "majority")
        with suppress(DamagedError):
            note = read_shaped(one.merged, MergedNote)
            there = {part.folder.name: part for part in imports}
            if missing := [name for name in note["imports"] if name not in there]:
                raise WaitingForLabels(f"{one.answers / missing[0]}: has become labels and is gone: put a copy back")
            return [there[name] for name in note["imports"]], rule_of(note["rule"]), note["partial"]
        return imports, rule, self.partial

    def _write(self, cycle: int, query: Path, out: Path) -> None:
        """The package's files: what is asked, from the shards and the pseudo-labels of the cycle's scores."""
        table = read_query(query, self.grid.num_regions)
        boxes: dict[str, list[Box]] = {}
        size = size_of(self.index, "train")
        scores: dict[str, list[float]] = {}
        columns = (table[name].to_pylist() for name in ("image_id", "region", "score"))
        for image_id, region, score in zip(*columns, strict=True):
            rows, cols = self.grid.on(size(image_id)).box(region)
            boxes.setdefault(image_id, []).append((region, rows.start, cols.start, rows.stop, cols.stop))
            scores.setdefault(image_id, []).extend([] if score is None else [score])
        scored = self.layout.scores(cycle)
        about = About(
            run=str(read_recipe(self.layout.recipe)[1].get("id") or "") if self.layout.recipe.exists() else "",
            cycle=cycle + 1,
            model=digest(self.layout.checkpoint(cycle), "*.safetensors"),
            data=self.index.digest,
            classes=self.index.classes,
            palette=self.index.palette,
            height=self.index.height,
            width=self.index.width,
            region_size=self.grid.size,
            scores=digest(scored, "regions-*"),
        )
        file = query / QUERY_FILE
        write_package(out, about, self._pictures(boxes, scored), uncertainties(scores), (file, sha256(file)))

    def _pictures(self, boxes: Mapping[str, Sequence[Box]], scored: Path) -> Iterator[Asked]:
        parts = SplitIds(self.index, "train")
        for number, shard in enumerate(self.index.shards("train")):
            ids = [image_id for image_id in parts.of(number).to_pylist() if image_id in boxes]
            pre = dict(_pseudo(scored, number, ids)) if ids else {}
            for image_id, image_HWC in read_images(self.index.root, shard, ids):
                yield Asked(image_id, image_HWC, boxes[image_id], pre.get(image_id))


def _labels(
    grid: RegionGrid, regions: Mapping[str, Sequence[int]], cells: Mapping[Cell, Mapping[str, Given]], rule: Rule
) -> Iterator[tuple[str, UInt8]]:
    """The label of each image, by the regions of it that are answered."""
    for image_id, answered in regions.items():
        label_HW = np.full((grid.height, grid.width), IGNORE, np.uint8)
        for region in answered:
            label_HW[grid.box(region)] = common(cells[image_id, region].values(), rule)
        yield image_id, label_HW


def _write_note(one: Round, imports: Sequence[Import], rule: Rule, partial: bool) -> None:
    hashes = {part.folder.name: sha256(part.folder / REGIONS_FILE) for part in imports}
    write_json(one.merged, {"imports": list(hashes), "rule": rule, "partial": partial, "regions_sha256": hashes})


def annotator_of(
    config: RunConfig,
    index: DataIndex,
    grid: RegionGrid,
    layout: RunLayout,
    *,
    partial: bool,
    say: Callable[[str], None],
    reread: Reread | None = None,
) -> Annotator:
    """Who answers the queries of a run."""
    if config.annotator == "simulated":
        return SimulatedOracle(index, grid)
    return HumanAnnotator(index, grid, layout, partial=partial, say=say, reread=reread)


def uncertainties(scores: Mapping[str, Sequence[float]]) -> dict[str, float | None]:
    """Images in the order in which they are asked, with the mean score of their cells: from 0, the lowest, to 1."""
    means = {image_id: sum(values) / len(values) for image_id, values in scores.items() if values}
    low, high = (min(means.values()), max(means.values())) if means else (0.0, 0.0)
    scale = high - low or 1.0
    found = {image_id: round((means[image_id] - low) / scale, 6) if image_id in means else None for image_id in scores}
    order = sorted(found, key=lambda image_id: (-(found[image_id] or 0.0), image_id))
    return {image_id: found[image_id] for image_id in order}


def waiting_line(project: Path) -> str:
    """What people have to do, about how long it takes, and how the project goes on then."""
    one = rounds(project)[-1]
    package = read_note(one.package)
    report = report_now(one, package, say=lambda line: None)
    left = report.regions - report.answered
    if not left:
        return f"all {report.regions} regions of cycle {one.number} are answered: the same `s4al run` goes on"
    of = f"{left} of {report.regions}" if report.answered else str(report.regions)
    what = f"{of} regions of {len(package.images)} images, {_minutes(project, package, left)}"
    run = shlex.quote(str(project))
    return (
        f"waiting for labels of cycle {one.number}: {what}; s4al annotate export {run} DST --format labelstudio, then"
        f" s4al annotate import {run} FILE, then this command again"
    )


def _minutes(project: Path, package: Package, regions: int) -> str:
    """About how long so many regions take, by the times that people have needed in this project so far."""
    timed: dict[tuple[str, str], tuple[float, int]] = {}
    for one in rounds(project):
        with suppress(DamagedError):
            for row in given_rows(imports_of(one, None, None, lambda line: None)):
                if row.seconds is not None and row.region != WHOLE:
                    seconds, count = timed.get((row.unique_id, row.annotator), (row.seconds, 0))
                    timed[row.unique_id, row.annotator] = seconds, count + 1
    if timed:
        each = sum(seconds for seconds, _ in timed.values()) / sum(count for _, count in timed.values())
        image = each * package.regions / len(package.images)
        return f"about {_in_minutes(each * regions)} ({image:.0f} s an image so far)"
    return f"about {_in_minutes(GUESS_S * regions)} (a guess of {GUESS_S:.0f} s a region)"


def _in_minutes(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' if minutes > 1 else ''}"


def _restore(one: Round, query: Path, out: Path) -> None:
    """Write the query that was asked, from whichever of its copies is what was written."""
    folders = [one.package, query, *one.folder.glob("damaged-*-package"), *one.folder.glob("damaged-*-query")]
    trusted = {said for folder in folders[:1] for said in _said(folder)} or {
        said for folder in folders for said in _said(folder)
    }
    for folder in folders:
        path = folder / QUERY_FILE
        if path.is_file() and sha256(path) in trusted:
            with written(out / QUERY_FILE) as staged:
                staged.write_bytes(path.read_bytes())
            return
    raise DamagedError(
        f"{one.package / QUERY_FILE}: what people were asked in cycle {one.number} is damaged, and so is {query}: put a"
        " copy of either back; nothing else is asked instead"
    )


def _said(folder: Path) -> Iterator[str]:
    """The hashes of a query that what lies in `folder` vouches for."""
    with suppress(DamagedError, UserError):
        said = read_shaped(folder / NOTE, PackageNote)["query"]
        yield from [said] if said else []
    with suppress(DamagedError, UserError, KeyError):
        yield read_shaped(folder / MANIFEST, Manifest)["files"][QUERY_FILE]["sha256"]


def _pseudo(scored: Path, number: int, ids: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """The pseudo-labels (PNG) of a shard's images."""
    path, wanted = scored / f"pseudo-{number:05d}.arrow", set(ids)
    if not path.exists():
        return
    for batch in scored_file(path, PSEUDO_LABELS).batches():
        for image_id, label in zip(batch["image_id"].to_pylist(), batch["label"], strict=True):
            if image_id in wanted:
                yield image_id, label.as_py()
