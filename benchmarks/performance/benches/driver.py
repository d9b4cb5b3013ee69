"""A million images through the driver: the real command `s4al run`, killed once after it has bought and started again,
then `s4al status` and `s4al report`.

Other processes train, evaluate and score, as on a cluster; the scorers draw their scores instead of computing them,
which the driver can not tell.  So what is measured is what every image costs the one process that all of them pass
through.

Run:  python -m benchmarks.performance.benches.driver [IMAGES [FOLDER]]      (the bars are for 1,000,000)

Data set and run stay in FOLDER where one is named, and a data set that is there is used again: so two versions of the
code can be measured on the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.performance.peak import peak_mb
from benchmarks.performance.result import Result, found
from querying.base.files import sha256, write_json
from querying.dataset.codecs import encode_label
from querying.dataset.index import DataIndex
from querying.dataset.schemas import PSEUDO_LABELS, REGION_SCORES
from querying.dataset.shard_writer import ShardWriter
from querying.dataset.shards import image_ids

if TYPE_CHECKING:
    from querying.base.relay.places import Places
    from querying.scoring.pool import ScoreTask
    from querying.scoring.scorer import ScoreSummary
    from training.fit.job import TrainJob

IMAGES, SHARD_IMAGES, SIDE, REGION, CLASSES, PER_IMAGE, FIRST = 1_000_000, 1_024, 16, 4, 6, 4, 0.001
RECIPE = [
    "toy_s4al_plus", "cycles=1", "reference=false", f"initial.fraction={FIRST}", "budget=1", "query.scales=[1]",
    f"query.region_size={REGION}", f"query.per_image={PER_IMAGE}", "query.exclude_border=false", "query.threads=1",
    "train.threads=1", "train.epochs=1", "train.steps_per_epoch=1", "train.batch_size=2",
    "train.batch_size_unlabelled=2", "teacher.epochs=1", "teacher.steps_per_epoch=1", "teacher.batch_size=2",
    "model.aspp_channels=8", "model.decoder_channels=8", "model.low_level_channels=8", "model.embedding_dim=8",
    "reco.queries=8", "reco.negatives=8",
]  # fmt: skip
MOST_MB, LEAST_RATE, RESUMED_S = 1_000.0, 20_000.0, 10.0


def main(*, rounds: int = 1, threads: int = 1, images: int = IMAGES, folder: Path | None = None) -> list[Result]:
    """Once, whatever `rounds` and `threads` say; each command in a process of its own, whose peak memory is all that is
    resident, imports included (MB of 10^6 bytes)."""
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as root:
        parts = measure(Path(root), images)
    setting = f"{images:,} images of {SIDE}x{SIDE} in shards of {SHARD_IMAGES:,}, {PER_IMAGE} cells bought of each"
    full = images == IMAGES
    run, again = parts["run"], parts["again"]
    peak = max(part["peak_mb"] for part in parts.values())
    peaks = {name: part["peak_mb"] for name, part in parts.items()}

    def row(name: str, what: str, value: float, bar: float | None = None, **more: Any) -> Result:
        return found(f"driver_{name}", f"driver: {what}", setting, value, bar=bar if full else None, **more)

    return [
        row("peak", "the highest of all commands' memory", peak, MOST_MB, at_most=True, unit="MB", mb=peaks),
        row("dispatch", "score tasks made", run["rate"], LEAST_RATE, unit="images/s"),
        row("resumed", "from the command to the training that a kill broke off", again["seconds"]["train"], RESUMED_S,
            at_most=True, unit="s"),
        row("start", "from the command to the first labels", run["seconds"]["start"], unit="s"),
        row("select", "select, ask, write the ledger", run["seconds"]["select"], unit="s"),
        row("status", "s4al status", parts["status"]["seconds"]["all"], unit="s"),
        row("report", "s4al report", parts["report"]["seconds"]["all"], unit="s"),
    ]  # fmt: skip


def measure(root: Path, images: int) -> dict[str, dict[str, Any]]:
    """For each command its peak memory, and seconds."""
    data, run = root / "data", root / "run"
    if not (data / "index.json").exists():
        _write_data(data, images)
    shutil.rmtree(run, ignore_errors=True)
    words = ["run", *RECIPE, "--data", str(data), "--out", str(run), "--backend", "local", "--tracking", "none"]
    first, again = _timed(words, dies_in=1), _timed(words)
    label, select, train = (_when(first, what) for what in (r"label the first", r"cycle 0: select", r"cycle 1: train"))
    return {
        "run": first | {"seconds": {"start": label, "select": train - select}},
        "again": again | {"seconds": {"train": _when(again, r"cycle 1: train"), "all": again["seconds"]}},
        **{name: one | {"seconds": {"all": one["seconds"]}} for name in ("status", "report")
           for one in [_timed([name, str(run)])]},
    }  # fmt: skip


def _timed(words: list[str], dies_in: int | None = None) -> dict[str, Any]:
    """The command in a process of its own: what it said and when, its seconds, its peak memory; with `dies_in`, it is
    killed when it begins the training of that cycle."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder, "note.json")
        command = [sys.executable, "-m", "benchmarks.performance.benches.driver", "command", str(note), str(dies_in)]
        began = time.perf_counter()
        child = subprocess.Popen(
            [*command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        assert child.stdout
        lines = [(time.perf_counter() - began, line) for line in child.stdout]
        status = child.wait()
        seconds = time.perf_counter() - began
        if status != (0 if dies_in is None else -signal.SIGKILL):
            raise RuntimeError(f"s4al {' '.join(words)}: status {status}: {''.join(line for _, line in lines[-20:])}")
        return {"seconds": seconds, "lines": lines, **json.loads(note.read_text())}


def _when(done: dict[str, Any], what: str) -> float:
    return next(float(at) for at, line in done["lines"] if re.search(what, line))


def command(note: Path, dies_in: int | None, words: list[str]) -> None:
    """The command line with a back end whose workers are a process of their own; `note` gets what was measured."""
    measured: dict[str, Any] = {}

    def write() -> None:
        note.write_text(json.dumps(measured | {"peak_mb": round(peak_mb() * 1.048576, 1)}))

    sys.argv = ["s4al", *words]
    try:
        if words[0] == "run":
            _with_workers_apart(measured, dies_in, write)
        runpy.run_module("benchmarks", run_name="__main__")
    finally:
        write()


def _with_workers_apart(measured: dict[str, Any], dies_in: int | None, write: Callable[[], None]) -> None:
    """Let the local back end give all work to another process, and say how fast the tasks of the scorers were made."""
    import orchestrator.backends.local_backend as local

    class Apart(local.LocalBackend):
        def train(self, job: TrainJob) -> None:
            if job.cycle == dies_in:
                write()
                os.kill(os.getpid(), signal.SIGKILL)
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
                other.submit(_train, job).result()

        def map(
            self, make_worker: Callable[[], Any], method: str, items: Iterable[Any], *, places: Places, **_: Any
        ) -> Iterator[Any]:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
                if method != "score_shard":
                    yield from other.submit(_work, make_worker, method, list(items)).result()
                    return
                spent, images = 0.0, 0
                tasks = iter(items)
                while True:
                    began = time.perf_counter()
                    task = next(tasks, None)
                    spent += time.perf_counter() - began
                    if task is None:
                        break
                    images += task.shard.rows
                    yield other.submit(_draw, task, places.writes[0]).result()
                measured["rate"] = images / spent

    local.LocalBackend = Apart  # type: ignore[misc]


def _train(job: TrainJob) -> None:
    from orchestrator.backends.local_backend import LocalBackend

    LocalBackend().train(job)


def _work(make_worker: Callable[[], Any], method: str, items: list[Any]) -> list[Any]:
    worker = make_worker()
    return [getattr(worker, method)(item) for item in items]


def _draw(task: ScoreTask, out: Path) -> ScoreSummary:
    """The files of a shard as the scorer writes them, from random numbers."""
    from querying.scoring.scorer import ScoreSummary

    began = time.perf_counter()
    ids = [image_id for image_id in image_ids(task.root, task.shard) if image_id not in task.whole]
    cells = (SIDE // REGION) ** 2
    score_NR = np.random.default_rng(task.number).random((len(ids), cells), dtype=np.float32)
    closed_NR = np.zeros(score_NR.shape, bool)
    for row, image_id in enumerate(ids):
        closed_NR[row, task.bought.get(image_id, [])] = True
    offsets = np.arange(0, (len(ids) + 1) * cells, cells, dtype=np.int32)
    score = pa.ListArray.from_arrays(offsets, pa.array(score_NR.ravel(), mask=closed_NR.ravel()))
    label = encode_label(np.zeros((SIDE, SIDE), np.uint8))
    pseudo = {"image_id": ids, "label": [label] * len(ids), "coverage": np.ones(len(ids), np.float32)}
    tables = {
        f"regions-{task.number:05d}.arrow": pa.table({"image_id": ids, "score": score}, schema=REGION_SCORES),
        f"pseudo-{task.number:05d}.arrow": pa.table(pseudo, schema=PSEUDO_LABELS),
    }
    for name, table in tables.items():
        with pa.ipc.new_file(out / name, table.schema) as sink:
            sink.write_table(table)
    write_json(out / f"shard-{task.number:05d}.json", {name: sha256(out / name) for name in tables}, flush=False)
    return ScoreSummary(len(ids), time.perf_counter() - began, 0.0)


def _write_data(data: Path, images: int) -> None:
    rng = np.random.default_rng(0)
    image_NHWC = rng.integers(0, 256, (64, SIDE, SIDE, 3), dtype=np.uint8)
    mask_NHW = rng.integers(0, CLASSES, (64, SIDE // 2, SIDE // 2), dtype=np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    splits, ids = {}, {}
    for split, count in (("train", images), ("val", 16), ("test", 64)):
        with ShardWriter(data, split, num_classes=CLASSES, shard_size=SHARD_IMAGES) as writer:
            for number in range(count):
                writer.add(f"{split}_{number:09d}", image_NHWC[number % 64], mask_NHW[number % 64])
        splits[split], ids[split] = writer.close(), writer.ids_sha256
    names = tuple(f"class {number}" for number in range(CLASSES))
    palette = tuple((40 * number, 0, 0) for number in range(CLASSES))
    DataIndex(data, "toy", names, palette, SIDE, SIDE, "ppm", {"kind": "noise"}, splits, ids).save()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["command", note, dies_in, *words]:
            command(Path(note), None if dies_in == "None" else int(dies_in), words)
        case [images, *folder]:
            main(images=int(images), folder=Path(folder[0]) if folder else None)
        case _:
            main()
