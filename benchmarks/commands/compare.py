"""`s4al compare`: runs, a grid's cells or a sweep's trials side by side, as Markdown, CSV and figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from benchmarks.figures.grid_figure import draw_grid
from benchmarks.figures.style import save, styled
from benchmarks.figures.systems_figures import draw_bought, draw_curves
from benchmarks.report.grid_table import grid_csv, grid_markdown
from benchmarks.report.printed import print_files, print_tables
from benchmarks.report.systems_table import as_csv, as_markdown, numbers
from benchmarks.results.grid import CELLS, Row, load, table
from benchmarks.results.systems import load_systems
from orchestrator.choices import Checkpoint
from orchestrator.folder.recipe_file import is_run
from orchestrator.studies.cells import SUPERVISED
from orchestrator.tracking.grids import log_comparison, log_systems
from orchestrator.tracking.store import tolerated
from orchestrator.tracking.uri import chosen_uri
from querying.base.errors import UserError
from querying.base.files import check_folder, make_folder, write_text
from querying.base.leftovers import writing_into
from querying.base.redaction import redacted


def compare_command(
    root: Path, out: Path | None, against: str | None, tracking: str | None, checkpoint: Checkpoint = Checkpoint.last
) -> None:
    """Write compare.md, .csv and .png (compare_best_on_val.* of the best checkpoints), print the table, and put all
    into the grid's run in MLflow."""
    uri = chosen_uri(tracking, root)
    results = load(root, checkpoint)
    stem = "compare" if checkpoint == Checkpoint.last else f"compare_{checkpoint}"
    against = against or min((one.method for one in results), key=lambda method: method != SUPERVISED)
    rows = table(results, against)
    out = out or root
    check_folder(out)
    text = grid_markdown(rows, results, against)
    with styled(), writing_into(out, print):
        write_text(out / f"{stem}.md", text)
        write_text(out / f"{stem}.csv", grid_csv(results))
        save(draw_grid(rows), out, stem, svg=False)
    files = [out / f"{stem}.{kind}" for kind in ("md", "csv", "png")]
    print_tables(text)
    print_files(files)
    if uri == "none":
        return
    cells = [path.parent for path in sorted(root.glob(CELLS))]
    found = True
    with tolerated(uri, f"the tables are in {out}"):
        found = log_comparison(cells, uri, files, _points(rows, stem))
    if not found and tracking:
        raise UserError(f"--tracking {redacted(uri)}: the cells of {root} were not tracked there")


def _points(rows: Sequence[Row], stem: str) -> dict[str, dict[int, float]]:
    """mIoU of each method by its share of labels in hundredths of a percent, MLflow's axis being whole numbers."""
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for row in rows:
        points[f"{stem}/{row.method}"][round(10_000 * Fraction(row.split))] = row.miou / 100
    return points


def compare_any(
    paths: Sequence[Path], out: Path | None, against: str | None, tracking: str | None, checkpoint: Checkpoint
) -> None:
    """A grid's or a sweep's folder, or run folders; UserError where they are neither, or not alike."""
    if len(paths) == 1 and (paths[0] / "sweep.json").exists():
        from benchmarks.commands.sweep_end import sweep_again

        if against is not None:
            raise UserError(f"--against {against}: the trials of a sweep are compared with no single one")
        if checkpoint != Checkpoint.last:
            raise UserError(f"--checkpoint {checkpoint}: of a sweep's trials, the last checkpoints are compared")
        sweep_again(paths[0], out, tracking)
        return
    runs = [path for path in paths if is_run(path)]
    if not runs and len(paths) == 1:
        compare_command(paths[0], out, against, tracking, checkpoint)
        return
    if len(runs) < len(paths):
        raise UserError(f"{next(path for path in paths if path not in runs)}: not a run folder (no recipe.yaml)")
    if checkpoint != Checkpoint.last:
        raise UserError(f"--checkpoint {checkpoint}: of runs, the last checkpoints are compared")
    compare_systems(runs, out, against, tracking)


def compare_systems(roots: Sequence[Path], out: Path | None, against: str | None, tracking: str | None) -> None:
    """Write systems.md, .csv and .png and bought.png, print the tables, and put all into one run in MLflow."""
    systems = load_systems(roots)
    if sum(len(system.seeds) for system in systems) < 2:
        raise UserError(f"{roots[0]}: one run alone is nothing to compare; see `s4al report`")
    against = against or systems[0].name
    if against not in [system.name for system in systems]:
        raise UserError(f"--against {against}: there are {', '.join(system.name for system in systems)}")
    out = out or roots[0].parent / "compare"
    check_folder(out)
    uri = chosen_uri(tracking, roots[0])
    text = as_markdown(systems, against)
    make_folder(out)
    with styled(), writing_into(out, print):
        write_text(out / "systems.md", text)
        write_text(out / "systems.csv", as_csv(systems))
        save(draw_curves(systems), out, "systems", svg=False)
        save(draw_bought(systems), out, "bought", svg=False)
    files = [out / name for name in ("systems.md", "systems.csv", "systems.png", "bought.png")]
    print_tables(text)
    print_files(files)
    if uri != "none":
        with tolerated(uri, f"the tables are in {out}"):
            log_systems(roots, uri, files, numbers(systems))
