"""Small files that the driver polls: workers stay silent."""

import json
import time
from pathlib import Path

from querying.files import write_text
from training.loop import Progress
from training.validation import MIOU

HEARTBEAT_S = 0.5
PROGRESS = "progress.json"
VALIDATION = "validation.json"


class Heartbeat:
    """`progress.json` says how far a training is, `validation.json` what each evaluation on val has given so far."""

    def __init__(self, work: Path, total: int) -> None:
        self.work, self.total = work, total
        self.next = 0.0

    def step(self, progress: Progress, loss: float) -> None:
        now = time.monotonic()
        if now >= self.next or progress.step == self.total:
            self.next = now + HEARTBEAT_S
            row = {"step": progress.step, "total": self.total, "loss": round(loss, 4)}
            row["waiting"] = round(progress.waited / max(progress.seconds, 1e-9), 3)
            write_text(self.work / PROGRESS, json.dumps(row))

    def validated(self, progress: Progress, miou: float) -> None:
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
