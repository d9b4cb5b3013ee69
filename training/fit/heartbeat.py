"""Small files that the driver polls: workers stay silent."""

import json
import time
from pathlib import Path

from querying.base import pulse
from querying.base.files import write_text
from training.fit.progress import TrainingProgress
from training.fit.validation import MIOU

HEARTBEAT_S = 0.5
PROGRESS = "progress.json"
VALIDATION = "validation.json"
EPOCHS = "epochs.json"


class Heartbeat:
    """`progress.json` says how far a training is, `validation.json` what each evaluation on val has given so far,
    `epochs.json` the metrics of the finished epochs.  Rank 0 writes them, the others nothing."""

    def __init__(self, work: Path, total: int, rank: int = 0) -> None:
        self.work, self.total, self.rank = work, total, rank
        self.next = 0.0
        self.first: tuple[float, int] | None = None
        """When this process began to count, and where: a resumed training begins at a later step."""

    def step(self, progress: TrainingProgress, loss: float) -> None:
        now = time.monotonic()
        pulse.done()
        if self.rank:
            return
        if now >= self.next or progress.step == self.total:
            self.next = now + HEARTBEAT_S
            row = {"step": progress.step, "total": self.total, "loss": round(loss, 4)}
            self.first = self.first or (now, progress.step)
            since, already = self.first
            row["rate"] = round((progress.step - already) / (now - since), 4) if progress.step > already else 0.0
            row["waiting"] = round(progress.waited / max(progress.seconds, 1e-9), 3)
            write_text(self.work / PROGRESS, json.dumps(row))

    def epoch(self, progress: TrainingProgress) -> None:
        if not self.rank:
            write_text(self.work / EPOCHS, json.dumps(progress.history))

    def validated(self, progress: TrainingProgress, miou: float) -> None:
        """A list of rows: epoch, finished steps, mIoU; of an epoch whose steps are done but that is not yet in the
        history."""
        steps = progress.step // (len(progress.history) + 1)
        rows = [
            {"epoch": row["epoch"], "step": round(row["epoch"] + 1) * steps, MIOU: row[MIOU]}
            for row in progress.history
            if MIOU in row
        ]
        rows.append({"epoch": len(progress.history), "step": progress.step, MIOU: miou})
        write_text(self.work / VALIDATION, json.dumps(rows))
