"""The copy of a run's record in MLflow, made beside the run and never awaited."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from orchestrator.folder.recipe_file import read_recipe
from orchestrator.folder.record import KEY, Mirror, read_record
from orchestrator.recipe.config import RunConfig
from orchestrator.tracking.model import log_model, packed
from orchestrator.tracking.run import WAITING, MlflowRun
from orchestrator.tracking.store import Group, metric_name, tolerated
from querying.base.errors import Interrupted, WaitingForLabels
from querying.base.redaction import redacted

LOG = logging.getLogger(__name__)
NOT_METRICS = (*KEY, "time")
FINAL_WAIT_S = 30.0
"""So long may the end of a run wait for what is not copied yet."""
LEAVE_WAIT_S = 5.0
"""So long may a run that was stopped, or has failed, wait for MLflow to know it."""


@dataclass(frozen=True, slots=True)
class _End:
    status: str
    report: Path | None = None
    onnx: Path | None = None


class MlflowMirror:
    """Copies new rows of the record in a thread of its own, so that no run waits for a tracking store.

    Rows of a stage that was made again with another result are newer points at the same steps, and the last one counts.
    Where MLflow does not answer, that is said and the rows are copied the next time; a row that is copied twice is the
    same to MLflow.  `key` must be the run's own.
    """

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        data: Mapping[str, str],
        uri: str,
        key: str | None = None,
        group: Group | None = None,
        *,
        working: bool = True,
    ) -> None:
        self.run, self.uri = run, uri
        self.remote = MlflowRun(run, config, data, uri, key, group, working=working)
        self.state = self.remote.state
        self._wanted = threading.Event()
        self._end: _End | None = None
        self._packing = False
        self._thread: threading.Thread | None = None

    def sync(self) -> None:
        """Have new rows copied; returns at once."""
        self._wanted.set()
        if not self._thread:
            self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
            self._thread.start()

    def finish(self, artefacts: Path | None, onnx: Path | None) -> None:
        """Have what is left copied, the figures and the model (no pickle) logged and the runs closed, within
        `FINAL_WAIT_S` and the time that it takes to pack the model.  May be called again with what comes later."""
        if not self._leave(_End("FINISHED", artefacts, onnx), FINAL_WAIT_S):
            rows = sum(1 for _ in read_record(self.run / "metrics.jsonl"))
            LOG.warning(
                "MLflow at %s: %d of %d rows copied, not waiting longer: the same command copies the rest",
                redacted(self.uri), self.state["rows"], rows,
            )  # fmt: skip

    def leave(self, status: str) -> None:
        """Tell MLflow that the run was stopped (KILLED), has failed (FAILED) or waits for people (WAITING), within
        `LEAVE_WAIT_S`."""
        self._leave(_End(status), LEAVE_WAIT_S)

    def _leave(self, end: _End, patience: float) -> bool:
        self.remote.stop_work()
        self._end = end
        if self._thread and not self._thread.is_alive():  # it has ended the run once already
            self._thread = None
        self.sync()
        thread, started, packed_s = self._thread, time.monotonic(), 0.0
        assert thread
        while thread.is_alive() and time.monotonic() - started - packed_s < patience:
            before, packing = time.monotonic(), self._packing
            thread.join(0.1)
            packed_s += time.monotonic() - before if packing else 0.0
        return not thread.is_alive()

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            end = self._end
            with tolerated(self.uri, "the run goes on"):  # a copy must not end the run
                self.copy()
                if end:
                    self._close(end)
            if end:
                return

    def copy(self) -> None:
        """Copy the rows that are not copied yet, a call for each child.  Raises whatever MLflow raises."""
        client = self.remote.client()  # also without a row: a trial that is stopped before its first has a run
        rows = list(read_record(self.run / "metrics.jsonl"))
        if self.state["rows"] > len(rows):  # the record was damaged and is written anew
            self.state["rows"] = 0
        for name, group in groupby(rows[self.state["rows"] :], lambda row: f"{row['run']}/{row['cycle']}"):
            self._copy_cycle(client, name, list(group))

    def _copy_cycle(self, client: Any, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        from mlflow.entities import Metric

        metrics, headline = [], []
        for row in rows:
            now = int(row["time"] * 1000)  # of the record: a row that is copied twice is the same to MLflow
            numbers = {
                metric_name(name): float(v)
                for name, v in row.items()
                if name not in NOT_METRICS and isinstance(v, (int, float))
            }
            metrics += [Metric(name, v, now, row.get("epoch", row["cycle"])) for name, v in numbers.items()]
            if row["stage"] == "evaluate" and row["run"] == "main":
                # Hundredths of a percent of labelled pixels, so that MLflow's default axis is the label axis.
                labels = round(row["labelled_fraction"] * 10_000)
                headline += [Metric(name, v, now, labels) for name, v in numbers.items() if "/" not in name]
        client.log_batch(self.remote.child(client, name, rows), metrics=metrics)
        client.log_batch(self.state["parent"], metrics=headline)
        if any(row["stage"] == "evaluate" for row in rows):
            self.remote.close_child(client, name, rows)
        self.state["rows"] += len(rows)
        self.remote.save()

    def _close(self, end: _End) -> None:
        client, parent = self.remote.client(), self.state["parent"]
        if end.report:
            client.log_artifacts(parent, str(end.report), "report")
        if end.onnx:
            self._packing = True  # our own work, and no waiting for MLflow
            with packed(end.onnx) as folder:
                self._packing = False
                log_model(client, parent, folder)
        self.remote.close(client, end.status)


@contextmanager
def mirrored(mirror: Mirror) -> Iterator[None]:
    """While a run goes on: MLflow knows it from its beginning, and also how it ended where that is before its end."""
    mirror.sync()
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, Interrupted))
        mirror.leave("KILLED" if stopped else WAITING if isinstance(error, WaitingForLabels) else "FAILED")
        raise


def copy_now(run: Path, uri: str, group: Group, status: str | None = None) -> None:
    """Copy what a run's process had no time to: its run in MLflow with its parameters, and what is recorded; then close
    it where a `status` is given.  Waits; raises whatever MLflow raises."""
    config, provenance = read_recipe(run / "recipe.yaml")
    data = provenance["data"]
    where = {"name": data["name"], "digest": data["sha256"], "root": data["root"]}
    mirror = MlflowMirror(run, config, where, uri, provenance.get("id"), group, working=False)
    mirror.copy()
    if status:
        mirror.remote.close(mirror.remote.client(), status)
