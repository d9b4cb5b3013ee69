"""`s4al query RUN`: what the run's last model would have labelled next.  Nothing in the run is changed, no label is
bought, and no truth is read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from benchmarks.report.plain_tables import csv_text, markdown_heads, markdown_row
from benchmarks.report.printed import print_files, print_tables
from benchmarks.results.asked import Asked, asked_of
from benchmarks.results.findings import data_of, load_findings
from orchestrator.backends.open import check_backend, started
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.published import read_query
from orchestrator.process.interrupt import handled
from orchestrator.recipe.config import RunConfig, override
from querying.base.errors import UserError
from querying.base.files import check_folder, make_folder, write_text
from querying.base.leftovers import writing_into
from querying.base.storage.place import Place
from querying.dataset.shards import DataIndex, size_of
from querying.labels.regions import RegionGrid
from querying.settings import QuerySettings

if TYPE_CHECKING:
    from orchestrator.backends.backend import Backend
    from orchestrator.process.progress import Progress


SHOWN = 20
"""Rows of the table on the terminal; the CSV has all."""


def query_command(
    run: Path, overrides: Sequence[str], *, data: Place | None, out: Path | None, backend: str, address: str | None
) -> None:
    """Write query.csv and query.png into `out` (default RUN.query beside the run) and print the first rows.

    `overrides` change keys of `query`.  A run that asks nothing (`query.per_image=0`) is asked as a new recipe would.
    """
    found = load_findings([run])[0]
    if foreign := [word for word in overrides if not word.startswith("query.")]:
        raise UserError(f"{foreign[0]}: a query changes keys of `query` alone; the network is that of the run")
    config, notes = found.config, []
    if not override(config, overrides).query.asked:
        default = QuerySettings().per_image
        notes.append(f"the run asks nothing by itself (query.per_image=0): asked with query.per_image={default}")
        config = override(config, [f"query.per_image={default}"])
    config = override(config, overrides)
    index = data_of(found, run, data)
    check_backend(backend, address)
    at = run.resolve()  # `.` has no name
    out = out or at.with_name(f"{at.name}.query")
    if out.resolve().is_relative_to(at):
        raise UserError(f"--out {out}: lies in the run, in which nothing is changed; choose another folder")
    check_folder(out)
    cycle = found.last["cycle"]

    from orchestrator.process.progress import shown

    with ExitStack() as held, handled(), shown() as progress, started(backend, address, progress) as ready:
        make_folder(out)
        held.enter_context(writing_into(out, progress.say, scratch=True))
        query = _selected(found.layout, found.config, config, index, cycle, ready, progress, out)
    grid = RegionGrid(index.height, index.width, config.query.region_size)
    rows = asked_of(query, grid, config.query, size_of(index, "train"))
    if not rows:
        budget = f" (budget={config.budget})" if config.budget else ""
        print(f"{run}: nothing is left to ask: the pool or the budget is exhausted{budget}")
        return
    from benchmarks.figures.query_sheet import draw_sheet
    from benchmarks.figures.style import save, styled

    write_text(out / "query.csv", as_csv(rows))
    with styled():
        save(draw_sheet(rows, index, cycle + 1), out, "query", svg=False)
    print_tables(as_markdown(rows, found.label, cycle, config))
    for note in notes:
        print(note)
    print_files([out / "query.csv", out / "query.png"])


def _selected(
    layout: RunLayout,
    before: RunConfig,
    config: RunConfig,
    index: DataIndex,
    cycle: int,
    backend: Backend,
    progress: Progress,
    out: Path,
) -> pa.Table:
    """The query that the run has published after this cycle, where it is of these settings; else made anew."""
    published = layout.query(cycle) / "query.parquet"
    if published.exists() and before.query == config.query:
        regions = RegionGrid(index.height, index.width, config.query.region_size).num_regions
        return read_query(published.parent, regions)
    from orchestrator.run.context import RunContext
    from orchestrator.run.stages import Stages

    context = RunContext(config=config, index=index, layout=layout, backend=backend, progress=progress, name="query")
    stages = Stages(context, bought_on=RegionGrid(index.height, index.width, before.query.region_size))
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=out) as scores:
        stages.score(cycle, Path(scores))
        return stages.select(cycle, Path(scores))


def as_csv(rows: Sequence[Asked]) -> str:
    lines: list[list[object]] = [["image", "region", "top", "left", "bottom", "right", "score", "reason"]]
    for row in rows:
        region, score = ("" if value is None else value for value in (row.region, row.score))
        lines.append([row.image_id, region, *row.box, score, row.reason])
    return csv_text(lines)


def as_markdown(rows: Sequence[Asked], label: str, cycle: int, config: RunConfig) -> str:
    images = len({row.image_id for row in rows})
    what = "images" if rows[0].region is None else f"boxes in {images:,} images"
    head = f"{label}: {len(rows):,} {what} to label next, by `{config.query.acquisition}` of the model of cycle {cycle}"
    head += f"; the first {SHOWN}:" if len(rows) > SHOWN else ":"
    heads = ["image", "top, left, bottom, right", "score", "reason"]
    lines = [head, "", *markdown_heads(heads)]
    for row in rows[:SHOWN]:
        score = "" if row.score is None else f"{row.score:.4f}"
        lines.append(markdown_row([row.image_id, ", ".join(map(str, row.box)), score, row.reason]))
    return "\n".join(lines) + "\n"
