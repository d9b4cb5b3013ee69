"""What the workers of a training write is shown while the driver waits for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.interrupt import requested
from orchestrator.progress import Progress
from training.heartbeat import PROGRESS, VALIDATION
from training.job import stop_file
from training.settings import VAL_SPLIT
from training.validation import MIOU

POLL_S = 0.5
WORTH_SAYING = 0.02
"""Share of its time that a training waits for its batches."""


@contextmanager
def followed(work: Path, progress: Progress, name: str, images_per_step: int) -> Iterator[None]:
    """Show steps, loss, rate and the evaluations on val of the training in `work`, and tell it when to stop."""
    finished = threading.Event()
    steps, evaluations = work / PROGRESS, work / VALIDATION

    def watch() -> None:
        first: tuple[int, float] | None = None  # a resumed training starts at a later step
        said = -1
        while not finished.wait(POLL_S):
            if requested.is_set():
                work.mkdir(parents=True, exist_ok=True)
                stop_file(work).touch()
            if evaluations.exists():
                for row in json.loads(evaluations.read_text()):
                    if row["epoch"] > said:
                        said = row["epoch"]
                        progress.say(f"{name}, epoch {said + 1}: mIoU {100 * row[MIOU]:.2f} % on {VAL_SPLIT}")
            if not steps.exists():
                continue
            row, now = json.loads(steps.read_text()), steps.stat().st_mtime
            first = first or (row["step"], now)
            rate = images_per_step * (row["step"] - first[0]) / (now - first[1]) if now > first[1] else 0.0
            waits = f", {100 * row['waiting']:.0f} % waiting for data" if row["waiting"] >= WORTH_SAYING else ""
            progress.update(row["step"], row["total"], f"steps, loss {row['loss']:.3f}, {rate:.1f} images/s{waits}")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
