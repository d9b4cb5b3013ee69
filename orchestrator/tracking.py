"""The copy of a run's record in MLflow, made beside the run and never awaited."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from orchestrator.config import RunConfig, flatten
from orchestrator.mlflow_store import Group, experiment_id, find_or_create, group_run, metric_name, prepare
from orchestrator.recipe_file import read_recipe
from orchestrator.record import KEY, read_record
from orchestrator.tracking_uri import alone
from querying.errors import DamagedError, InfrastructureError, UserError
from querying.files import read_json, write_json
from querying.shown import one_line, redacted

LOG = logging.getLogger(__name__)
NOT_METRICS = (*KEY, "time")
FINAL_WAIT_S = 30.0
"""So long may the end of a run wait for what is not copied yet."""


class MlflowMirror:
    """Copies new rows of the record in a thread of its own, so that no run waits for a tracking store.

    Rows of a stage that was made again with another result are newer points at the same steps, and the last one counts.
    Where MLflow does not answer, that is said and the rows are copied the next time.  The parent run is the experiment,
    a child is a cycle; both are found by `key`, which must be the run's own.  `RUN/mlflow.json` remembers ids and how
    many rows were copied; a row that is copied twice is the same to MLflow.
    """

    def __init__(
        self,
        run: Path,
        config: RunConfig,
        data: Mapping[str, str],
        uri: str,
        key: str | None = None,
        group: Group | None = None,
    ) -> None:
        prepare()
        self.run, self.config, self.data, self.uri = run, config, data, uri
        self.group = group
        self.key = key or str(run.resolve())
        self.path = run / "mlflow.json"
        self.state: dict[str, Any] = {"uri": redacted(uri), "rows": 0, "parent": None, "children": {}}
        try:
            state = read_json(self.path)
            if state["uri"] == redacted(uri):
                self.state = state
        except DamagedError:
            pass  # or not there: the runs are found again by their keys
        except UserError as error:
            LOG.warning("%s; all rows are copied again", error)
        self._wanted = threading.Event()
        self._last: tuple[Path | None, Path | None] | None = None
        self._thread: threading.Thread | None = None

    def sync(self) -> None:
        """Have new rows copied; returns at once."""
        self._wanted.set()
        if not self._thread:
            self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
            self._thread.start()

    def finish(self, artefacts: Path | None, onnx: Path | None) -> None:
        """Have what is left copied, the figures and the model (ONNX: no pickle) logged and the runs closed, within
        `FINAL_WAIT_S`.  May be called again with what comes later."""
        if self._thread and not self._thread.is_alive():
            self._thread = None
        self._last = artefacts, onnx
        self.sync()
        assert self._thread
        self._thread.join(FINAL_WAIT_S)
        if self._thread.is_alive():
            rows = sum(1 for _ in read_record(self.run / "metrics.jsonl"))
            LOG.warning(
                "MLflow at %s: %d of %d rows copied, not waiting longer: the same command copies the rest",
                redacted(self.uri), self.state["rows"], rows,
            )  # fmt: skip

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            last = self._last
            try:
                self.copy()
                if last:
                    self._close(*last)
            except Exception as error:  # whatever it is, a copy must not end the run
                LOG.warning(
                    "MLflow at %s failed, the run goes on; the same command copies the rest: %s",
                    redacted(self.uri), one_line(str(error))[:200] or type(error).__name__,
                )  # fmt: skip
            if last:
                return

    def copy(self) -> None:
        """Copy the rows that are not copied yet, a call for each child.  Raises whatever MLflow raises."""
        rows = list(read_record(self.run / "metrics.jsonl"))
        if self.state["rows"] > len(rows):  # the record was damaged and is written anew
            self.state["rows"] = 0
        rows = rows[self.state["rows"] :]
        client = self._client()  # also without a row: a trial that is stopped before its first has a run
        for name, group in groupby(rows, lambda row: f"{row['run']}/{row['cycle']}"):
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
        client.log_batch(self._child(client, name, rows[0]), metrics=metrics)
        client.log_batch(self.state["parent"], metrics=headline)
        self.state["rows"] += len(rows)
        write_json(self.path, self.state)

    def _close(self, artefacts: Path | None, onnx: Path | None) -> None:
        client, parent = self._client(), self.state["parent"]
        if artefacts:
            client.log_artifacts(parent, str(artefacts), "report")
        if onnx:
            client.log_artifact(parent, str(onnx), "model")
        for run_id in filter(None, [*self.state["children"].values(), parent, self.state.get("group")]):
            client.set_terminated(run_id, "FINISHED")

    def _client(self) -> Any:
        """A client whose experiment and parent run exist."""
        from mlflow import MlflowClient

        with alone(self.uri):
            client = MlflowClient(tracking_uri=self.uri)
            if self.state["parent"] is None:
                name, beside = self.config.name, self.run.resolve().parent
                if self.group:
                    name, beside = self.group.experiment, self.group.root.resolve()
                self.state["experiment"] = experiment_id(client, name, self.uri, beside)
                self.state["parent"] = self._parent(client)
                write_json(self.path, self.state)
        return client

    def _parent(self, client: Any) -> str:
        from mlflow.entities import Dataset, DatasetInput, Param

        path, name = str(self.run.resolve()), self.config.name
        tags = {"s4al.run": path, "s4al.recipe": name, "s4al.seed": str(self.config.seed), "s4al.key": self.key}
        with suppress(DamagedError):
            tags["s4al.labelled_set"] = read_json(self.run / "labelled_set.json")["sha256"]
        if self.group:
            self.state["group"] = group_run(client, self.state["experiment"], self.group.root)
            tags |= {**self.group.tags, "mlflow.parentRunId": self.state["group"]}
        parent = find_or_create(client, self.state["experiment"], tags, self.run.name)
        there = client.get_run(parent).data.params  # MLflow refuses another value, which a drift may have given one
        settings = flatten(self.config.model_dump(mode="json"))
        params = [Param(k, str(v)[:6000]) for k, v in settings.items() if k not in there]
        client.log_batch(parent, params=params)
        where = json.dumps({"uri": self.data["root"]})
        dataset = Dataset(self.data["name"], self.data["digest"][:36], "local", where)
        client.log_inputs(parent, [DatasetInput(dataset, [])])
        return parent

    def _child(self, client: Any, name: str, row: Mapping[str, Any]) -> str:
        children: dict[str, str] = self.state["children"]
        if name not in children:
            parent = self.state["parent"]
            tags = {"mlflow.parentRunId": parent, "s4al.key": f"{parent}/{name}", "s4al.cycle": str(row["cycle"])}
            children[name] = find_or_create(client, self.state["experiment"], tags, f"{self.run.name}/{name}")
        return children[name]


def copy_now(run: Path, uri: str, group: Group) -> None:
    """Copy what a run's process had no time to: its run in MLflow with its parameters, and what is recorded.  Waits.
    InfrastructureError where MLflow fails."""
    from mlflow.exceptions import MlflowException

    config, provenance = read_recipe(run / "recipe.yaml")
    data = provenance["data"]
    where = {"name": data["name"], "digest": data["sha256"], "root": data["root"]}
    try:
        MlflowMirror(run, config, where, uri, provenance.get("id"), group).copy()
    except (MlflowException, OSError) as error:
        raise InfrastructureError(f"MLflow at {redacted(uri)}: {one_line(str(error))[:200]}") from None
