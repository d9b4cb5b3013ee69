"""Many runs in MLflow: the run of a whole grid or sweep above its cells, what a comparison says, the best model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.tracking.model import log_model, packed, register
from orchestrator.tracking.store import (
    NOTE,
    Group,
    bounded,
    described,
    experiment_id,
    find_or_create,
    key_of,
    metric_name,
    noted,
    prepare,
    tolerated,
)
from orchestrator.tracking.uri import alone
from orchestrator.tracking.work_times import ended, place_of, same_place, seconds
from querying.base.errors import Interrupted
from querying.base.files import make_folder, write_json
from querying.base.redaction import redacted

OPEN_WAIT_S = 10.0
"""So long may the cells of a grid wait for its run."""
CLOSE_WAIT_S, LEAVE_WAIT_S = 30.0, 5.0
"""So long may its end wait for MLflow; where it was stopped or has failed."""
Points = Mapping[str, Mapping[int, float]]
"""Name -> step -> value."""


def group_run(client: Any, experiment: str, root: Path, uri: str, began: float | None = None) -> str:
    """The run of the whole grid in `root`, also after that was renamed."""
    state = _own_note(root, uri)
    if state.get("group"):
        return str(state["group"])
    return find_or_create(client, experiment, {"s4al.key": key_of(root)}, root.resolve().name, began)


@contextmanager
def grid_run(group: Group, uri: str, note: str, params: Mapping[str, object]) -> Iterator[None]:
    """While a grid or a sweep goes on: its run in MLflow, and in the end how that was; nothing where `uri` is none."""
    if uri == "none":
        yield
        return
    open_group(group, uri, note, params)
    try:
        yield
    except BaseException as error:
        killed = isinstance(error, (KeyboardInterrupt, Interrupted))
        close_group(group, uri, "KILLED" if killed else "FAILED", LEAVE_WAIT_S)
        raise
    close_group(group, uri, "FINISHED", CLOSE_WAIT_S)


def open_group(group: Group, uri: str, note: str, params: Mapping[str, object]) -> None:
    """Make the grid's run before several cells look for it at once, and say that it goes on.  Where MLflow does not
    answer in time, they make it themselves; a twin of it is deleted by whoever finds it."""
    make_folder(group.root)
    now, state = time.time(), _own_note(group.root, uri)
    work = [*ended(state.get("work", []), group.root, now), [now, None]]
    state = {**state, "uri": redacted(uri), "place": place_of(group.root), "work": work}
    write_json(group.root / NOTE, state)

    def open_it() -> None:
        prepare()
        with tolerated(uri, "the cells go on"):
            from mlflow import MlflowClient
            from mlflow.entities import Param, RunTag

            with alone(uri):
                client = MlflowClient(tracking_uri=uri)
                experiment = experiment_id(client, group.experiment, uri, group.root.resolve())
                run = group_run(client, experiment, group.root, uri, work[0][0])
            write_json(group.root / NOTE, {**state, "group": run, "experiment": experiment})
            there = client.get_run(run)
            tags = {"s4al.folder": str(group.root.resolve()), **described(group.source, note)}
            news = [Param(name, str(value)[:6000]) for name, value in params.items() if name not in there.data.params]
            client.log_batch(run, params=news, tags=[RunTag(name, value) for name, value in tags.items()])
            client.update_run(run, status="RUNNING")

    bounded(open_it, OPEN_WAIT_S)


def close_group(group: Group, uri: str, status: str, patience: float) -> None:
    """Say how the grid ended, within so many seconds; the time between a stop and its continuation is no part of it."""
    now, state = time.time(), _own_note(group.root, uri)
    work = state.get("work") or [[now, None]]
    work[-1][1] = work[-1][1] or now
    write_json(group.root / NOTE, {**state, "uri": redacted(uri), "place": place_of(group.root), "work": work})

    def close_it() -> None:
        prepare()
        with tolerated(uri, f"what is in {group.root} is complete"):
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=uri)
            with alone(uri):
                experiment = experiment_id(client, group.experiment, uri, group.root.resolve())
                run = group_run(client, experiment, group.root, uri, work[0][0])
            client.set_terminated(run, status, int(1000 * (work[0][0] + seconds(work, now))))

    bounded(close_it, patience)


def log_comparison(cells: Sequence[Path], uri: str, files: Sequence[Path], metrics: Points) -> bool:
    """Put files and numbers into the run of the grid of these cells; False where they were not tracked at `uri`.
    Raises whatever MLflow raises."""
    wanted = {state["group"] for state in (noted(cell, uri) for cell in cells) if "group" in state}
    if len(wanted) != 1:
        return False
    prepare()
    from mlflow import MlflowClient

    [group] = wanted
    client = MlflowClient(tracking_uri=uri)
    for file in files:
        client.log_artifact(group, str(file), "compare")
    client.log_batch(group, metrics=_points(metrics))
    return True


def log_systems(runs: Sequence[Path], uri: str, files: Sequence[Path], metrics: Mapping[str, float]) -> None:
    """Put a comparison of runs into one run of the experiment `comparisons`, the same for the same runs.  Raises
    whatever MLflow raises."""
    prepare()
    from mlflow import MlflowClient

    roots = sorted(str(run.resolve()) for run in runs)
    key = hashlib.sha256("\n".join(roots).encode()).hexdigest()
    with alone(uri):
        client = MlflowClient(tracking_uri=uri)
        experiment = experiment_id(client, "comparisons", uri, runs[0].resolve().parent)
        tags = {"s4al.key": key, "s4al.runs": " ".join(roots)[:5000], **described("s4al compare", "Means over seeds.")}
        run = find_or_create(client, experiment, tags, "systems")
    for file in files:
        client.log_artifact(run, str(file))
    client.log_batch(run, metrics=_points({name: {0: value} for name, value in metrics.items()}))
    client.set_terminated(run)


def log_trials(
    uri: str, trials: Mapping[Path, Points], files: Sequence[Path], line: Points, status: str | None
) -> None:
    """Put each trial's numbers into its run, the sweep's files and its `line` into the run above, and end that with a
    `status` where there is one and it has none yet.  Raises whatever MLflow raises."""
    prepare()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    above = None
    for folder, numbers in trials.items():
        note = noted(folder, uri)
        if "parent" in note:
            above = note["group"]
            client.log_batch(note["parent"], metrics=_points(numbers))
    if above:
        for file in files:
            client.log_artifact(above, str(file), "sweep")
        client.log_batch(above, metrics=_points(line))
        if status and client.get_run(above).info.status == "RUNNING":
            client.set_terminated(above, status)


def log_best(uri: str, winner: Path, model: Path, name: str) -> None:
    """Put the winner's model into its run, and register it as `name`, with the alias `best`.  Raises whatever MLflow
    raises."""
    prepare()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    run = noted(winner, uri)["parent"]
    with packed(model) as folder:
        log_model(client, run, folder)
    register(client, name, run)


def _own_note(root: Path, uri: str) -> dict[str, Any]:
    """What the grid's note says; nothing in a copy of its folder, which is another grid."""
    state = noted(root, uri)
    return state if state and same_place(place_of(root), state.get("place", "")) else {}


def _points(numbers: Points) -> list[Any]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(metric_name(name), v, now, step) for name, line in numbers.items() for step, v in line.items()]
