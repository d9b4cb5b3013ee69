"""Where everything in a run lives, and how a stage's output comes to exist exactly once."""

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from querying.errors import UserError
from querying.files import sync, write_text


@dataclass(frozen=True, slots=True)
class RunLayout:
    root: Path
    weights: Path | None = None
    """Weight file of the encoder, where it is not in `root`."""

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        return self.root / "summary.json"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def backbone(self) -> Path:
        """The encoder's first weights, copied here so that a resumed run never depends on a download."""
        return self.weights or self.root / "backbone.safetensors"

    @property
    def reference(self) -> "RunLayout":
        """The fully supervised run, laid out like any run."""
        return RunLayout(self.root / "reference", self.backbone)

    def cycle(self, cycle: int) -> Path:
        return self.root / f"cycle-{cycle:03d}"

    def checkpoint(self, cycle: int) -> Path:
        return self.cycle(cycle) / "checkpoint"

    def evaluation(self, cycle: int) -> Path:
        return self.cycle(cycle) / "evaluation"

    def scores(self, cycle: int) -> Path:
        return self.cycle(cycle) / "scores"

    def query(self, cycle: int) -> Path:
        return self.cycle(cycle) / "query"

    def work(self, cycle: int) -> Path:
        """Scratch of an unfinished training: epoch checkpoints and progress."""
        return self.cycle(cycle) / "training"


STAGE = "stage.json"


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Run `make(staging)` and publish its output in one rename; do nothing if it is already published.

    The staging folder of a killed attempt is kept, so `make` may continue from the complete files in it.
    """
    if not folder.exists():
        staging = folder.with_name(f"{folder.name}.tmp")
        staging.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        make(staging)
        write_text(staging / STAGE, json.dumps({"stage": folder.name, "seconds": time.perf_counter() - started}))
        os.replace(staging, folder)
        sync(folder.parent)
    return folder


def seconds(folder: Path) -> float:
    """Wall seconds of the attempt that published `folder`."""
    return float(json.loads((folder / STAGE).read_text())["seconds"])


def sweep(root: Path) -> None:
    """Remove what a killed process was writing; only the holder of the run's lock may do so."""
    for leftover in list(root.rglob(".tmp-*")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove scratch that a published stage has made useless."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the run folder.  UserError when it can not be written or another process holds it (named)."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        file = (root / "run.lock").open("a+")
    except OSError as error:
        raise UserError(f"{root}: can not be written: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{root}: another process works on this run ({file.read().strip()})") from None
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
