"""What runs and grids share in MLflow: names, keys, experiments, and the run of a whole grid."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.tracking_uri import alone
from querying.errors import DamagedError, InfrastructureError
from querying.files import read_json
from querying.shown import one_line, redacted

LOG = logging.getLogger(__name__)
STATUS = {"finished": "FINISHED", "pruned": "KILLED", "failed": "FAILED"}
"""In MLflow, of a trial that ended so."""
OPEN_WAIT_S = 10.0
"""So long may the cells of a grid wait for its run."""
SETTINGS = {
    # Nobody waits for an answer, so a slow server gets its time; a retried POST could make a second run.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",  # a fresh SQLite file is announced in fifty lines
}


@dataclass(frozen=True, slots=True)
class Group:
    """Runs that belong together: children of one run, in one experiment."""

    root: Path
    experiment: str
    tags: Mapping[str, str]
    """Of this run."""


def prepare() -> None:
    """Before MLflow is imported, which reads the environment then."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)


def experiment_id(client: Any, name: str, uri: str, beside: Path) -> str:
    """Made if it is missing; files of one in SQLite lie beside the runs."""
    if experiment := client.get_experiment_by_name(name):
        return str(experiment.experiment_id)
    location = (beside / "mlartifacts").as_uri() if uri.startswith("sqlite") else None
    return str(client.create_experiment(name, artifact_location=location))


def find_or_create(client: Any, experiment: str, tags: Mapping[str, str], name: str) -> str:
    """One run per key, even if the driver was killed, or the answer lost, before the id could be written down."""
    wanted = f"tags.`s4al.key` = '{tags['s4al.key']}'"
    found = client.search_runs([experiment], wanted, max_results=10, order_by=["attributes.start_time ASC"])
    for twin in found[1:]:
        client.delete_run(twin.info.run_id)
    if found:
        return str(found[0].info.run_id)
    return str(client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id)


def group_run(client: Any, experiment: str, root: Path) -> str:
    """The run of the whole grid in `root`."""
    return find_or_create(client, experiment, {"s4al.key": str(root.resolve())}, root.resolve().name)


def open_group(root: Path, experiment: str, uri: str) -> None:
    """Make the grid's run before several cells look for it at once.  Where MLflow does not answer in time, they make it
    themselves; a twin of it is deleted by whoever finds it."""
    thread = threading.Thread(target=_open_group, args=(root, experiment, uri), daemon=True, name="mlflow")
    thread.start()
    thread.join(OPEN_WAIT_S)


def _open_group(root: Path, experiment: str, uri: str) -> None:
    prepare()
    from mlflow import MlflowClient

    try:
        with alone(uri):
            client = MlflowClient(tracking_uri=uri)
            group_run(client, experiment_id(client, experiment, uri, root.resolve()), root)
    except Exception as error:  # whatever it is, the cells say it again
        LOG.warning("MLflow at %s: %s", redacted(uri), one_line(str(error))[:200])


def log_comparison(
    cells: Sequence[Path], uri: str, files: Sequence[Path], metrics: Mapping[str, Mapping[int, float]]
) -> bool:
    """Put files and numbers (name -> step -> value) into the run of the grid of these cells; False where they were not
    tracked at `uri`.  InfrastructureError where MLflow does not answer."""
    wanted = {state["group"] for state in map(_state, cells) if state.get("uri") == redacted(uri) and "group" in state}
    if len(wanted) != 1:
        return False
    prepare()
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    [group] = wanted
    now = int(time.time() * 1000)
    points = [Metric(metric_name(name), v, now, step) for name, line in metrics.items() for step, v in line.items()]
    try:
        client = MlflowClient(tracking_uri=uri)
        for file in files:
            client.log_artifact(group, str(file), "compare")
        client.log_batch(group, metrics=points)
    except (MlflowException, OSError) as error:
        raise InfrastructureError(f"--tracking {redacted(uri)}: {one_line(str(error))[:200]}") from None
    return True


def log_systems(runs: Sequence[Path], uri: str, files: Sequence[Path], metrics: Mapping[str, float]) -> None:
    """Put a comparison of runs into one run of the experiment `comparisons`, the same for the same runs.
    InfrastructureError where MLflow does not answer."""
    prepare()
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    roots = sorted(str(run.resolve()) for run in runs)
    key = hashlib.sha256("\n".join(roots).encode()).hexdigest()
    now = int(time.time() * 1000)
    try:
        with alone(uri):
            client = MlflowClient(tracking_uri=uri)
            experiment = experiment_id(client, "comparisons", uri, runs[0].resolve().parent)
            run = find_or_create(client, experiment, {"s4al.key": key, "s4al.runs": " ".join(roots)[:5000]}, "systems")
        for file in files:
            client.log_artifact(run, str(file))
        client.log_batch(run, metrics=[Metric(metric_name(name), value, now, 0) for name, value in metrics.items()])
        client.set_terminated(run)
    except (MlflowException, OSError) as error:
        raise InfrastructureError(f"--tracking {redacted(uri)}: {one_line(str(error))[:200]}") from None


def log_sweep(
    uri: str,
    trials: Mapping[Path, Mapping[str, Mapping[int, float]]],
    ended: Mapping[Path, str],
    files: Sequence[Path],
    line: Mapping[str, Mapping[int, float]],
    name: str,
    winner: Path | None,
    model: Path | None,
) -> None:
    """Put each trial's numbers (name -> step -> value) into its run and close it, the sweep's files and its `line` into
    the run above, and register the winner's model with the alias `best`.  InfrastructureError where MLflow fails."""
    prepare()
    from mlflow import MlflowClient
    from mlflow.entities import Metric
    from mlflow.exceptions import MlflowException

    now = int(time.time() * 1000)

    def points(numbers: Mapping[str, Mapping[int, float]]) -> list[Metric]:
        return [Metric(metric_name(key), v, now, step) for key, steps in numbers.items() for step, v in steps.items()]

    try:
        client = MlflowClient(tracking_uri=uri)
        group = None
        for folder, numbers in trials.items():
            state = _state(folder)
            if state.get("uri") != redacted(uri) or not state.get("parent"):
                continue
            group = state.get("group")
            client.log_batch(state["parent"], metrics=points(numbers))
            for run in [*state["children"].values(), state["parent"]]:
                client.set_terminated(run, STATUS[ended[folder]])
        if group is None:
            return
        for file in files:
            client.log_artifact(group, str(file), "sweep")
        client.log_batch(group, metrics=points(line))
        client.set_terminated(group)
        if winner and model and (run := _state(winner).get("parent")):
            _register(client, f"{name}.sweep", run, model)
    except (MlflowException, OSError) as error:
        raise InfrastructureError(f"MLflow at {redacted(uri)}: {one_line(str(error))[:200]}") from None


def _register(client: Any, name: str, run: str, model: Path) -> None:
    """A version for this run's model, once, and the alias `best` on it."""
    from mlflow.exceptions import MlflowException

    client.log_artifact(run, str(model), "model")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = [one for one in client.search_model_versions(f"name = '{name}'") if one.run_id == run]
    source = f"{client.get_run(run).info.artifact_uri}/model"
    version = found[0] if found else client.create_model_version(name, source, run_id=run)
    client.set_registered_model_alias(name, "best", version.version)


def _state(cell: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = read_json(cell / "mlflow.json")
    except DamagedError:
        return {}
    return state


def metric_name(name: str) -> str:
    """A name that MLflow takes.  What stands behind the first slash may be a class name, hence anything: where it has
    to be changed or cut, some of its hash keeps it apart from others."""
    group, slash, part = name.partition("/")
    allowed = re.sub(r"[^\w.\- :]", "_", part)[:150]
    if allowed != part or not part.strip(". "):
        allowed = f"{allowed.strip('. ')}_{hashlib.sha256(part.encode()).hexdigest()[:6]}" if slash else ""
    return f"{group}{slash}{allowed}"
