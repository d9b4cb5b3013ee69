"""Many cycles in one process, then the same run killed every ~20 s; prints figures.

    python -m tests.faults.soak [--cycles 200] [--every 20] [--seed 0] [--out runs/faults]

The undisturbed process must not grow: by less than 0.5 MB of resident memory a cycle (a line fitted to the second half)
and by no file descriptor.  The killed run must end with the bytes of the undisturbed one and leave nothing behind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from tests.faults.common import SERVER, Process, contents, leftovers

MB_PER_CYCLE = 0.5
HANG_S = 600
"""A process that is not killed may take so long for its rest, per hundred cycles."""


class Sampler:
    """In the place of MLflow: writes down what the process holds, once a cycle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def sync(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        row = {
            "pid": os.getpid(),
            "mb": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            "fds": len(os.listdir("/proc/self/fd")),
        }
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def finish(self, artefacts: Path | None, onnx: Path | None) -> None: ...


def child(data: str, root: str, cycles: int, samples: str) -> None:
    """The smallest run of so many cycles: regions of 3x3 pixels, so that there is something to ask in each."""
    import torch

    torch.set_num_threads(1)
    from orchestrator.backends.local_backend import LocalBackend
    from orchestrator.folder.layout import RunLayout
    from orchestrator.process.progress import SilentProgress
    from orchestrator.run.context import RunContext
    from orchestrator.run.loop import run
    from querying.dataset.shards import DataIndex
    from tests.small import small_config

    config = small_config(
        f"cycles={cycles}", "query.region_size=3", "query.per_image=1", "train.epochs=1", "train.steps_per_epoch=2",
        "initial.fraction=0.1",
    )  # fmt: skip
    layout = RunLayout(Path(root))
    layout.root.mkdir(parents=True, exist_ok=True)
    run(
        RunContext(
            config=config,
            index=DataIndex.load(Path(data)),
            layout=layout,
            backend=LocalBackend(),
            progress=SilentProgress(),
            mirror=Sampler(Path(samples)),
        )
    )


class Soak:
    def __init__(self, scratch: Path, cycles: int) -> None:
        from benchmarks.datasets.ingest import ingest

        self.scratch, self.cycles = scratch, cycles
        self.data = scratch / "toy"
        ingest("toy", None, self.data, size=(48, 64), shard_size=5, counts=(12, 2, 2), num_classes=6)

    def start(self, name: str) -> BaseProcess:
        samples = self.scratch / f"{name}.jsonl"
        arguments = (str(self.data), str(self.scratch / name), self.cycles, str(samples))
        process = Process(target=child, args=arguments)
        process.start()
        return process

    def samples(self, name: str) -> list[dict[str, float]]:
        return [json.loads(line) for line in (self.scratch / f"{name}.jsonl").read_text().splitlines()]

    def undisturbed(self) -> tuple[list[str], list[str]]:
        """Lines of the table, and what has failed."""
        process = self.start("calm")
        process.join(HANG_S * (1 + self.cycles / 100))
        if process.exitcode != 0:
            return [], [f"the undisturbed run ended with {process.exitcode}"]
        rows = self.samples("calm")
        half = rows[len(rows) // 2 :]
        slope = float(np.polyfit(range(len(half)), [row["mb"] for row in half], 1)[0])
        early, late = (max(int(row["fds"]) for row in part) for part in (rows[: len(rows) // 2], half))
        lines = [
            f"cycles in one process: {len(rows)}",
            f"resident memory: {rows[0]['mb']:.0f} MB after the first, {half[0]['mb']:.0f} MB after half,"
            f" {rows[-1]['mb']:.0f} MB after the last; {slope:+.3f} MB per cycle in the second half",
            f"file descriptors, at most: {early} in the first half, {late} in the second",
        ]
        failed = [] if slope < MB_PER_CYCLE else [f"memory grows by {slope:.2f} MB per cycle"]
        failed += [] if late <= early else [f"file descriptors grow from {early} to {late}"]
        failed += [f"left behind: {path}" for path in leftovers(self.scratch / "calm")]
        return lines, failed

    def killed(self, every: float, rng: random.Random) -> tuple[list[str], list[str]]:
        """SIGKILL after about `every` seconds, again and again until the run is through.

        A life begins by reading all that is there, which takes longer from cycle to cycle: where three lives in a row
        have bought nothing new, lives get twice as long.
        """
        kills, bought = 0, [0]
        while True:
            if len(bought) > 3 and bought[-1] == bought[-4]:
                every, bought = 2 * every, bought[-1:]
            process = self.start("stormy")
            process.join(rng.uniform(0.5 * every, 1.5 * every))
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            kills += 1
            bought.append(len(list((self.scratch / "stormy" / "ledger").glob("cycle-*.parquet"))))
        root = self.scratch / "stormy"
        failed = [f"left behind: {path}" for path in leftovers(root)]
        if process.exitcode != 0:
            failed.append(f"the run ended with {process.exitcode} after {kills} kills")
        elif contents(root) != contents(self.scratch / "calm"):
            failed.append(f"after {kills} kills the run ends otherwise than the undisturbed one")
        cycles = len(list((root / "ledger").glob("cycle-*.parquet")))
        return [f"kills: {kills}; cycles bought: {cycles}; bytes of {len(contents(root))} files compared"], failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"))
    options = parser.parse_args()
    SERVER.set_forkserver_preload(["tests.small"])
    started = time.monotonic()
    scratch = Path(tempfile.mkdtemp())
    try:
        soak = Soak(scratch, options.cycles)
        lines, failed = soak.undisturbed()
        print("\n".join(lines), flush=True)
        if not failed:
            more, wrong = soak.killed(options.every, random.Random(options.seed))
            lines, failed = lines + more, failed + wrong
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    minutes = (time.monotonic() - started) / 60
    lines += [f"failures: {len(failed)}", *failed, f"commit {commit}, seed {options.seed}, {minutes:.0f} minutes"]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.md").write_text("".join(f"- {line}\n" for line in lines))
    print("\n".join(lines))
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
