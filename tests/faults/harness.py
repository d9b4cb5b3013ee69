"""Kill, starve and corrupt real runs, continue them, and compare every byte with an undisturbed one; prints figures.

    python -m tests.faults.harness [--kills 300] [--flips 2000] [--seed 0] [--plant DEFECT] [--out runs/faults]

Every trial is a process of its own, forked from a server that has torch loaded.  `--plant` builds a defect in, to show
that the harness sees it: `momentum` (not restored) or `in-place` (files written under their own name, nothing checked).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
LIMIT_S = 120


@dataclass
class Figure:
    """One row of the table."""

    what: str
    trials: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, trial: str, *, ok: bool) -> None:
        self.trials += 1
        if not ok:
            self.failures.append(trial)
            print(f"  FAILED {self.what}: {trial}", flush=True)


def child(data: str, root: str, failpoint: str, trace: str, plant: str) -> None:
    """One run of the smallest configuration, in a process of its own."""
    os.environ.update({"S4AL_FAILPOINT": failpoint, "S4AL_FAILPOINT_TRACE": trace})
    import torch

    torch.set_num_threads(1)
    if plant:
        _plant(plant)
    from tests.small import small_run

    try:
        small_run(Path(data), Path(root))
    except OSError as error:
        print(error, flush=True)
        os._exit(5)


def _plant(defect: str) -> None:
    if defect == "momentum":
        from training import checkpoint

        restore = checkpoint.TrainingStates.restore

        def forgetful(self, model, optimizer):  # type: ignore[no-untyped-def]
            progress = restore(self, model, optimizer)
            optimizer.state.clear()
            return progress

        checkpoint.TrainingStates.restore = forgetful
    elif defect == "in-place":
        import querying.ledger
        import querying.scorer
        from orchestrator import layout
        from querying.failpoints import failpoint

        @contextmanager
        def in_place(path: Path) -> Iterator[Path]:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield path
            failpoint(f"{path.name}:written")

        querying.ledger.written = querying.scorer.written = in_place
        querying.ledger.Ledger.problems = lambda self, cycle: []
        querying.ledger.Ledger.chain = lambda self, cycle: ""
        querying.scorer._intact = lambda done: all(
            done.with_name(done.name.replace("shard", kind)).with_suffix(".arrow").exists()
            for kind in ("regions", "pseudo")
        )
        layout.problems = lambda folder, inputs=None: []
    else:
        raise SystemExit(f"unknown defect {defect!r}")


class Trials:
    def __init__(self, data: Path, scratch: Path, plant: str) -> None:
        self.data, self.scratch, self.plant = data, scratch, plant
        self.clean = scratch / "clean"
        trace = scratch / "trace"
        assert self.run(self.clean, trace=str(trace)) == 0
        self.expected = contents(self.clean)
        self.names = [name for name in trace.read_text().split() if not name.startswith("progress.json")]

    def start(self, root: Path, failpoint: str = "", trace: str = "") -> multiprocessing.process.BaseProcess:
        process = SERVER.Process(target=child, args=(str(self.data), str(root), failpoint, trace, self.plant))
        process.start()
        return process

    def run(self, root: Path, failpoint: str = "", trace: str = "") -> int | None:
        process = self.start(root, failpoint, trace)
        process.join(LIMIT_S)
        if process.exitcode is None:
            process.kill()
        return process.exitcode

    def ends_the_same(self, root: Path) -> bool:
        return self.run(root) == 0 and contents(root) == self.expected and leftovers(root) == []

    def at_every_failpoint(self, action: str, status: int) -> Iterator[tuple[str, bool]]:
        """Break at the n-th passing of every name, continue, compare."""
        passed: Counter[str] = Counter()
        for name in self.names:
            passed[name] += 1
            place = f"{name}@{passed[name]}"
            root = self.scratch / "run"
            shutil.rmtree(root, ignore_errors=True)
            broke = self.run(root, f"{place}={action}") == status
            yield place, broke and self.ends_the_same(root)

    def at_random_times(self, kills: int, rng: random.Random) -> Iterator[tuple[str, bool]]:
        """SIGKILL after a random time, again and again until the run is through; a trial is a kill."""
        started = time.monotonic()
        assert self.run(self.scratch / "timing") == 0
        whole = time.monotonic() - started
        while kills > 0:
            root = self.scratch / "run"
            shutil.rmtree(root, ignore_errors=True)
            waits = []
            while True:
                process = self.start(root)
                process.join(rng.uniform(0, whole) if kills > 0 else LIMIT_S)
                if process.exitcode is not None:
                    break
                waits.append(process.pid)
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills -= 1
            same = process.exitcode == 0 and contents(root) == self.expected and leftovers(root) == []
            for number in range(len(waits)):
                yield f"kill {number + 1} of a run killed {len(waits)} times", same


def contents(root: Path) -> dict[str, str]:
    """What must not depend on how a run came to its end, by file."""
    from querying.files import read_json

    wanted = ("ledger/cycle-*.parquet", "*/checkpoint/*.safetensors", "*/scores/*.arrow", "*/query/*.parquet")
    files = [path for pattern in (*wanted, "*/evaluation/confusion.json") for path in root.glob(pattern)]
    found = {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    if (root / "summary.json").exists():
        summary = read_json(root / "summary.json")
        found["summary"] = repr([{**row, "seconds": None} for row in summary["cycles"]])
    return found


def leftovers(root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*") if ".tmp" in path.name or path.name == "training"]


def flips(
    number: int, rng: random.Random, paths: list[Path], check: Callable[[], object]
) -> Iterator[tuple[str, bool]]:
    """Flip one bit of one of the files; `check` must then say or raise something."""
    from querying.errors import S4ALError

    for _ in range(number):
        path = rng.choice(paths)
        content = path.read_bytes()
        place, bit = rng.randrange(len(content)), rng.randrange(8)
        altered = bytearray(content)
        altered[place] ^= 1 << bit
        path.write_bytes(altered)
        try:
            noticed = bool(check())
        except S4ALError:
            noticed = True
        yield f"{path} byte {place} bit {bit}", noticed or same_values(path, content)
        path.write_bytes(content)


def same_values(path: Path, content: bytes) -> bool:
    """A flip in JSON that leaves the same values (in white space, or in a float's 17th digit) is no damage."""
    if path.suffix not in (".json", ".jsonl"):
        return False
    try:
        now, before = (list(map(json.loads, _documents(path, text))) for text in (path.read_bytes(), content))
    except ValueError:
        return False
    return now == before


def _documents(path: Path, text: bytes) -> list[bytes]:
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def flip_figures(trials: Trials, number: int, rng: random.Random) -> Iterator[Figure]:
    from orchestrator.layout import RunLayout
    from orchestrator.manifest import problems
    from orchestrator.tracking import read_record
    from querying.files import read_json
    from querying.ledger import Ledger
    from querying.shards import DataIndex, verify

    root = trials.scratch / "flips"
    shutil.copytree(trials.clean, root, dirs_exist_ok=True)
    data = Path(shutil.copytree(trials.data, trials.scratch / "flipped-data", dirs_exist_ok=True))
    layout, ledger = RunLayout(root), Ledger(root / "ledger")
    kinds: dict[str, tuple[list[Path], Callable[[], object]]] = {
        name: ([path for path in folder.iterdir() if path.is_file()], lambda folder=folder: problems(folder))
        for name, folder in {
            "checkpoint": layout.checkpoint(1),
            "evaluation": layout.evaluation(0),
            "scores and pseudo-labels": layout.scores(0),
            "query": layout.query(0),
        }.items()
    }
    kinds["ledger"] = (list((root / "ledger").iterdir()), lambda: ledger.problems(0) + ledger.problems(1))
    kinds["summary.json"] = ([layout.summary], lambda: read_json(layout.summary) and None)
    kinds["metrics.jsonl"] = ([layout.metrics], lambda: len(list(read_record(layout.metrics))) != record_rows)
    kinds["index.json"] = ([data / "index.json"], lambda: DataIndex.load(data) and None)
    shards = [*data.glob("images/*"), *data.glob("truth/*")]
    index = DataIndex.load(data)
    kinds["data shards"] = (shards, lambda: list(verify(index)))
    record_rows = len(list(read_record(layout.metrics)))
    for kind, (paths, check) in kinds.items():
        figure = Figure(f"one flipped bit: {kind}")
        for trial, ok in flips(number, rng, paths, check):
            figure.add(trial, ok=ok)
        yield figure


def figures(trials: Trials, kills: int, flips_each: int, seed: int) -> Iterator[Figure]:
    def counted(what: str, results: Iterator[tuple[str, bool]]) -> Figure:
        figure = Figure(what)
        for trial, ok in results:
            figure.add(trial, ok=ok)
        return figure

    rng = random.Random(seed)
    yield counted("SIGKILL at every failpoint, continued", trials.at_every_failpoint("kill", -signal.SIGKILL))
    yield counted("disk full at every failpoint, continued", trials.at_every_failpoint("enospc", 5))
    yield counted("SIGKILL at a random time, continued", trials.at_random_times(kills, rng))
    yield from flip_figures(trials, flips_each, rng)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plant", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    options = parser.parse_args()
    SERVER.set_forkserver_preload(["tests.small"])

    from benchmarks.ingest import ingest

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        ingest("toy", None, scratch / "toy", size=(48, 64), shard_size=5, counts=(24, 4, 6), num_classes=6)
        trials = Trials(scratch / "toy", scratch, options.plant)
        rows = []
        for figure in figures(trials, options.kills, options.flips, options.seed):
            print(f"{figure.what}: {figure.trials} trials, {len(figure.failures)} failures", flush=True)
            rows.append(figure)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    lines = ["| fault | trials | failures |", "|---|---|---|"]
    lines += [f"| {row.what} | {row.trials} | {len(row.failures)} |" for row in rows]
    minutes = (time.monotonic() - started) / 60
    lines.append(f"\ncommit {commit}, seed {options.seed}, {platform.machine()}, {minutes:.0f} minutes")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "faults.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return int(any(row.failures for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
