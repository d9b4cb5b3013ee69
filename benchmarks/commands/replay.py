"""`s4al replay`: what another acquisition would have asked, given a finished run's networks.  No label is bought, and
no truth is read."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.report.plain_tables import markdown_heads, markdown_row
from benchmarks.results.findings import data_of, load_findings
from benchmarks.results.replay import Replayed, compared
from orchestrator.backends.open import check_backend, started
from orchestrator.process.interrupt import handled
from orchestrator.recipe.config import RunConfig, override
from orchestrator.run.preflight import check_data
from querying.base.errors import UserError
from querying.base.files import check_folder, make_folder, write_text, written
from querying.base.leftovers import writing_into
from querying.base.storage.place import Place
from querying.labels.regions import RegionGrid


def replay_command(
    run: Path, overrides: Sequence[str], *, acquisition: str | None, data: Place | None, out: Path | None, backend: str,
    address: str | None,
) -> None:  # fmt: skip
    found = load_findings([run])[0]
    words = [*overrides, *([f"query.acquisition={acquisition}"] if acquisition else [])]
    foreign = [word for word in words if not word.startswith("query.")]
    if foreign:
        raise UserError(f"{foreign[0]}: a replay changes keys of `query` alone; the networks are those of the run")
    config = override(found.config, words)
    index = data_of(found, run, data)
    check_data(config, index, found.layout.decided)
    check_backend(backend, address)
    cycles = [row["cycle"] for row in found.cycles if (found.layout.query(row["cycle"]) / "query.parquet").exists()]
    if not cycles:
        raise UserError(f"{run}: it has asked nothing, so there is nothing to compare with")
    name = config.query.acquisition.replace(":", ".")
    at = run.resolve()  # `.` has no name
    out = out or at.with_name(f"{at.name}.replay-{name}")
    check_folder(out)

    from orchestrator.process.progress import shown

    with ExitStack() as held, handled(), shown() as progress, started(backend, address, progress) as ready:
        from orchestrator.run.context import RunContext
        from orchestrator.run.stages import Stages

        layout = found.layout
        context = RunContext(config=config, index=index, layout=layout, backend=ready, progress=progress, name="replay")
        stages = Stages(context, bought_on=RegionGrid(index.height, index.width, found.config.query.region_size))
        make_folder(out)
        rows = []
        held.enter_context(writing_into(out, progress.say, scratch=True))
        for cycle in cycles:
            with tempfile.TemporaryDirectory(prefix=".tmp-", dir=out) as scores:
                stages.score(cycle, Path(scores))
                query = stages.select(cycle, Path(scores))
                rows.append(compared(found.config, config, layout, index, cycle, query, Path(scores)))
            with written(out / f"query-{cycle:03d}.parquet") as staged:
                pq.write_table(query, staged, write_page_checksum=True)
    text = as_markdown(rows, found.config, config)
    write_text(out / "replay.md", text)
    print(text, end="")
    print(f"the cells are in {out}/query-*.parquet")


def as_markdown(rows: Sequence[Replayed], before: RunConfig, after: RunConfig) -> str:
    changes = [
        f"query.{key} {there} -> {here}"
        for (key, there), here in zip(before.query.model_dump().items(), after.query.model_dump().values(), strict=True)
        if there != here
    ]
    heads = ["after cycle", "cells bought", "cells it would buy", "in both, % of either", "rank correlation of scores"]
    lines = [f"{before.name}, seed {before.seed}, asked again with {', '.join(changes) or 'the same settings'}.", ""]
    lines += markdown_heads(heads)
    for row in rows:
        agreement = "" if row.agreement is None else f"{row.agreement:.3f}"
        cells = [str(row.cycle), f"{row.asked:,}", f"{row.would_ask:,}", f"{100 * row.both:.1f}", agreement]
        lines.append(markdown_row(cells))
    return "\n".join(lines) + "\n"
