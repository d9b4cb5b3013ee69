"""Finished runs as records: what tables and figures are made from, in kilobytes, and nothing of the machine.

python -m benchmarks.results.records PATH... --name NAME [--under docs/results/records]

PATH is a run folder, or a folder with runs below it (of `s4al splits`, or one that holds runs side by side).  A record
is laid out like what it is of, so whatever reads runs reads it: `recipe.yaml`, `summary.json`, `metrics.jsonl` with at
most EPOCHS rows of a training, and, in place of the ledger, `bought.json`.
"""

from __future__ import annotations

import argparse
import getpass
import re
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from benchmarks.results.findings import BOUGHT, Findings, load_findings
from benchmarks.results.systems import Bought
from orchestrator.folder.layout import RunLayout
from orchestrator.folder.recipe_file import is_run, read_recipe, recipe_copy, write_recipe
from orchestrator.folder.record import is_live, latest
from orchestrator.recipe.config import build
from querying.base.errors import UserError
from querying.base.files import read_json, sealed, write_json, write_text
from querying.base.redaction import redacted

RECORDS = Path("docs/results/records")
EPOCHS = 25
DIGITS = 6
NOTED = ("schema", "id", "first_weights", "data", "commit", "code", "device", "machine", "libraries", "drift")
"""Of what a run ran with."""
LIBRARIES = ("numpy", "pillow", "ray", "timm", "torch")
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
PATH = re.compile(r"(?:file://|(?<![\w.:/*])~?)/(?:[^\s'\",;:()\[\]{}/]+/)*([^\s'\",;:()\[\]{}/]+)/?")
"""An absolute one; its last part stays."""


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.results.records", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a run, or a folder of runs")
    parser.add_argument("--name", required=True, help="of the record, such as 2026-12-02-chain")
    parser.add_argument("--under", type=Path, default=RECORDS, help=f"default {RECORDS}")
    options = parser.parse_args(words)
    try:
        for folder in keep(options.paths, options.under, options.name):
            print(folder)
    except UserError as error:
        print(f"records: {error}", file=sys.stderr)
        return error.exit_status
    return 0


def keep(paths: Iterable[Path], under: Path, name: str) -> list[Path]:
    """The records of all finished runs in `paths`, below `under / name`; a run's own record of before is replaced.

    UserError for a path without a finished run, for a run that is named and not finished, and where two runs, or
    another one of before, would have one name."""
    if not NAME.fullmatch(name):
        raise UserError(f"--name {name}: letters, digits, '.', '_', '+' and '-' were expected")
    made: dict[Path, Path] = {}
    for path in paths:
        for run, place in _runs(path):
            target = under / name / place
            if target in made:
                raise UserError(f"{run} and {made[target]} would both be {target}: rename one of them")
            _refuse_another(run, target)
            made[target] = run
    for target, run in made.items():
        write_record(run, target)
    return list(made)


def _runs(path: Path) -> Iterator[tuple[Path, Path]]:
    """Finished runs and where their record lies below the record's folder."""
    if is_run(path):
        if not _finished(path):
            raise UserError(f"{path}: is not finished; `s4al run RECIPE --out {path}` goes on")
        yield path, Path(path.resolve().name)
        return
    summaries = sorted([*path.glob("*/summary.json"), *path.glob("*/*/*/summary.json")])
    runs = [summary.parent for summary in summaries if is_run(summary.parent)]
    finished = [run for run in runs if _finished(run)]
    if not finished:
        raise UserError(f"{path}: neither a run nor a folder with a finished run in it")
    for run in runs:
        if run in finished:
            yield run, run.relative_to(path)
        else:
            print(f"left out, not finished: {run}", file=sys.stderr)


def _finished(run: Path) -> bool:
    path = RunLayout(run).summary
    return path.exists() and bool(read_json(path)["finished"])


def _refuse_another(run: Path, target: Path) -> None:
    if target.exists():
        there, here = (read_recipe(RunLayout(root).recipe)[1].get("id") for root in (target, run))
        if there != here:
            raise UserError(f"{target}: is the record of another run than {run}; remove it, or choose another --name")


def write_record(run: Path, target: Path) -> None:
    """One run's record at `target`.  UserError where something of the machine would be in it."""
    [found] = load_findings([run])
    layout, record = RunLayout(run), RunLayout(target)
    shutil.rmtree(target, ignore_errors=True)
    kept = {key: found.provenance[key] for key in NOTED if key in found.provenance}
    if "libraries" in kept:
        kept["libraries"] = {name: kept["libraries"][name] for name in LIBRARIES if name in kept["libraries"]}
    config = build(yaml.safe_load(clean(found.config.to_yaml())))
    write_recipe(record.recipe, config, _clean(kept))
    recipe_copy(record.recipe).unlink()
    for source, place in ((layout, record), (layout.reference, record.reference)):
        if source.summary.exists():
            write_json(place.summary, _unsealed(_clean(read_json(source.summary))))
    rows = (sealed(_unsealed(_clean(row))) for row in thinned(latest(layout.metrics)))
    write_text(record.metrics, "".join(f"{row}\n" for row in rows))
    write_json(target / BOUGHT, bought(found))
    check_clean(target)


def bought(found: Findings) -> dict[str, Any]:
    """The grid of regions, how many images cycle 0 has bought whole, and for each cycle the regions of images that were
    queried, pixels of each class and, last, of void, and clicks."""
    labels = Bought(found)
    cycles, before = list[dict[str, Any]](), dict[str, Sequence[int]]()
    for row, clicks in zip(found.cycles, labels.clicks, strict=True):
        now = dict(labels.cells(row["cycle"]))
        fresh = {image_id: regions[len(before.get(image_id, ())) :] for image_id, regions in now.items()}
        cycles.append(
            {
                "regions": {image_id: " ".join(map(str, regions)) for image_id, regions in fresh.items() if regions},
                "class_pixels": " ".join(map(str, found.bought[row["cycle"]])),
                "clicks": int(clicks),
            }
        )
        before = now
    grid = labels.grid
    return {"grid": f"{grid.height} {grid.width} {grid.size}", "images": labels.first_images, "cycles": cycles}


def thinned(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Of each training at most EPOCHS epochs, evenly apart and with its first and last, DIGITS digits of each number;
    nothing of one that was not published."""
    trainings: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        if is_live(row):
            continue
        if row["stage"] == "train":
            trainings.setdefault((row["run"], row["cycle"]), []).append(row)
    chosen = {id(row) for epochs in trainings.values() for row in _evenly(epochs)}
    for epochs in trainings.values():
        for row in epochs:
            if id(row) in chosen:
                numbers = {key: float(f"{v:.{DIGITS}g}") for key, v in row.items() if isinstance(v, float)}
                yield {key: numbers.get(key, value) for key, value in row.items() if key != "time"}


def _evenly(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    if len(rows) <= EPOCHS:
        return list(rows)
    return [rows[round(number * (len(rows) - 1) / (EPOCHS - 1))] for number in range(EPOCHS)]


def clean(text: str) -> str:
    """Without secrets, folders of absolute paths, and the names of this machine and its user."""
    text = PATH.sub(r"\1", redacted(text))
    for name in _own_names():
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "***", text)
    return text


def _clean(data: Any) -> Any:
    """Every text in it, keys included."""
    if isinstance(data, str):
        return clean(data)
    if isinstance(data, Mapping):
        return {clean(key) if isinstance(key, str) else key: _clean(value) for key, value in data.items()}
    return [_clean(value) for value in data] if isinstance(data, list) else data


def _unsealed(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if key != "seal"}


def _own_names() -> list[str]:
    """Host names and the user's name, unless they are names that thousands have."""
    host = socket.gethostname()  # not getfqdn: it asks the network
    names = {host, host.partition(".")[0]}
    with suppress(OSError, KeyError):
        names.add(getpass.getuser())
    return sorted((name for name in names if name not in ("", "root", "user", "vm", "localhost")), key=len)[::-1]


def check_clean(folder: Path) -> None:
    """UserError names the file of a record in which a machine's folder or name still is."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix in (".json", ".jsonl", ".yaml", ".txt"):
            text = path.read_text()
            if clean(text) != text:
                path.unlink()
                raise UserError(f"{path}: held something of this machine and was removed: please report this run")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
