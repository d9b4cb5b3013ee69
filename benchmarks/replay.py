"""`s4al replay`: what another acquisition would have asked, given a finished run's networks.  No label is bought, and
no truth is read."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.backends import check_backend, started
from benchmarks.findings import data_of, load_findings
from benchmarks.plain_tables import markdown_heads, markdown_row
from benchmarks.preflight import check_data
from benchmarks.systems import shared
from orchestrator.config import RunConfig, override
from orchestrator.interrupt import handled
from orchestrator.layout import RunLayout
from orchestrator.published import read_query
from querying.errors import UserError
from querying.files import check_folder, make_folder, write_text, written
from querying.ledger import Ledger
from querying.leftovers import writing_into
from querying.regions import RegionGrid
from querying.shards import DataIndex


@dataclass(frozen=True, slots=True)
class Replayed:
    """One query, asked again."""

    cycle: int
    asked: int
    """Cells that the run bought."""
    would_ask: int
    both: float
    """Pixels in both queries, of those in either, 0..1."""
    agreement: float | None
    """Spearman's rank correlation of the two scores over all cells that both may ask about; None between two grids."""


def replay_command(
    run: Path, overrides: Sequence[str], *, acquisition: str | None, data: Path | None, out: Path | None, backend: str,
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

    from orchestrator.progress import shown

    with ExitStack() as held, handled(), shown() as progress, started(backend, address, progress) as ready:
        from orchestrator.stages import Stages

        asked, grid = (RegionGrid(index.height, index.width, c.query.region_size) for c in (found.config, config))
        layout = found.layout
        stages = Stages(config, index, grid, layout, Ledger(layout.ledger), ready, progress, "replay", asked)
        make_folder(out)
        rows = []
        held.enter_context(writing_into(out, progress.say, scratch=True))
        for cycle in cycles:
            with tempfile.TemporaryDirectory(prefix=".tmp-", dir=out) as scores:
                stages.score(cycle, Path(scores))
                query = stages.select(cycle, Path(scores))
                rows.append(_compared(found.config, config, layout, index, cycle, query, Path(scores)))
            with written(out / f"query-{cycle:03d}.parquet") as staged:
                pq.write_table(query, staged, write_page_checksum=True)
    text = as_markdown(rows, found.config, config)
    write_text(out / "replay.md", text)
    print(text, end="")
    print(f"the cells are in {out}/query-*.parquet")


def _compared(
    before: RunConfig, after: RunConfig, layout: RunLayout, index: DataIndex, cycle: int, query: pa.Table, scores: Path
) -> Replayed:
    grids = [RegionGrid(index.height, index.width, one.query.region_size) for one in (before, after)]
    asked = read_query(layout.query(cycle), grids[0].num_regions)
    both = shared(_regions(asked), grids[0], _regions(query), grids[1])
    agreement = None
    if grids[0] == grids[1]:
        agreement = rank_agreement(layout.scores(cycle), scores, grids[0].num_regions)
    return Replayed(cycle, asked.num_rows, query.num_rows, 1.0 if both is None else both, agreement)


def _regions(query: pa.Table) -> Mapping[str, list[int]]:
    regions: dict[str, list[int]] = {}
    for image_id, region in zip(query["image_id"].to_pylist(), query["region"].to_pylist(), strict=True):
        regions.setdefault(image_id, []).append(region)
    return regions


def rank_agreement(first: Path, second: Path, num_regions: int) -> float | None:
    """Spearman's rho of two folders of scores over the cells that are eligible in both; None below three of them."""
    from scipy.stats import spearmanr

    from querying.scores import read_scores

    pairs: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for path in sorted(second.glob("regions-*.arrow")):
        ids, b_NR = read_scores(path, num_regions)
        place = {image_id: at for at, image_id in enumerate(ids)}
        known, a_NR = read_scores(first / path.name, num_regions)
        common = [at for at, image_id in enumerate(known) if image_id in place]
        a_NR, b_NR = a_NR[common], b_NR[[place[known[at]] for at in common]]
        both_NR = np.isfinite(a_NR) & np.isfinite(b_NR)
        pairs[0].append(a_NR[both_NR])
        pairs[1].append(b_NR[both_NR])
    x, y = (np.concatenate(part) if part else np.zeros(0) for part in pairs)
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(spearmanr(x, y).statistic)


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
