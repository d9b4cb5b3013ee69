"""Break runs on nodes that share a bucket and no folder, data and run in the bucket, and compare every byte.

    python -m tests.faults.nodes [--trials 1.0] [--seed 0] [--only PATTERN] [--minutes M] [--out runs/faults]

For root, which may make namespaces.  One run takes several faults, at random times, of kinds drawn from `KINDS`.  A
trial is one of them, until the run has published more: what is there then has to be that of the run of one process, and
at the end of the run all of it, and `s4al verify` finds nothing.  `nodes.json` in --out keeps the trials; the same
command goes on with those that are missing.  Exit status 1 on any failure.
"""

from __future__ import annotations

import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from benchmarks.report.experiment_tables import node_faults
from querying.base.files import write_text
from tests.faults.apart import CONFIG, Apart, Run
from tests.faults.processes import SCORER, TRAIN_WORKER, kill, options_of_trials, until
from tests.hosts import inner, needs_namespaces
from tests.store import moto_server

AWAY_S = 30.0
WAIT_S = 20.0
"""A fault comes at most so long after the one before has been got over."""
SHARE = 0.2
"""Of requests, or of bodies, that are not as they should be."""
RECORD = "nodes.json"


class Missed(Exception):
    """The run was over before."""


class Failed(Exception):
    """What is wrong."""


Trial = dict[str, Any]
Fault = Callable[[str, str, int], object]


def going_on(run: Run) -> None:
    if not run.driver.running:
        if status := run.driver.process.poll():
            raise Failed(f"status {status}: {run.driver.told()[-800:]!r}")
        raise Missed


def some_time(run: Run, rng: random.Random) -> None:
    until(lambda: not run.driver.running, rng.uniform(0, WAIT_S))
    going_on(run)


def over(run: Run, before: set[str]) -> None:
    if not run.goes_on(before):
        raise Failed(f"nothing more was published: {run.driver.told()[-800:]!r}")


def driver_killed(run: Run, rng: random.Random, *, elsewhere: bool = False, fault: Fault | None = None) -> str:
    """SIGKILL, and the same command with an empty cache on the same machine, or on another one."""
    some_time(run, rng)
    kill(inner(run.driver))
    run.driver.process.wait()
    if lost := run.wrong_so_far():
        raise Failed(f"when it was dead: {'; '.join(lost)}")
    before = run.published()
    if fault:
        run.apart.proxy.reset(fault)
    run.start(run.other_host() if elsewhere else run.host)
    over(run, before)
    return f"{len(before)} files were published"


def node_killed(run: Run, rng: random.Random, words: str, pattern: str) -> str:
    """A node with such a process, once the stage has such files; a new node joins."""
    apart = run.apart
    while True:
        until(lambda: not run.driver.running or (apart.working(words) and run.files(pattern)), apart.limit_s)
        time.sleep(rng.uniform(0, 1))
        going_on(run)
        there = run.files(pattern)
        if there and (nodes := apart.working(words)):
            apart.lose(rng.choice(nodes))
            break
    before = run.published()
    apart.add()
    over(run, before)
    return f"with {len(there)} such files"


def store_away(run: Run, rng: random.Random) -> str:
    some_time(run, rng)
    with run.apart.proxy.away():
        before = run.published()
        until(lambda: not run.driver.running, AWAY_S)
    over(run, before)
    return f"for {AWAY_S:.0f} s"


def store_with(run: Run, rng: random.Random, fault: Fault) -> str:
    """Until more is published."""
    some_time(run, rng)
    before, count = run.published(), Counter[bool]()

    def counted(method: str, path: str, number: int) -> object:
        found = fault(method, path, number)
        count[bool(found)] += 1
        return found

    run.apart.proxy.reset(counted)
    over(run, before)
    run.apart.proxy.reset()
    if not count[True]:
        raise Missed
    return f"{count[True]} of {count.total()} requests"


def frozen_driver(run: Run, rng: random.Random) -> str:
    """SIGSTOP; the same command on another machine takes over, and some time later the old one is let go on."""
    some_time(run, rng)
    old, pid, before = run.driver, inner(run.driver), run.published()
    os.kill(pid, signal.SIGSTOP)
    time.sleep(2)  # what was on its way arrives
    first = token(run)
    run.start(run.other_host())
    until(lambda: not run.driver.running or token(run) != first, run.apart.limit_s, every=1.0)
    new = token(run)
    some_time(run, rng)
    for one in (old.process.pid, pid):  # who waits for a process that is stopped stops itself
        kill(one, signal.SIGCONT)
    if problem := run.ends(old, 5 if first >= 0 else 2):  # 2: it had not begun yet, and meets one that has
        raise Failed(f"of the old driver: {problem}")
    over(run, before)
    state = run.state()
    if {run.log.entry(number).token for number in range(new, state.next)} != {new}:
        raise Failed("the old driver has published")
    return f"{state.next - new} entries of the new one, none of the old one"


def token(run: Run) -> int:
    """Of who holds the run, or held it last; -1 where nobody has begun."""
    last = run.state().last
    return last.token if last else -1


def slow(rng: random.Random) -> Fault:
    return lambda method, path, number: rng.uniform(0.2, 0.5)


def errors(rng: random.Random) -> Fault:
    return lambda method, path, number: rng.choice((500, 503)) if rng.random() < SHARE else None


def flips(rng: random.Random) -> Fault:
    """Of objects, not of lists."""
    return lambda method, path, number: (
        "flip" if method == "GET" and "list-type" not in path and rng.random() < SHARE else None
    )


class Kind(NamedTuple):
    what: str
    number: int
    do: Callable[[Run, random.Random], str]
    until: str = ""
    """Too late once there is a published file of this stage."""


STATES, SHARDS = "cycle-*/training/states/step-*", "cycle-*/scores-*.tmp/shard-*.json"
KINDS = [
    Kind("driver killed; the same command with an empty cache", 10, driver_killed),
    Kind(
        "driver killed; the same command on another machine with an empty cache", 6,
        lambda run, rng: driver_killed(run, rng, elsewhere=True),
    ),
    Kind(
        "node killed in training, a new one joins", 9,
        lambda run, rng: node_killed(run, rng, TRAIN_WORKER, STATES), "cycle-002/checkpoint",
    ),
    Kind(
        "node killed in scoring, a new one joins", 9,
        lambda run, rng: node_killed(run, rng, SCORER, SHARDS), "cycle-001/scores",
    ),
    Kind("store away for 30 s: connections refused, those that were open closed", 8, store_away),
    Kind("0.2 to 0.5 s for each request, until more is published", 6, lambda run, rng: store_with(run, rng, slow(rng))),
    Kind(
        "500 or 503 to a fifth of all requests, until more is published", 4,
        lambda run, rng: store_with(run, rng, errors(rng)),
    ),
    Kind(
        "driver killed; the same command with an empty cache, 500 or 503 to a fifth of all requests", 4,
        lambda run, rng: driver_killed(run, rng, fault=errors(rng)),
    ),
    Kind(
        "driver killed; the same command with an empty cache, a bit flipped in a fifth of all objects on their way", 8,
        lambda run, rng: driver_killed(run, rng, fault=flips(rng)),
    ),
    Kind(
        "driver frozen, taken over from another machine, and let go on: status 5, nothing of it published", 6,
        frozen_driver,
    ),
]  # fmt: skip
"""What is done, how often, and how; 70 in all."""


def one_run(apart: Apart, open_: Counter[str], rng: random.Random) -> list[Trial]:
    """Trials of one run, of kinds that are open.  Where one fails, it alone counts, where the end is wrong, all."""
    trials: list[Trial] = []
    with apart.run() as run:
        run.start()
        while run.driver.running:
            done, published = Counter(trial["fault"] for trial in trials), run.published()
            late = {
                kind.what for kind in KINDS if kind.until and any(name.startswith(kind.until) for name in published)
            }
            left = open_ - done
            kinds = [kind for kind in KINDS if left[kind.what] and kind.what not in late]
            if not kinds:
                break
            [kind] = rng.choices(kinds, [left[kind.what] for kind in kinds])
            begun, note, problem = time.monotonic(), "", ""
            try:
                note = kind.do(run, rng)
            except Missed:
                continue
            except Failed as error:
                problem = str(error)
            apart.proxy.reset()
            problem = problem or "; ".join(run.wrong_so_far())
            trial = {"fault": kind.what, "run": run.name, "seconds": round(time.monotonic() - begun, 1),
                     "note": note, "problem": problem}  # fmt: skip
            print(f"  {trial}", flush=True)
            if problem:
                return [trial]
            trials.append(trial)
        if problem := run.ends(run.driver) or "; ".join(run.wrong()):
            print(f"  FAILED at its end: {problem}", flush=True)
            return [{**trial, "problem": problem} for trial in trials]
    return trials


def save(record: Path, trials: list[Trial], seed: int) -> None:
    about = {
        "schema": 1, "seed": seed, "machine": f"{os.cpu_count()} cores, {platform.machine()}", "config": CONFIG,
        "faults": [kind.what for kind in KINDS], "trials": trials,
    }  # fmt: skip
    write_text(record, json.dumps(about, indent=1) + "\n")


def main() -> int:
    parser = options_of_trials(__doc__)
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many")
    options = parser.parse_args()
    try:
        needs_namespaces()
    except pytest.skip.Exception as error:
        print(f"left out: {error}")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    record = options.out / RECORD
    trials: list[Trial] = json.loads(record.read_text())["trials"] if record.exists() else []
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    wanted = Counter(
        {kind.what: max(1, round(kind.number * options.trials)) for kind in KINDS if re.search(options.only, kind.what)}
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # hosts and their programs are removed
    end, runs = time.monotonic() + 60 * options.minutes, 0
    with tempfile.TemporaryDirectory() as folder, moto_server() as port:
        apart = Apart(Path(folder), port, CONFIG, options.patience)
        try:
            apart.prepare()
            while (left := wanted - Counter(trial["fault"] for trial in trials)) and time.monotonic() < end:
                runs += 1
                rng = random.Random(f"{options.seed}/{len(trials)}/{runs}")
                for trial in one_run(apart, left, rng):
                    problem = trial["problem"].replace(folder, "SCRATCH")  # a record says nothing of a machine
                    trials.append({**trial, "problem": problem, "commit": commit})
                save(record, trials, options.seed)
                print(f"{len(trials)} trials, {left.total()} were left", flush=True)
        finally:
            apart.close()
    print(node_faults(options.out)[0])
    return int(any(trial["problem"] for trial in trials))


if __name__ == "__main__":
    raise SystemExit(main())
