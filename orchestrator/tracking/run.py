"""One run's place in MLflow: which run there it is, when it was worked on, and the children of its cycles."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.folder.recipe_file import read_recipe
from orchestrator.folder.shapes import LabelledSet, TrackingNote, read_shaped, read_summary
from orchestrator.recipe.config import RunConfig, flatten
from orchestrator.tracking.grids import group_run
from orchestrator.tracking.store import NOTE, Group, create, described, experiment_id, find, prepare
from orchestrator.tracking.uri import alone
from orchestrator.tracking.work_times import (
    Span,
    began_at,
    ended,
    goes_on_here,
    place_of,
    recorded,
    seconds,
    stage_seconds,
)
from querying.base.errors import DamagedError, UserError
from querying.base.files import write_json
from querying.base.redaction import redacted
from querying.base.storage.place import place

LOG = logging.getLogger(__name__)
STATE, WAITING = "s4al.state", "WAITING"
"""Tag of a run that people have to answer, `waiting`, and what ends the work on it until then; to MLflow it is
running."""
STEPS = (
    "Steps of this run's own curves are labelled pixels in hundredths of a percent of all pixels (1210 = 12.10 %);"
    " those of the runs below it are epochs (of an evaluation, the cycle).  The duration is that of the work: what lies"
    " between a stop and its continuation is left out."
)


class MlflowRun:
    """The parent run is the experiment, a child is a cycle; both are found by their keys.  `RUN/mlflow.json` remembers
    ids, how many rows were copied, and when it was worked on.

    A folder that was copied with its note has a run of its own: two that go on in one would mix their curves.
    """

    def __init__(
        self, run: Path, config: RunConfig, data: Mapping[str, str], uri: str, key: str | None, group: Group | None,
        *, working: bool = True,
    ) -> None:  # fmt: skip
        prepare()
        self.run, self.config, self.data, self.uri, self.group = run, config, data, uri, group
        self.path, self.place = run / NOTE, place_of(run)
        self.working = working and not _finished(run)
        self.state: dict[str, Any] = {"uri": redacted(uri), "key": key or str(run.resolve()), "work": []}
        self._forget()
        self._ready = False
        try:
            state = read_shaped(self.path, TrackingNote)
            if state["uri"] == redacted(uri) and "began" in state:
                self.state |= state
            else:
                self.state["work"] = state.get("work", [])
        except DamagedError:
            pass  # or not there: the runs are found again by their keys
        except UserError as error:
            LOG.warning("%s; all rows are copied again", error)
        now = time.time()
        self.state["work"] = ended(self.state["work"] or recorded(run), run, now)
        if self.working:
            self.state["work"].append([now, None])
            self.save()

    def save(self) -> None:
        write_json(self.path, self.state)

    def stop_work(self) -> None:
        """What follows is no work of the run any more."""
        if self.working and self.state["work"][-1][1] is None:
            self.state["work"][-1][1] = time.time()

    def client(self) -> Any:
        """A client whose experiment and parent run exist."""
        from mlflow import MlflowClient

        with alone(self.uri):
            client = MlflowClient(tracking_uri=self.uri)
            if not self._ready:
                if self.state["parent"] is not None:
                    self._recognise(client)
                if self.state["parent"] is None:
                    self._begin(client)
                self.save()
                self._ready = True
        return client

    def child(self, client: Any, name: str, rows: Sequence[Mapping[str, Any]]) -> str:
        """The run of a cycle, with its settings as parameters; a new one began when the first of `rows` did."""
        children: dict[str, str] = self.state["children"]
        if name not in children:
            parent, experiment, began = self.state["parent"], self.state["experiment"], began_at(rows)
            tags = {"mlflow.parentRunId": parent, "s4al.key": f"{parent}/{name}", "s4al.cycle": str(rows[0]["cycle"])}
            tags |= described(self._source, "Steps are epochs; of the evaluation, the cycle.")
            there = find(client, experiment, tags["s4al.key"])
            child = there or create(client, experiment, tags, f"{self.name}/{name}", began)
            _log_params(client, child, self._settings(rows[0]))
            with suppress(DamagedError):  # decided before the first training
                labelled = read_shaped(self.run / "labelled_set.json", LabelledSet)["sha256"]
                client.set_tag(parent, "s4al.labelled_set", labelled)
            children[name], self.state["began"][name] = str(child.info.run_id), began
        return children[name]

    def close_child(self, client: Any, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """A cycle that was evaluated took the seconds of its stages."""
        end = self.state["began"][name] + max(map(stage_seconds, rows))
        client.set_terminated(self.state["children"][name], "FINISHED", int(end * 1000))
        self.state["closed"] = [*dict.fromkeys([*self.state["closed"], name])]

    def close(self, client: Any, status: str) -> None:
        """End it, and the children that were not evaluated, when the last work on it ended; one that waits stays
        open."""
        if status == WAITING:
            client.set_tag(self.state["parent"], STATE, WAITING.lower())
            self.save()
            return
        work: list[Span] = self.state["work"]
        begin = float((work[0][0] if work else None) or time.time())
        end = int(1000 * (begin + seconds(work, time.time())))
        left = [child for name, child in self.state["children"].items() if name not in self.state["closed"]]
        for run in [*left, self.state["parent"]]:
            client.set_terminated(run, status, end)
        self.state["status"] = status
        self.save()

    @property
    def name(self) -> str:
        return self.group.name if self.group else self.run.name

    @property
    def _source(self) -> str:
        return self.group.source if self.group else "s4al run"

    def _forget(self) -> None:
        self.state |= {"parent": None, "rows": 0, "children": {}, "began": {}, "closed": [], "status": None}

    def _recognise(self, client: Any) -> None:
        """Is the run that the note names still there, and this folder's?"""
        from mlflow.exceptions import MlflowException

        there = None
        try:
            there = client.get_run(self.state["parent"])
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        if there is None or there.info.lifecycle_stage == "deleted":
            LOG.warning("%s: its run in MLflow was deleted there: copying all of it into a new one", self.run)
            self._forget()
        elif goes_on_here(self.place, self.state.get("place"), there.data.tags.get("s4al.place")):
            self._claim(client, there)
        else:
            self._part(there)

    def _part(self, other: Any) -> None:
        """This folder is a copy, or was moved to another disk."""
        LOG.warning(
            "%s: a copy of %s, to which its run in MLflow belongs: this one is tracked as a run of its own",
            self.run, other.data.tags.get("s4al.run", "another folder"),
        )  # fmt: skip
        self._forget()
        self.state["key"] += f".{hashlib.sha256(self.place.encode()).hexdigest()[:8]}"
        self.state |= {"place": None, "copied_from": other.info.run_id}

    def _claim(self, client: Any, there: Any) -> None:
        run = there.info.run_id
        if there.data.tags.get("s4al.place") != self.place:
            client.set_tag(run, "s4al.run", str(self.run.resolve()))
            client.set_tag(run, "s4al.place", self.place)
        if self.working and STATE in there.data.tags:
            client.delete_tag(run, STATE)
        if self.working and there.info.status != "RUNNING":
            client.update_run(run, status="RUNNING")
            self.state["status"] = None
        self.state["place"] = self.place

    def _begin(self, client: Any) -> None:
        name, beside = self.config.name, self.run.resolve().parent
        if self.group:
            name, beside = self.group.experiment, self.group.root.resolve()
        experiment = self.state["experiment"] = experiment_id(client, name, self.uri, beside)
        if self.group:
            self.state["group"] = group_run(client, experiment, self.group.root, self.uri)
        there = find(client, experiment, self.state["key"])
        if there and not goes_on_here(self.place, self.state.get("place"), there.data.tags.get("s4al.place")):
            self._part(there)
            there = find(client, experiment, self.state["key"])
        if there:
            self._claim(client, there)
        else:
            work = self.state["work"]
            there = create(client, experiment, self._tags(), self.name, work[0][0] if work else None)
            self.state["place"] = self.place
        self._describe(client, there)
        self.state["parent"] = str(there.info.run_id)

    def _tags(self) -> dict[str, str]:
        path, name, seed = str(self.run.resolve()), self.config.name, str(self.config.seed)
        tags = {"s4al.run": path, "s4al.recipe": name, "s4al.seed": seed, "s4al.key": self.state["key"]}
        tags |= {"s4al.place": self.place, "s4al.step": "labelled pixels in hundredths of a percent"}
        tags |= described(self._source, f"Recipe {name}, seed {seed}, in {path}.  {STEPS}")
        if other := self.state.get("copied_from"):
            tags["s4al.copied_from"] = other
        with suppress(DamagedError, UserError):
            tags["mlflow.source.git.commit"] = str(read_recipe(self.run / "recipe.yaml")[1]["commit"])
        if self.group:
            tags |= {**self.group.tags, "mlflow.parentRunId": self.state["group"]}
        return tags

    def _describe(self, client: Any, run: Any) -> None:
        """Parameters and data set."""
        from mlflow.entities import Dataset, DatasetInput

        _log_params(client, run, flatten(self.config.model_dump(mode="json")))
        where, root = json.dumps({"uri": self.data["root"]}), place(self.data["root"])
        kind = "local" if isinstance(root, Path) else root.scheme
        dataset = Dataset(self.data["name"], self.data["digest"][:36], kind, where)
        client.log_inputs(run.info.run_id, [DatasetInput(dataset, [])])

    def _settings(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The settings of one cycle's training, as it was made."""
        config, cycle = self.config, row["cycle"]
        if row["run"] == "reference":
            config = config.as_reference()
        train = config.train_at(cycle, last=cycle == config.cycles).model_dump(mode="json")
        return {**flatten({**config.model_dump(mode="json"), "train": train}), "cycle": cycle, "run": row["run"]}


def _finished(run: Path) -> bool:
    with suppress(DamagedError, UserError):
        return bool(read_summary(run / "summary.json")["finished"])
    return False


def _log_params(client: Any, run: Any, settings: Mapping[str, Any]) -> None:
    """Those that it has not: MLflow refuses another value, which a drift may have given one."""
    from mlflow.entities import Param

    news = [Param(key, str(value)[:6000]) for key, value in settings.items() if key not in run.data.params]
    client.log_batch(run.info.run_id, params=news)
