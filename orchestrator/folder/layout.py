"""Where everything in a run lives, and how a stage's output comes to exist exactly once."""

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from orchestrator.folder.lock_file import alive, holder, take
from orchestrator.folder.manifest import inputs_key, problems, seal, set_aside
from orchestrator.recipe.keys import Value, differing
from querying.base.arrow_file import unaltered
from querying.base.errors import DamagedError, UserError
from querying.base.failpoints import failpoint
from querying.base.files import check_folder, flush_below, make_folder, read_json, sync, write_json
from querying.labels.ledger import Ledger
from querying.labels.reliability import RELIABILITY

LOG = logging.getLogger(__name__)
LOCK = "run.lock"
"""Held by the process that works on a run or a sweep."""
LOOK_S = 0.3
"""`s4al status` may hold the lock for as long as it takes to look whether another process does."""
ATTEMPT = "attempt.json"
"""In a staging folder: `earlier`, the seconds of the attempts before, and the settings that it is made with; its own
date is when this attempt began."""


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
    def labelled_set(self) -> Path:
        """The images of cycle 0, decided once."""
        return self.root / "labelled_set.json"

    @property
    def batch_size(self) -> Path:
        """What `query.batch_size=auto` has found, decided once."""
        return self.root / "batch_size.json"

    @property
    def decided(self) -> bool:
        """Are they?  Then nothing that they came from is needed any more: a lost file is made from the ledger."""
        return self.labelled_set.exists() or Ledger(self.ledger).has(0)

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

    def teacher_choice(self, cycle: int) -> Path | None:
        """The scores of cycle 0 for the cycles after it, where they say which images are reliable (ST++)."""
        return self.scores(0) if cycle and (self.scores(0) / RELIABILITY).exists() else None

    def pseudo_labels(self, cycle: int) -> list[Path]:
        """The scores whose pseudo-labels a cycle trains on."""
        before = [self.scores(cycle - 1)] if cycle else []
        choice = self.teacher_choice(cycle)
        return [choice, *before] if choice and choice not in before else before

    def query(self, cycle: int) -> Path:
        return self.cycle(cycle) / "query"

    def package(self, cycle: int) -> Path:
        """What people are asked by the query of a cycle; their answers are beside it."""
        return self.cycle(cycle) / "package"

    def answers(self, cycle: int) -> Path:
        return self.cycle(cycle) / "answers"

    def work(self, cycle: int) -> Path:
        """Scratch of an unfinished training: its states and its progress."""
        return self.cycle(cycle) / "training"


def once(
    folder: Path,
    make: Callable[[Path], None],
    *,
    inputs: Mapping[str, str] | None = None,
    settings: Mapping[str, Value] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run `make(staging)` and publish its output in one rename; do nothing if it is already published and intact.

    `inputs` are the digests of what it is made from, `settings` the recipe's keys that decide it.  A published folder
    that is not what was written, or was made from or with something else, is set aside and made again.  The staging
    folder of a killed attempt is kept, so `make` may continue from the complete files in it.
    """
    inputs = inputs or {}
    if folder.exists():
        found = problems(folder, inputs, settings)
        if not found:
            return folder
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        say(f"{found[0]}{more}: set aside as {set_aside(folder).name}, making it again")
    staging = folder.with_name(f"{folder.name}-{inputs_key(inputs)}.tmp")
    for other in folder.parent.glob(f"{folder.name}-*.tmp"):
        if other != staging:
            discard(other)
    others = differing(_attempt(staging).get("settings", settings or {}), settings or {})
    if others:
        say(f"{staging}: was begun with {others[0]}: not continued from")
        discard(staging)
    make_folder(staging)
    started = time.perf_counter() - _earlier(staging, settings or {})
    with unaltered():
        make(staging)
    place = f"{folder.parent.name}/{folder.name}"
    (staging / ATTEMPT).unlink()
    remove_leftovers(staging)  # what a worker that was killed and replaced was writing
    failpoint(f"{place}:made")
    flush_below(staging)
    failpoint(f"{place}:flushed")
    seal(staging, inputs=inputs, seconds=time.perf_counter() - started, settings=settings)
    failpoint(f"{place}:sealed")
    os.replace(staging, folder)
    failpoint(f"{place}:published")
    sync(folder.parent)
    return folder


def _attempt(staging: Path) -> dict[str, Any]:
    """What the last attempt has noted of itself, as far as that is intact."""
    try:
        return read_json(staging / ATTEMPT)
    except DamagedError:
        return {}


def _earlier(staging: Path, settings: Mapping[str, Value]) -> float:
    """Wall seconds of the attempts before this one, of each until the last file it left; notes that this one begins."""
    note, seconds = staging / ATTEMPT, 0.0
    with suppress(FileNotFoundError, DamagedError):
        began = note.stat().st_mtime
        last = max(path.stat().st_mtime for path in staging.rglob("*"))
        seconds = read_json(note)["earlier"] + last - began
    write_json(note, {"earlier": seconds, "settings": dict(settings)})
    return float(seconds)


def remove_leftovers(root: Path) -> None:
    """Remove what a killed process was writing; only the holder of the run's lock may do so."""
    for leftover in list(root.rglob(".tmp*")):  # ours are .tmp-PID-NAME, safetensors' .tmpXXXXXX
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def discard(folder: Path) -> None:
    """Remove scratch that a published stage has made useless."""
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(root: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the run folder.  UserError when it can not be written or another process holds it (named) for longer than
    `patience` seconds, or when somebody renames or removes it meanwhile.  Where the file system has no locks, the file
    says who holds it, and that is believed."""
    deadline, made = time.monotonic() + patience, not root.exists()
    check_folder(root)
    try:
        make_folder(root)
        file = (root / LOCK).open("a+")
    except OSError as error:
        raise UserError(f"{root}: can not be written: {error.strerror}") from None
    with file:
        looked = time.monotonic() + LOOK_S
        while True:
            try:
                held = take(file)
            except BlockingIOError:
                held = None
            file.seek(0)
            there = file.read().strip()
            if held or (held is False and not alive(there)):
                break
            if time.monotonic() < max(deadline, looked):
                time.sleep(0.1)
                continue
            remedy = "" if held is None else f"; if it does not, remove {root / LOCK}: there are no locks here"
            raise UserError(f"{root}: another process works on this run ({there}){remedy}")
        if not held:
            LOG.warning(
                "%s: this file system has no locks: nothing but this line keeps a second command on another machine"
                " from working on the same run", root,
            )  # fmt: skip
        file.truncate(0)
        file.write(f"{holder()}\n")
        file.flush()
        try:
            yield
        except BaseException as error:
            if isinstance(error, Exception):
                check_held(root, file)
            if made and root.is_dir() and [path.name for path in root.iterdir()] == [LOCK]:  # nothing has been begun
                shutil.rmtree(root)
            raise
        finally:
            if not held:
                file.truncate(0)
        check_held(root, file)


def check_held(root: Path, lock: IO[str]) -> None:
    """UserError where the folder that was locked is not under its name any more: what a process goes on to write lies
    in a new folder, without what was there before."""
    try:
        if os.path.samestat(os.fstat(lock.fileno()), os.stat(root / LOCK)):
            return
    except OSError:
        pass  # it is not there
    raise UserError(
        f"{root}: was renamed or removed while it was worked on; what had come out until then is in the renamed folder:"
        f" remove what lies at {root} now, give that folder its name back (or name it with --out), and start the same"
        " command again"
    )
