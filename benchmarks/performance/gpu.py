"""`make gpu`: what a GPU that is lent for minutes should do, in a fixed order, continued where the last lease ended.

python -m benchmarks.performance.gpu --data DATA [--minutes 14] [--seeds 0] [--out runs/gpu] [--name DATE-gpu]

The tests marked `gpu`, the rows of the paper's Table 1 for CamVid at 360x480 (several at once; with `--source` they are
ingested first), then `make bench`'s part for GPUs.  Each result is a record as soon as it is there, and `make results`
reads it.  The same command goes on, also on another machine to which OUT has travelled, or only OUT/lease.json and the
records: what is done is not done again.  `--dry` tries all of it on a CPU, with generated scenes, in minutes; its
figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path

from benchmarks.performance.lease import FAILED, Job, Lease, Step
from benchmarks.results.chain import STEPS
from benchmarks.results.records import RECORDS, clean, keep
from orchestrator.folder.layout import locked
from orchestrator.process.child import CODE, child_command
from orchestrator.process.interrupt import handled
from orchestrator.run.protocol import load_summary
from querying.base.errors import Interrupted, S4ALError, UserError
from querying.base.files import read_json, write_json, write_text

ROWS = ("s4al_plus", "supervised", "full", "reco", "self_training", "self_training_2_2")
"""The chain's ends first: what a lease does not come to should be a step between."""
SECONDS = {"tests": 150.0, "data": 90.0, "rows": None, "bench": 150.0}
"""Of each step in a lease, at most; the rows have what the others leave."""
TESTS, BENCH = "tests.json", "bench.json"
"""In the record."""
CPUS_PER_RUN = 3
MOST_AT_ONCE = 6
DRY = (
    "data.dataset=toy", "data.size=[48,64]", "model.weights=none", "model.aspp_channels=8", "model.decoder_channels=8",
    "model.low_level_channels=8", "model.embedding_dim=8", "reco.queries=8", "reco.negatives=8", "train.epochs=2",
    "train.steps_per_epoch=2", "teacher.steps_per_epoch=2", "query.region_size=16", "augment.cutout_size=8",
)  # fmt: skip


def main(words: Sequence[str]) -> int:
    """Exit status: 0 when all is done, 1 when a job has failed twice or, at the end, a test marked `gpu` had failed,
    130 when the next lease has something to do."""
    options = parsed(words)
    try:
        check(options)
        with locked(options.out), handled():
            lease = Lease(options.out, lambda line: print(line, flush=True))
            options.name = options.name or lease.remembered("record", f"{date.today().isoformat()}-gpu")
            options.threads = int(lease.remembered("threads", str(options.threads)))
            lease.steps = steps(options)
            if options.again:
                lease.again()
            try:
                done = lease.work(60 * options.minutes)
            finally:
                print("\n".join(lease.lines()), flush=True)
            if any(lease.state_of(job) == FAILED for step in lease.steps for job in step.jobs):
                return 1
            if not done:
                raise Interrupted("time is over: the same command continues")
    except S4ALError as error:
        print(f"gpu: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("gpu: stopped: the same command continues", file=sys.stderr)
        return Interrupted.exit_status
    record = options.records / options.name
    print(f"records: {record} (`make results`)")
    if failing := failing_tests(record):
        print(f"gpu: tests failed: {', '.join(failing)} (again: remove {record / TESTS})", file=sys.stderr)
        return 1
    return 0


def parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="CamVid as `s4al ingest camvid SRC DST --size 360x480` makes it")
    parser.add_argument("--source", type=Path, help="CamVid's raw files, to be ingested first")
    parser.add_argument("--weights", default="imagenet", help="model.weights (default imagenet: a download)")
    parser.add_argument("--minutes", type=float, default=14.0, help="of this lease, saving included (default 14)")
    parser.add_argument("--seeds", default="0", help="such as 0,1,2 (default 0)")
    parser.add_argument("--at-once", type=int, help=f"runs at a time (default: a run per {CPUS_PER_RUN} CPUs)")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="runs, logs and lease.json")
    parser.add_argument("--name", help="of the record (default: DATE-gpu of the first lease's day)")
    parser.add_argument("--records", type=Path, help=f"where records go (default {RECORDS}; OUT/records with --dry)")
    parser.add_argument("--again", action="store_true", help="try again what has failed twice")
    parser.add_argument("--dry", action="store_true", help="tiny, on a CPU: does every step work?")
    options = parser.parse_args(words)
    options.records = options.records or (options.out / "records" if options.dry else RECORDS)
    return options


def check(options: argparse.Namespace) -> None:
    """UserError for what would fail after minutes of a lease; fills in what is not said."""
    import torch

    if not options.dry and not torch.cuda.is_available():
        raise UserError("there is no GPU here (make gpu DRY=1 tries everything on a CPU)")
    if not options.dry and (options.data is None) == (options.source is None):
        raise UserError("name the data: --data DATA (ingested at 360x480) or --source SRC (CamVid's raw files)")
    if options.dry and (options.data or options.source):
        raise UserError("--dry makes its own data: leave --data and --source out (make gpu DRY=1 without DATA)")
    if not all(seed.strip().isdigit() for seed in options.seeds.split(",")):
        raise UserError(f"--seeds {options.seeds}: numbers with commas between them were expected")
    if options.minutes <= 0:
        raise UserError(f"--minutes {options.minutes}: must be above 0")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for key in ("data", "source"):
        if path := getattr(options, key):
            setattr(options, key, path.resolve())
    if options.weights not in ("none", "imagenet"):
        options.weights = str(Path(options.weights).resolve())
    options.at_once = options.at_once or max(1, min(MOST_AT_ONCE, cpus // (1 if options.dry else CPUS_PER_RUN)))
    options.threads = max(1, cpus // options.at_once)


def steps(options: argparse.Namespace) -> list[Step]:
    """In their order; the data of `--source` and of `--dry` are made first."""
    out, record = options.out.resolve(), options.records / options.name
    data = options.data or out / "data"
    made, words = list[Step](), list[str]()
    if options.dry:
        words = ["ingest", "toy", str(data), "--size", "48x64", "--images", "24,4,6"]
    elif options.source:
        words = ["ingest", "camvid", str(options.source), str(data), "--size", "360x480"]
    if words:
        job = Job("data", child_command(words), there=(data / "index.json").exists)
        made = [Step("data", [job], SECONDS["data"], needed=True)]
    marked = [str(path) for path in sorted((CODE / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", f"--rootdir={CODE}", *marked]
    xml, bench = out / "tests.xml", out / "bench"
    what = ["parts", "--rounds", "1"] if options.dry else ["device"]
    measure = [sys.executable, "-m", "benchmarks.performance", "--only", *what]
    runs = [
        Job(
            f"{row}-seed{seed}",
            child_command(run_words(options, data, out, row, seed)),
            partial(keep_run, out / f"runs/{row}-seed{seed}", options),
            (record / f"{row}-seed{seed}" / "summary.json").exists,
            partial(has_ended, out / f"runs/{row}-seed{seed}"),  # without ONNX file and report
            goes_on=True,
        )
        for seed in dict.fromkeys(int(seed) for seed in options.seeds.split(","))
        for row in ROWS
    ]
    test = Job(
        "tests",
        [*tests, f"--junitxml={xml}"],
        partial(keep_tests, xml, record),
        (record / TESTS).exists,
        good=(0, 1, 5),
    )
    measured = Job(
        "bench", [*measure, "--out", str(bench)], partial(keep_bench, bench, record), (record / BENCH).exists
    )
    return [
        Step("tests", [test], SECONDS["tests"]),
        *made,
        Step("rows", runs, SECONDS["rows"], options.at_once),
        Step("bench", [measured], SECONDS["bench"]),
    ]


def run_words(options: argparse.Namespace, data: Path, out: Path, row: str, seed: int) -> list[str]:
    """The `s4al run` of a row; it is called as in `benchmarks.results.chain`."""
    assert row in STEPS
    words = ["run", f"camvid_{row}", f"seed={seed}", "--data", str(data), "--out", str(out / f"runs/{row}-seed{seed}")]
    keys = [f"train.threads={options.threads}", f"query.threads={options.threads}"]
    keys += DRY if options.dry else [f"model.weights={options.weights}"]
    return [*words, "--backend", "local", "--tracking", "none", *keys]


def has_ended(run: Path) -> bool:
    """Are all its cycles in its summary?"""
    with suppress(S4ALError):  # there is none yet
        return bool(load_summary(run)["finished"])
    return False


def keep_run(run: Path, options: argparse.Namespace) -> None:
    keep([run], options.records, options.name)


def keep_tests(xml: Path, record: Path) -> None:
    """How the tests ended, as tests.json."""
    suites = list(ElementTree.parse(xml).getroot().iter("testsuite"))
    count = {
        name: sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    }
    failed = count["failures"] + count["errors"]
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for suite in suites
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    write_json(
        record / TESTS,
        {
            "passed": count["tests"] - failed - count["skipped"], "failed": failed, "skipped": count["skipped"],
            "seconds": round(sum(float(suite.get("time", 0)) for suite in suites), 1), "failing": bad,
        },
    )  # fmt: skip


def failing_tests(record: Path) -> list[str]:
    """The names of those that failed, where the tests have come to their end."""
    path = record / TESTS
    return list(read_json(path)["failing"]) if path.exists() else []


def keep_bench(bench: Path, record: Path) -> None:
    """bench.json as it is, but for what names the machine."""
    found = json.loads(clean((bench / BENCH).read_text()))
    write_text(record / BENCH, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
