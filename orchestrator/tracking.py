"""The record of a run, `metrics.jsonl`, and its copy in MLflow (the only module that knows MLflow)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from orchestrator.config import RunConfig, flatten
from orchestrator.manifest import set_aside
from querying.errors import DamagedError, UserError
from querying.files import read_json, sealed, unsealed, write_json
from querying.shown import one_line, redacted

LOG = logging.getLogger(__name__)
KEY = ("run", "cycle", "stage", "epoch")
NOT_METRICS = (*KEY, "time")


class Record:
    """Append-only JSON lines; a row whose key (run, cycle, stage, epoch) is already there is not written again.

    A record that is not what was written is set aside: the stages hold all of it, and the loop writes it anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.seen = {row_key(row) for row in read_record(path)}
        except DamagedError as error:
            LOG.warning("%s: set aside as %s, writing it anew", error, set_aside(path).name)
            self.seen = set()
        if path.exists():  # a torn last line of a killed driver would otherwise swallow the next row
            text = path.read_bytes()
            if text and not text.endswith(b"\n"):
                with path.open("r+b") as file:
                    file.truncate(text.rfind(b"\n") + 1)

    def log(self, row: Mapping[str, Any]) -> None:
        if row_key(row) in self.seen:
            return
        self.seen.add(row_key(row))
        with self.path.open("a") as file:
            file.write(sealed({**row, "time": round(time.time(), 3)}) + "\n")


def read_record(path: Path) -> Iterator[dict[str, Any]]:
    """Complete rows of a `metrics.jsonl`; DamagedError for one that is not what was written."""
    if path.exists():
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield unsealed(line, path.with_name(f"{path.name}, line {number}"))


def row_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes a row of the record unique."""
    return tuple(row.get(name) for name in KEY)


def epoch_rows(checkpoint: Path, run: str, cycle: int) -> list[dict[str, Any]]:
    """The training's history as rows of the record."""
    history = read_json(checkpoint / "meta.json")["history"]
    return [{"run": run, "cycle": cycle, "stage": "train", **row} for row in history]


class Mirror(Protocol):
    """Where the record is copied to."""

    def sync(self) -> None: ...
    def finish(self, artefacts: Path | None, onnx: Path | None) -> None: ...


class NoMirror:
    def sync(self) -> None: ...
    def finish(self, artefacts: Path | None, onnx: Path | None) -> None: ...


def default_uri(run: Path) -> str:
    """A server from the environment, else a SQLite file beside the run."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{run.resolve().parent / 'mlflow.db'}"


class MlflowMirror:
    """Copies new rows of the record; where MLflow does not answer, says so and copies them the next time.

    The parent run is the experiment, a child is a cycle.  `RUN/mlflow.json` remembers ids and the rows copied.
    """

    def __init__(self, run: Path, config: RunConfig, data: Mapping[str, str], uri: str) -> None:
        # A server that is down would block a single call for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "4")
        os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        for chatty in ("mlflow", "alembic"):  # a fresh SQLite file is announced in fifty lines
            logging.getLogger(chatty).setLevel(logging.WARNING)
        self.run, self.config, self.data, self.uri = run, config, data, uri
        self.path = run / "mlflow.json"
        self.state: dict[str, Any] = {"uri": redacted(uri), "rows": 0, "parent": None, "children": {}}
        with suppress(DamagedError):  # not there, or damaged: the runs are found again by their keys
            state = read_json(self.path)
            if state["uri"] == redacted(uri):
                self.state = state

    def sync(self) -> None:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            self._copy()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._warn(error)

    def finish(self, artefacts: Path | None, onnx: Path | None) -> None:
        """Copy what is left, log the figures and the model (ONNX: no pickle), close the runs."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self.sync()
        try:
            client, parent = self._client(), self.state["parent"]
            if artefacts:
                client.log_artifacts(parent, str(artefacts), "report")
            if onnx:
                client.log_artifact(parent, str(onnx), "model")
            for run_id in [*self.state["children"].values(), parent]:
                client.set_terminated(run_id, "FINISHED")
        except (MlflowException, SQLAlchemyError, OSError) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        shown = (redacted(self.uri), one_line(str(error))[:200])
        LOG.warning("MLflow at %s failed, the run goes on: %s", *shown)

    def _copy(self) -> None:
        from mlflow.entities import Metric

        rows = list(read_record(self.run / "metrics.jsonl"))
        client = self._client()
        for row in rows[self.state["rows"] :]:
            cycle_run = self._child(client, f"{row['run']}/{row['cycle']}", row)
            step = row.get("epoch", row["cycle"])
            now = int(row["time"] * 1000)  # of the record: a row that is copied twice is the same to MLflow
            numbers = {
                metric_name(name): float(v)
                for name, v in row.items()
                if name not in NOT_METRICS and isinstance(v, (int, float))
            }
            client.log_batch(cycle_run, metrics=[Metric(name, v, now, step) for name, v in numbers.items()])
            if row["stage"] == "evaluate" and row["run"] == "main":
                # Hundredths of a percent of labelled pixels, so that MLflow's default axis is the label axis.
                labels = round(row["labelled_fraction"] * 10_000)
                client.log_batch(
                    self.state["parent"],
                    metrics=[Metric(name, v, now, labels) for name, v in numbers.items() if "/" not in name],
                )
            self.state["rows"] += 1
            write_json(self.path, self.state)

    def _client(self) -> Any:
        """A client whose experiment and parent run exist."""
        from mlflow import MlflowClient
        from mlflow.entities import Dataset, DatasetInput, Param

        client = MlflowClient(tracking_uri=self.uri)
        if self.state["parent"] is None:
            experiment = client.get_experiment_by_name(self.config.name)
            location = (self.run.resolve().parent / "mlartifacts").as_uri() if self.uri.startswith("sqlite") else None
            experiment_id = (
                experiment.experiment_id
                if experiment
                else client.create_experiment(self.config.name, artifact_location=location)
            )
            self.state["experiment"] = experiment_id
            tags = {
                "s4al.run": str(self.run.resolve()),
                "s4al.recipe": self.config.name,
                "s4al.seed": str(self.config.seed),
            }
            parent = self._find_or_create(client, {**tags, "s4al.key": str(self.run.resolve())}, self.run.name)
            client.log_batch(
                parent,
                params=[Param(k, str(v)[:6000]) for k, v in flatten(self.config.model_dump(mode="json")).items()],
            )
            dataset = Dataset(
                self.data["name"], self.data["digest"][:36], "local", json.dumps({"uri": self.data["root"]})
            )
            client.log_inputs(parent, [DatasetInput(dataset, [])])
            self.state["parent"] = parent
            write_json(self.path, self.state)
        return client

    def _child(self, client: Any, name: str, row: Mapping[str, Any]) -> str:
        children: dict[str, str] = self.state["children"]
        if name not in children:
            parent = self.state["parent"]
            tags = {"mlflow.parentRunId": parent, "s4al.key": f"{parent}/{name}", "s4al.cycle": str(row["cycle"])}
            children[name] = self._find_or_create(client, tags, f"{self.run.name}/{name}")
        return children[name]

    def _find_or_create(self, client: Any, tags: Mapping[str, str], name: str) -> str:
        """One run per key, even if the driver was killed before it could write the id down."""
        experiment = self.state["experiment"]
        found = client.search_runs([experiment], f"tags.`s4al.key` = '{tags['s4al.key']}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        return str(client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id)


def metric_name(name: str) -> str:
    """A name that MLflow takes.  What stands behind the first slash may be a class name, hence anything: where it has
    to be changed or cut, some of its hash keeps it apart from others."""
    group, slash, part = name.partition("/")
    allowed = re.sub(r"[^\w.\- :]", "_", part)[:150]
    if allowed != part or not part.strip(". "):
        allowed = f"{allowed.strip('. ')}_{hashlib.sha256(part.encode()).hexdigest()[:6]}" if slash else ""
    return f"{group}{slash}{allowed}"


def check_uri(uri: str) -> None:
    if not uri.startswith(("sqlite:///", "http://", "https://", "postgresql", "mysql", "databricks")):
        raise UserError(f"--tracking {redacted(uri)!r}: expected sqlite:///FILE, an http(s) server, or none")
