"""What runs and grids share in MLflow: experiments, keys, names, and that no command fails by it."""

from __future__ import annotations

import getpass
import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.folder.shapes import TrackingNote, read_shaped
from querying.base.errors import DamagedError, InfrastructureError, UserError
from querying.base.redaction import one_line, redacted

LOG = logging.getLogger(__name__)
STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
"""In MLflow, of a trial that ended so."""
KIND = ("mlflow.experimentKind", "custom_model_development")
"""Tag of an experiment, so that its pages open on runs and curves and not on traces of prompts (MLflow 3)."""
NOTE = "mlflow.json"
"""In the folder of a run or a grid: where it is in MLflow, and how much of it."""
SETTINGS = {
    # Nobody waits for an answer, so a slow server gets its time; a retried POST could make a second run.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # a fresh SQLite file is announced in fifty lines
}


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that belong together: children of one run, in one experiment."""

    root: Path
    experiment: str
    tags: Mapping[str, str]
    """Tags of this run."""
    name: str
    """The part of this run's name that tells it from the others."""
    source: str
    """The command."""


def prepare() -> None:
    """Before MLflow is imported, which reads the environment then."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)


def experiment_id(client: Any, name: str, uri: str, beside: Path) -> str:
    """Made if it is missing, with MLflow's kind for model training; files of one in SQLite lie beside the runs.
    InfrastructureError where somebody has deleted it, which MLflow would only say by number."""
    kind, training = KIND
    if experiment := client.get_experiment_by_name(name):
        number = str(experiment.experiment_id)
        if experiment.lifecycle_stage == "deleted":
            raise InfrastructureError(
                f"the experiment {name!r} was deleted there: restore it (mlflow experiments restore --experiment-id"
                f" {number}), or take another --tracking, or name=OTHER with another --out"
            )
        if kind not in experiment.tags:
            client.set_experiment_tag(number, kind, training)
        return number
    location = (beside / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
    tags = {kind: training, "mlflow.note.content": "Runs of S4AL+. Each says what its steps are."}
    return str(client.create_experiment(name, artifact_location=location, tags=tags))


def find(client: Any, experiment: str, key: str) -> Any:
    """The run with this key; None without one.  Twins that a lost answer has left are removed."""
    quote = '"' if "'" in key else "'"  # a key may be a path; MLflow's filters have no escape
    wanted = f"tags.`s4al.key` = {quote}{key}{quote}"
    found = client.search_runs([experiment], wanted, max_results=10, order_by=["attributes.start_time ASC"])
    for twin in found[1:]:
        client.delete_run(twin.info.run_id)
    return found[0] if found else None


def find_or_create(client: Any, experiment: str, tags: Mapping[str, str], name: str, began: float | None = None) -> str:
    """One run per key, even if the driver was killed, or the answer lost, before the id could be written down."""
    run = find(client, experiment, tags["s4al.key"]) or create(client, experiment, tags, name, began)
    return str(run.info.run_id)


def create(client: Any, experiment: str, tags: Mapping[str, str], name: str, began: float | None) -> Any:
    """A new run that `began` then, in seconds since 1970."""
    start = None if began is None else int(began * 1000)
    return client.create_run(experiment, start_time=start, tags=dict(tags), run_name=name)


def described(source: str, note: str) -> dict[str, str]:
    """Tags that MLflow's pages show: the command, who called it, and what the numbers are."""
    tags = {"mlflow.source.name": source, "mlflow.source.type": "LOCAL", "mlflow.note.content": note}
    with suppress(KeyError, OSError):  # no entry in the user database
        tags["mlflow.user"] = getpass.getuser()
    return tags


def key_of(folder: Path) -> str:
    """A key for what has no other: its path, or where MLflow's filters could not quote that, its hash."""
    path = str(folder.resolve())
    return hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest() if "'" in path else path


@contextmanager
def tolerated(uri: str, goes_on: str) -> Iterator[None]:
    """Whatever happens to MLflow, no command fails by it: one line says what goes on without."""
    try:
        yield
    except Exception as error:  # also what MLflow's own libraries raise
        cause = one_line(str(error))[:300] or type(error).__name__
        LOG.warning("MLflow at %s failed, %s; the same command copies the rest: %s", redacted(uri), goes_on, cause)


def bounded(work: Callable[[], None], wait: float) -> None:
    """Do it in a thread, and wait for it no longer than so many seconds."""
    thread = threading.Thread(target=work, daemon=True, name="mlflow")
    thread.start()
    thread.join(wait)


def noted(folder: Path, uri: str) -> dict[str, Any]:
    """What `mlflow.json` of a run or a grid says of this store; nothing where it is missing or of another."""
    try:
        state = read_shaped(folder / NOTE, TrackingNote)
    except (DamagedError, UserError):
        return {}
    return state if state.get("uri") == redacted(uri) else {}


def metric_name(name: str) -> str:
    """A name that MLflow takes.  What stands behind the first slash may be a class name, hence anything: where it has
    to be changed or cut, some of its hash keeps it apart from others."""
    group, slash, part = name.partition("/")
    allowed = re.sub(r"[^\w.\- :]", "_", part)[:150]
    if allowed != part or not part.strip(". "):
        allowed = f"{allowed.strip('. ')}_{hashlib.sha256(part.encode()).hexdigest()[:6]}" if slash else ""
    return f"{group}{slash}{allowed}"
