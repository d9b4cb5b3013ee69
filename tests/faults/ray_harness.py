"""Break real runs of the command line on Ray, let them recover or start them again, and compare every byte.

    python -m tests.faults.ray_harness [--trials 1.0] [--seed 0] [--only PATTERN] [--patience 1.0] [--out runs/faults]

The kills are those of `KINDS`, times `--trials`; `--only` picks kinds by a regular expression.  One run takes several
kills.  Exit status 1 on any failure: other bytes, a wrong exit status, late recovery, a process that stays.
"""

from __future__ import annotations

import contextlib
import os
import platform
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults.common import Figure, contents, leftovers
from tests.faults.processes import (
    CONTROLLER,
    GCS,
    RAYLET,
    SCORER,
    TRAIN_WORKER,
    Program,
    kill,
    options_of_trials,
    ranks,
    until,
)
from tests.small import SMALL

ROOT = Path(__file__).parents[2]
LIMIT_S = 400
"""Of one run of the command."""
RECOVERY_S = 180
"""In so long a broken run must go on or have ended; a process that has not begun has 120 s."""
AGENTS_S = 100
"""Two agents of a killed driver's cluster try for 60 s to tell its control service that the raylet is gone."""
CONFIG = [
    *SMALL, "train.workers=2", "query.actors=2", "teacher.batch_size=4", "train.steps_per_epoch=10", "train.epochs=12",
    "train.timeout=10", "query.scales=[1,2,2,2]", "query.batch_size=1",
]  # fmt: skip


class Broken(NamedTuple):
    """One kill: what it was, what is wrong (empty: nothing so far), and the seconds until the run went on or ended."""

    what: str
    problem: str
    seconds: float


Find = Callable[[str], dict[int, str]]
"""Living processes whose command line holds some words."""


class Trials:
    def __init__(self, scratch: Path, patience: float) -> None:
        self.scratch, self.number = scratch, 0
        self.limit_s, self.recovery_s = LIMIT_S * patience, RECOVERY_S * patience
        self.programs: list[Program] = []
        self.env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.env.pop("RAY_ADDRESS", None)
        self.data = scratch / "toy"

    def prepare(self, rng: random.Random) -> None:
        """The data, an undisturbed run, and one that stopped before it scored."""
        from benchmarks.datasets.ingest import ingest

        self.rng = rng
        ingest("toy", None, self.data, size=(48, 64), shard_size=2, counts=(24, 4, 6), num_classes=6)
        clean = self.start(self.scratch / "clean")
        assert clean.end(self.limit_s) == 0, clean.told()
        self.whole = clean.seconds
        self.expected = contents(self.scratch / "clean")
        self.before_scoring = self.scratch / "before-scoring"
        stopped = self.start(self.before_scoring, env={"S4AL_FAILPOINT": "cycle-000/evaluation:published=kill"})
        assert stopped.end(self.limit_s) == -signal.SIGKILL, stopped.told()

    # Runs

    def start(self, root: Path, *more: object, env: dict[str, str] | None = None) -> Program:
        command = [sys.executable, "-m", "benchmarks", "run", "toy_s4al_plus", *CONFIG, *more]
        command += ["--data", self.data, "--out", root, "--tracking", "none", "--backend", "ray"]
        return self.program(command, env or {})

    def program(self, command: list[object], env: dict[str, str]) -> Program:
        log = self.scratch / f"log-{len(self.programs)}"
        self.programs.append(Program(command, log, {**self.env, **env}, ROOT))
        return self.programs[-1]

    def fresh(self, state: Path | None = None) -> Path:
        """A new run folder, empty or a copy of `state`."""
        shutil.rmtree(self.scratch / f"run-{self.number}", ignore_errors=True)
        self.number += 1
        root = self.scratch / f"run-{self.number}"
        if state:
            shutil.copytree(state, root)
        return root

    def finished(self, run: Program, root: Path, statuses: tuple[int, ...] = (0,)) -> str:
        """What is wrong with a run that ends now (empty: nothing)."""
        status = run.end(self.limit_s)
        if status not in statuses:
            return f"status {status} after {run.seconds:.0f} s: {run.told()[-300:]!r}"
        if 0 not in statuses:
            return ""
        if left := run.remaining(15):
            return f"ended and left {list(left.values())}"
        same = contents(root) == self.expected
        return "" if same and leftovers(root) == [] else f"other bytes or leftovers: {differences(self.expected, root)}"

    def ends_with(self, run: Program, status: int) -> tuple[str, float]:
        """Wait for the end of a broken run, which must come in time, with this status and one line, or with status 0
        where the kill came so late that nothing was left to do on Ray."""
        asked = time.monotonic()
        ended = run.end(self.recovery_s)
        seconds = time.monotonic() - asked
        lines = [line for line in run.told().splitlines() if line.startswith("s4al: ")]
        right = (ended, len(lines)) in ((status, 1), (0, 0)) and "Traceback" not in run.told()
        return "" if right else f"status {ended}, said {run.told()[-600:]!r}", seconds

    # Kinds

    def lost_workers(self, kills: int, number: int, *, again: bool = False) -> Iterator[Broken]:
        """A signal to one of the two training workers; `again`: first a kill, then this, 0-5 s into the restart."""
        while kills > 0:
            root, broken = self.fresh(), []
            run = self.start(root, "train.max_failures=50")
            while kills > 0 and (workers := self.training(run, root)):
                time.sleep(self.rng.uniform(0, 2))
                if again:
                    kill(self.rng.choice(list(workers)))
                    until(
                        lambda old=workers, run=run: bool(set(run.find(TRAIN_WORKER)) - set(old)) or not run.running,
                        self.recovery_s,
                    )
                    time.sleep(self.rng.uniform(0, 5))
                workers = run.find(TRAIN_WORKER)
                if not workers:  # the training was over
                    continue
                raylet = next(iter(run.find(RAYLET).values()), "")
                rank = ranks(raylet, workers) if raylet else {}
                pid, asked = self.rng.choice(list(workers)), time.monotonic()
                kill(pid, number)
                kills -= 1
                on = self.training(run, root, old=workers)
                broken.append((f"rank {rank.get(pid, 'unknown')}", time.monotonic() - asked, bool(on)))
            problem = self.finished(run, root)
            for what, seconds, on in broken:
                late = "" if on else "the training did not go on"
                yield Broken(what, problem or late, seconds)

    def training(
        self, run: Program, root: Path, old: dict[int, str] | None = None, find: Find | None = None
    ) -> dict[int, str]:
        """The two workers once they make steps, none of them one of `old`; nothing if the run ends before."""
        find = find or run.find
        begun: dict[frozenset[int], float] = {}

        def stepping() -> bool:
            pair = frozenset(find(TRAIN_WORKER))
            if len(pair) != 2 or pair & set(old or {}):
                return False
            since = begun.setdefault(pair, time.time())
            return any(newer(path, since) for path in root.glob("cycle-*/training/progress.json"))

        until(lambda: stepping() or not run.running, self.limit_s if old is None else self.recovery_s)
        return find(TRAIN_WORKER) if run.running else {}

    def lost_driver(self, kills: int, *, soon: bool = False) -> Iterator[Broken]:
        """The driver killed at a random time, or (after one such) 0-5 s after it was started again."""
        while kills > 0:
            root, waits = self.fresh(), []
            spare, in_a_row = int(soon), 0
            while True:
                run, since = self.start(root), time.time()
                last = kills <= 0 or (soon and in_a_row == 3)
                if last:
                    until(lambda run=run, root=root, since=since: moved(root, since) or not run.running, self.limit_s)
                on = run.seconds
                wait = self.limit_s if last else self.rng.uniform(0, 5 if soon and not spare else self.whole)
                if until(lambda run=run: not run.running, wait):
                    break
                kill(run.process.pid)
                if spare:
                    spare = 0
                    continue
                waits.append(wait)
                kills, in_a_row = kills - 1, in_a_row + 1
            problem = self.finished(run, root)
            yield from (Broken(f"after {wait:.1f} s", problem, on) for wait in waits)

    def lost_scorers(self, kills: int, number: int = signal.SIGKILL) -> Iterator[Broken]:
        """A signal to one of two scorers, three times in a stage at most (as many as it puts up with)."""
        while kills > 0:
            root, broken = self.fresh(self.before_scoring), []
            run = self.start(root)
            for _ in range(min(3, kills)):
                if not self.scoring(run, root):
                    break
                time.sleep(self.rng.uniform(0, 1))
                scorers = run.find(SCORER)
                if not scorers or not staged(root):
                    break
                done, asked = len(staged(root)), time.monotonic()
                kill(self.rng.choice(list(scorers)), number)
                kills -= 1
                until(
                    lambda run=run, root=root, old=scorers: (
                        not run.running or set(run.find(SCORER)) - set(old) or not staged(root)
                    ),
                    self.recovery_s,
                )
                broken.append((f"with {done} of 12 shards scored", time.monotonic() - asked))
            problem = self.finished(run, root)
            yield from (Broken(what, problem, seconds) for what, seconds in broken)

    def scoring(self, run: Program, root: Path, find: Find | None = None) -> bool:
        """Wait until two scorers are at work; False if it is over before."""
        find = find or run.find
        published = root / "cycle-000/scores"
        until(lambda: (len(find(SCORER)) == 2 and staged(root)) or published.exists() or not run.running, self.limit_s)
        return run.running and not published.exists()

    def frozen_evaluators(self, kills: int) -> Iterator[Broken]:
        """Both processes of an evaluation, or the one there is, as soon as they are there."""
        for _ in range(kills):
            root = self.fresh()
            run = self.start(root)
            made = root / "cycle-000"
            until(lambda run=run, made=made: (made / "checkpoint").exists() or not run.running, self.limit_s)
            until(lambda run=run, made=made: bool(run.find(SCORER)) or (made / "evaluation").exists(), self.limit_s)
            time.sleep(self.rng.uniform(0, 0.5))
            there, asked = run.find(SCORER), time.monotonic()
            hit = bool(there) and not (made / "evaluation").exists()
            for pid in there if hit else ():
                kill(pid, signal.SIGSTOP)
            on = until(lambda run=run, made=made: (made / "evaluation").exists() or not run.running, self.recovery_s)
            seconds = time.monotonic() - asked
            problem = self.finished(run, root)
            late = "" if on else "the evaluation did not go on"
            yield Broken(f"{len(there)} processes", problem or late if hit else "it was over before", seconds)

    def lost_service(self, kills: int, words: str, number: int = signal.SIGKILL) -> Iterator[Broken]:
        """A signal to a service of the driver's own cluster at a random time: status 5; the same command goes on."""
        while kills > 0:
            root, broken = self.fresh(), []
            while True:
                run = self.start(root)
                until(lambda run=run: bool(run.find(words)) or not run.running, self.limit_s)
                wait = self.limit_s if kills <= 0 else self.rng.uniform(0, self.whole)
                if until(lambda run=run: not run.running, wait):
                    break
                for pid in run.find(words):
                    kill(pid, number)
                kills -= 1
                broken.append((f"after {wait:.1f} s", *self.ends_with(run, 5)))
            problem = self.finished(run, root)
            yield from (Broken(what, wrong or problem, seconds) for what, wrong, seconds in broken)

    def lost_node(self, kills: int, *, scoring: bool) -> Iterator[Broken]:
        """The raylet of the second of two nodes killed, with a rank or a scorer on it."""
        for trial in range(kills):
            cluster = Cluster(self)
            root = self.fresh(self.before_scoring if scoring else None)
            more = ["train.max_failures=1", "--address", cluster.address]
            try:
                run = self.start(root, *more, env=cluster.env)
                hit = bool((self.scoring if scoring else self.training)(run, root, find=cluster.find))
                time.sleep(self.rng.uniform(0, 1))
                hit = hit and bool(cluster.nodes[-1].find(SCORER if scoring else TRAIN_WORKER))
                asked = time.monotonic()
                cluster.lose_node()
                if scoring:  # the other scorer must do the rest; the training after that needs two nodes
                    until(
                        lambda root=root, run=run: (root / "cycle-000/scores").exists() or not run.running, self.limit_s
                    )
                    cluster.add_node()
                    statuses: tuple[int, ...] = (0, 2, 5)
                elif trial % 2:
                    statuses = (5,)
                else:
                    cluster.add_node()
                    statuses = (0, 5)
                if statuses == (5,):
                    problem, seconds = self.ends_with(run, 5)
                    cluster.add_node()
                else:
                    seconds = time.monotonic() - asked
                    status = run.end(self.limit_s)
                    problem = "" if status in statuses else f"status {status}: {run.told()[-300:]!r}"
                what = f"status {run.process.returncode}"
                if run.process.returncode:
                    run = self.start(root, *more, env=cluster.env)
                missed = "" if hit else "nothing was at work on the node"
                yield Broken(f"{what}, then done", missed or problem or self.finished(run, root), seconds)
            finally:
                cluster.end()

    def stragglers(self) -> list[str]:
        """What ended programs have left behind, after as long as Ray takes to tidy up by itself."""
        until(lambda: not any(program.find() for program in self.programs), AGENTS_S)
        return [f"{program.log.name}: {line}" for program in self.programs for line in program.find().values()]

    def clean_up(self) -> None:
        for program in self.programs:
            program.clean_up()


class Cluster:
    """Two nodes of one CPU each on this machine, with a token: a head that stays, and one to lose."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self.folder = tempfile.mkdtemp(prefix="ray-")  # short: a socket's path has at most 107 characters
        self.env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.head = self.node("--head", f"--port={port}", f"--temp-dir={self.folder}", "--include-dashboard=false")
        assert until(lambda: listens(port) and bool(self.head.find(RAYLET)), 120), self.head.told()
        self.nodes: list[Program] = []
        self.add_node()

    def node(self, *options: str) -> Program:
        ray = Path(sys.executable).parent / "ray"
        command = [ray, "start", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=1", "--num-gpus=0", *options]
        return self.trials.program(command, self.env)

    def add_node(self) -> None:
        node = self.node(f"--address={self.address}")
        assert until(lambda: "Ray runtime started" in node.told(), 120), node.told()
        self.nodes.append(node)

    def find(self, words: str) -> dict[int, str]:
        return {pid: line for node in [self.head, *self.nodes] for pid, line in node.find(words).items()}

    def lose_node(self) -> None:
        for pid in self.nodes[-1].find(RAYLET):
            kill(pid)

    def end(self) -> None:
        for program in [*self.nodes, self.head]:
            program.clean_up()
        shutil.rmtree(self.folder, ignore_errors=True)


def staged(root: Path) -> list[Path]:
    """Shards of the first pool that are scored, while the others are not."""
    return list(root.glob("cycle-000/scores-*.tmp/regions-*.arrow"))


def moved(root: Path, since: float) -> bool:
    """Whether a stage has written anything since then."""
    return any(newer(path, since) for path in root.glob("cycle-*/**/*"))


def newer(path: Path, since: float) -> bool:
    with contextlib.suppress(FileNotFoundError):  # renamed or removed in this moment
        return path.stat().st_mtime > since
    return False


def differences(expected: dict[str, str], root: Path) -> list[str]:
    found = contents(root)
    return [name for name in {**expected, **found} if found.get(name) != expected.get(name)] + leftovers(root)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


KINDS: list[tuple[str, int, Callable[[Trials, int], Iterator[Broken]]]] = [
    ("training worker killed", 12, lambda t, n: t.lost_workers(n, signal.SIGKILL)),
    ("driver killed at a random time", 14, lambda t, n: t.lost_driver(n)),
    ("scorer killed", 9, lambda t, n: t.lost_scorers(n)),
    ("worker killed while its group restarts", 6, lambda t, n: t.lost_workers(n, signal.SIGKILL, again=True)),
    ("driver killed again 0-5 s after its start", 6, lambda t, n: t.lost_driver(n, soon=True)),
    ("worker frozen (SIGSTOP)", 5, lambda t, n: t.lost_workers(n, signal.SIGSTOP)),
    ("worker frozen (SIGSTOP) while its group restarts", 2, lambda t, n: t.lost_workers(n, signal.SIGSTOP, again=True)),
    ("Train's controller frozen (SIGSTOP)", 2, lambda t, n: t.lost_service(n, CONTROLLER, signal.SIGSTOP)),
    ("scorer frozen (SIGSTOP)", 4, lambda t, n: t.lost_scorers(n, signal.SIGSTOP)),
    ("evaluator frozen (SIGSTOP)", 2, lambda t, n: t.frozen_evaluators(n)),
    ("raylet frozen (SIGSTOP)", 2, lambda t, n: t.lost_service(n, RAYLET, signal.SIGSTOP)),
    ("gcs_server frozen (SIGSTOP)", 2, lambda t, n: t.lost_service(n, GCS, signal.SIGSTOP)),
    ("raylet killed", 4, lambda t, n: t.lost_service(n, RAYLET)),
    ("gcs_server killed", 4, lambda t, n: t.lost_service(n, GCS)),
    ("node of two lost in training", 3, lambda t, n: t.lost_node(n, scoring=False)),
    ("node of two lost in scoring", 2, lambda t, n: t.lost_node(n, scoring=True)),
]
"""What is done, how often, and how; 79 in all."""


def figures(trials: Trials, times: float, only: str) -> Iterator[tuple[Figure, float]]:
    """A figure and the worst recovery in seconds for each kind, and one for what stays behind."""
    for what, number, broken in KINDS:
        if not re.search(only, what):
            continue
        figure, worst = Figure(f"Ray: {what}"), 0.0
        for kill_ in broken(trials, max(1, round(number * times))):
            worst = max(worst, kill_.seconds)
            late = kill_.problem or ("" if kill_.seconds <= trials.recovery_s else "too late")
            figure.add(f"{kill_.what} ({kill_.seconds:.0f} s) {late}", ok=not late)
        yield figure, worst
    figure = Figure("Ray: processes left behind")
    stragglers = trials.stragglers()
    for line in stragglers or ["none"]:
        figure.add(line, ok=not stragglers)
    yield figure, 0.0


def main() -> int:
    options = options_of_trials(__doc__).parse_args()
    started, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), options.patience)
        try:
            trials.prepare(random.Random(options.seed))
            print(f"an undisturbed run takes {trials.whole:.0f} s", flush=True)
            for figure, worst in figures(trials, options.trials, options.only):
                print(f"{figure.what}: {figure.trials} trials, {len(figure.failures)} failures, worst recovery"
                      f" {worst:.0f} s ({(time.monotonic() - started) / 60:.1f} min so far)", flush=True)  # fmt: skip
                rows.append((figure, worst))
        finally:
            trials.clean_up()
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    lines = ["| fault | trials | failures | worst recovery, s |", "|---|---|---|---|"]
    lines += [f"| {row.what} | {row.trials} | {len(row.failures)} | {worst:.0f} |" for row, worst in rows]
    minutes = (time.monotonic() - started) / 60
    lines.append(f"\ncommit {commit}, seed {options.seed}, {platform.machine()}, {minutes:.0f} minutes")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "ray-faults.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    return int(any(row.failures for row, _ in rows))


if __name__ == "__main__":
    raise SystemExit(main())
