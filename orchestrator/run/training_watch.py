"""What the workers of a training write is shown while the driver waits for them."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.process.interrupt import requested
from orchestrator.process.progress import Progress, clock
from training.fit.heartbeat import EPOCHS, PROGRESS, VALIDATION
from training.fit.job import stop_file
from training.fit.validation import MIOU
from training.settings.training import VAL_SPLIT

LOG = logging.getLogger(__name__)
POLL_S = 0.5
TELLING_S, TELLING_STEPS = 10.0, 50
"""After so long, or so many steps, the rate is that of the rest."""
WORTH_SAYING = 0.02
"""Share of its time that a training waits for its batches."""


@contextmanager
def followed(
    work: Path,
    progress: Progress,
    name: str,
    images_per_step: int,
    live: Callable[[Sequence[dict[str, Any]]], None] = lambda history: None,
    later: int = 0,
) -> Iterator[None]:
    """Show steps, loss, rate and the evaluations on val of the training in `work`, and tell it when to stop.  `live`
    gets the metrics of all finished epochs whenever there is another one, also of a training that ends before its time.
    `later` is how many images the run's other trainings have still to see: how long they and this one will take is said
    when enough steps are done to tell, and nothing of the kind where there are none.
    """
    finished = threading.Event()
    steps, evaluations, epochs = work / PROGRESS, work / VALIDATION, work / EPOCHS

    def watch() -> None:
        first: tuple[int, float] | None = None  # a resumed training starts at a later step
        said, seen, ended, told = -1, 0.0, False, False
        while not ended:
            ended = finished.wait(POLL_S)  # a last look at what came since the one before
            if requested.is_set() and not ended:
                work.mkdir(parents=True, exist_ok=True)
                stop_file(work).touch()
            if evaluations.exists():
                for row in json.loads(evaluations.read_text()):
                    if row["epoch"] > said:
                        said = row["epoch"]
                        progress.say(f"{name}, epoch {said + 1}: mIoU {100 * row[MIOU]:.2f} % on {VAL_SPLIT}")
            if epochs.exists() and epochs.stat().st_mtime > seen:
                seen = epochs.stat().st_mtime
                try:
                    live(json.loads(epochs.read_text()))
                except OSError as error:  # the training goes on; its rows are written when it is published
                    LOG.warning("%s: its epochs are not recorded as they happen: %s", name, error)
            if not steps.exists():
                continue
            row, now = json.loads(steps.read_text()), steps.stat().st_mtime
            first = first or (row["step"], now)
            rate = images_per_step * (row["step"] - first[0]) / (now - first[1]) if now > first[1] else 0.0
            left = (row["total"] - row["step"]) * images_per_step + later
            if rate and later and not told and (now - first[1] > TELLING_S or row["step"] - first[0] >= TELLING_STEPS):
                told = True
                progress.say(
                    f"about {clock(left / rate)} of training in this run at {rate:.1f} images/s; evaluation and scoring"
                    " come on top (s4al show RECIPE --data DATA measures all)"
                )
            whole = f", run: about {clock(left / rate)} of training left" if later and rate else ""
            waits = f", {100 * row['waiting']:.0f} % waiting for data" if row["waiting"] >= WORTH_SAYING else ""
            progress.update(
                row["step"], row["total"], f"steps, loss {row['loss']:.3f}, {rate:.1f} images/s{waits}{whole}"
            )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
