"""Kill, starve and corrupt real runs, continue them, and compare every byte with an undisturbed one; prints figures.

    python -m tests.faults.harness [--scale 1.0] [--seed 0] [--only PART]... [--plant DEFECT] [--out runs/faults]

Every trial is a process of its own, forked from a server that has torch loaded.  `--plant` builds a defect in, to show
that the harness sees it: `momentum` (not restored), `in-place` (files written under their own name, nothing checked) or
`no-fsync` (seen by a power cut alone).
"""

from __future__ import annotations

import argparse
import platform
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.alterations import shards_altered_at_random_times
from tests.faults.common import Figure
from tests.faults.flips import flip_figures
from tests.faults.power import power_cuts
from tests.faults.ranks import Trainings
from tests.faults.runs import FULL, Trials
from tests.faults.writers import WRITERS, killed_writers


def parts(trials: Trials, scale: float, seed: int, plant: str) -> dict[str, Callable[[], Iterator[Figure]]]:
    """Part of the harness -> its figures; `scale` is a share of the random trials, the others are exhaustive."""
    rng = random.Random(seed)

    def share(number: int) -> int:
        return max(1, round(scale * number))

    def places() -> Iterator[Figure]:
        yield Figure.of("SIGKILL before and after every write, rename, transition",
                        trials.at_every_place("kill", -signal.SIGKILL))  # fmt: skip
        for action in ("enospc", "eio"):
            yield Figure.of(f"{action.upper()} at the same places", trials.at_every_place(action, FULL))

    def bytes_() -> Iterator[Figure]:
        cut, short = (trials.inside_every_file(action, status, rng)
                      for action, status in (("cut", -signal.SIGXFSZ), ("short", FULL)))  # fmt: skip
        yield Figure.of("killed inside the write of every file", cut)
        yield Figure.of("short write inside every file", short)
        yield Figure.of("killed inside the write of a model or a training state", trials.inside_states(20, rng))

    def runs() -> Iterator[Figure]:
        yield Figure.of("SIGKILL of a run at a random time", trials.at_random_times(share(300), seed))

    def power() -> Iterator[Figure]:
        yield Figure.of("power cut (every disk that may be left)", power_cuts(trials, plant))

    def trainings() -> Iterator[Figure]:
        some = Trainings(trials.data, trials.scratch)
        yield Figure.of("training stopped and resumed, bit for bit", some.stopped_and_resumed())
        for world in (1, 2):
            yield Figure.of(f"SIGKILL in a training, ranks: {world}", some.killed(world, share(150), seed))

    def writers() -> Iterator[Figure]:
        for kind in WRITERS:
            yield Figure.of(f"SIGKILL of a writer of {kind}", killed_writers(kind, share(1500), trials.scratch, rng))

    def alterations() -> Iterator[Figure]:
        yield Figure.of("a shard altered in place under a run, size and mtime kept",
                        shards_altered_at_random_times(trials, share(100), seed))  # fmt: skip

    def flips() -> Iterator[Figure]:
        yield from flip_figures(trials, share(2000), rng)

    return {
        "places": places, "bytes": bytes_, "runs": runs, "power": power, "trainings": trainings, "writers": writers,
        "flips": flips, "alterations": alterations,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--plant", default="")
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    options = parser.parse_args()

    from benchmarks.datasets.ingest import ingest

    started = time.monotonic()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        ingest("toy", None, scratch / "toy", size=(48, 64), shard_size=5, counts=(24, 4, 6), num_classes=6)
        trials = Trials(scratch / "toy", scratch, "" if options.plant == "no-fsync" else options.plant)
        for name, part in parts(trials, options.scale, options.seed, options.plant).items():
            if options.only and name not in options.only:
                continue
            for figure in part():
                print(f"{figure.what}: {figure.trials} trials, {len(figure.failures)} failures", flush=True)
                rows.append(figure)
    print(table(rows, options.seed, time.monotonic() - started, options.out / "faults.md"))
    return int(any(row.failures for row in rows))


def table(rows: list[Figure], seed: int, seconds: float, path: Path) -> str:
    """The figures as Markdown, written to `path` as well."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    lines = ["| fault | trials | failures |", "|---|---|---|"]
    lines += [f"| {row.what} | {row.trials} | {len(row.failures)} |" for row in rows]
    lines.append(f"\ncommit {commit}, seed {seed}, {platform.machine()}, {seconds / 60:.0f} minutes")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
