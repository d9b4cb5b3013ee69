"""Trials under Ray Tune: each is a process of its own, started by an actor that holds what it needs.

Tune decides where and how many at a time, and its scheduler which are stopped early; what is tried and what came out is
the caller's to remember (`Trials`).  Tune's own state on the disk is never read: it is a pickle.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new one prints tables also where it is asked not to
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # the last result of a trial has no metric

import ray
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from orchestrator.backends.ray_environment import environment_of, kept
from orchestrator.process.children import Child, end_all, how, last_line
from orchestrator.process.interrupt import GRACE_S
from orchestrator.recipe.config import build
from orchestrator.run.outcome import curve, outcome
from querying.base.errors import InfrastructureError, Interrupted, UserError
from querying.base.files import make_folder
from querying.base.pulse import BEAT_S, Vigil, keep_beating
from querying.base.redaction import cause

PASSED_ON = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN")
class_cache.ENV_VARS_TO_PROPAGATE -= set(PASSED_ON)  # Tune would put them into the arguments of each trial's actor
POLL_S = 0.2
REDUCTION = 3
"""One in so many of the trials that reach a rung goes on (ASHA, Li et al. 2020)."""
RUNGS = 2
"""Rungs before the end: at 1/9 and 1/3 of the steps.  Earlier a network has not begun to tell the classes apart."""
SILENT_S = 120.0
"""An actor of a trial that beats no more for so long is lost: frozen, or its machine is."""
END = "end"
"""Key of a result that is the last: finished, failed or stopped."""


@dataclass(frozen=True, slots=True)
class TrialTask:
    """What an actor has to know."""

    number: int
    root: Path
    """The run's folder."""
    recipe: Mapping[str, Any]
    command: Sequence[str]
    """Arguments of `s4al`."""
    log: Path
    folder: Path
    """Where the sweep was started: a user's own modules may lie there."""


class Trials(Protocol):
    """Called in the driver, one at a time."""

    def next(self) -> TrialTask | None:
        """The next to begin, written down already; None where there is none left."""

    def known(self) -> Sequence[Sequence[Mapping[str, float]]]:
        """The curves of the trials that have ended before, as far as they came."""

    def reached(self, number: int, row: Mapping[str, float]) -> None:
        """A new point of a curve."""

    def ended(self, number: int, how: str, error: str) -> None:
        """`finished`, `pruned`, or `failed` with an error; not called for one that was stopped with the sweep."""

    def say(self, text: str) -> None:
        """A line for the one who waits."""


class _Run(tune.Trainable):
    """A step is the next evaluation on val; the process ends with the trial."""

    def setup(self, config: dict[str, Any]) -> None:
        self.trial: TrialTask = config["trial"]
        self.stop_file: Path = config["stop"]
        keep_beating(_beat(self.stop_file, self.trial.number))
        self.config_of_run = build(self.trial.recipe)
        self.said = 0
        folder = self.trial.folder if self.trial.folder.is_dir() else None  # on another machine
        environment = environment_of(config["environment"])
        self.child = Child(self.trial.command, self.trial.log, environment, folder=folder, append=True)

    def step(self) -> dict[str, Any]:
        while True:
            status = self.child.status(POLL_S)  # before the rows: what is there at the end is all there will be
            rows = curve(self.trial.root, self.config_of_run)
            if len(rows) > self.said:
                self.said += 1
                return dict(rows[self.said - 1])
            if status is not None:
                return self._end(status)
            if self.stop_file.exists():
                self.cleanup()
                return {"done": True, END: "stopped"}
            time.sleep(POLL_S)

    def _end(self, status: int) -> dict[str, Any]:
        if not status and outcome(self.trial.root) is not None:
            return {"done": True, END: "finished"}
        error = f"{how(status)}: {last_line(self.trial.log)}"
        if status == UserError.exit_status:  # another attempt would end in the same way
            return {"done": True, END: "failed", "error": error}
        raise RuntimeError(error)

    def cleanup(self) -> None:
        """End the process, unless it has ended by itself."""
        if self.child.process.poll() is None:
            end_all([self.child.process])


def _beat(stop: Path, number: int) -> Path:
    """File by which a trial's actor shows that it is not frozen."""
    return stop.with_name(f"beat-{number}.json")


class _Next(Searcher):
    def __init__(self, trials: Trials, stop: Path, environment: str) -> None:
        super().__init__(metric="miou", mode="max")
        self.trials, self.stop, self.environment = trials, stop, environment

    def suggest(self, trial_id: str) -> Any:
        trial = None if self.stop.exists() else self.trials.next()
        if trial is None:
            return Searcher.FINISHED
        return {"trial": trial, "stop": self.stop, "environment": self.environment}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None: ...

    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()  # Tune moves it where it would look for it

    def restore(self, checkpoint_path: str) -> None: ...


class _Told(tune.Callback):
    def __init__(self, trials: Trials, stop: Path, silent_s: float) -> None:
        self.trials, self.stop, self.silent_s = trials, stop, silent_s
        self.steps: dict[int, int] = {}
        self.vigils: dict[int, tuple[Any, Vigil]] = {}
        self.listened = time.monotonic()

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Tune waits for its actors without a bound; on our own cluster the backend looks after them, on one that was
        joined nobody does."""
        seconds = time.monotonic() - self.listened
        if seconds < BEAT_S:
            return
        self.listened += seconds
        for trial in trials:
            number, actor = trial.config["trial"].number, trial.temporary_state.ray_actor
            if actor is None:
                self.vigils.pop(number, None)
                continue
            if self.vigils.get(number, (None,))[0] != actor:  # the first attempt, or another
                self.vigils[number] = (actor, Vigil(_beat(self.stop, number), self.silent_s))
            vigil = self.vigils[number][1]
            vigil.listen(min(seconds, 2 * BEAT_S))  # this process stood still in what is above
            if vigil.silent > (vigil.timeout if vigil.last else vigil.start):
                self.trials.say(
                    f"trial {number}: its actor ({vigil.who}) is lost: nothing was heard of it for {vigil.silent:.0f} s"
                )
                ray.kill(actor)
                vigil.rest()

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        number = trial.config["trial"].number
        if "step" in result and result["step"] > self.steps.get(number, 0):  # another attempt says them again
            self.steps[number] = result["step"]
            self.trials.reached(number, {"step": result["step"], "miou": result["miou"]})

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        how = trial.last_result.get(END, "pruned")
        if how != "stopped":
            self.trials.ended(trial.config["trial"].number, how, trial.last_result.get("error", ""))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        one: TrialTask = trial.config["trial"]
        self.trials.ended(one.number, "failed", f"after {trial.num_failures} attempts: {last_line(one.log)}")


def scheduler_of(name: str, mode: str, steps: int, known: Sequence[Sequence[Mapping[str, float]]]) -> TrialScheduler:
    """`fifo` lets every trial run to its end; `asha` knows the curves of those that have ended before."""
    if name == "fifo":
        return FIFOScheduler()
    first = max(1, steps // REDUCTION**RUNGS)
    asha = AsyncHyperBandScheduler(
        time_attr="step", metric="miou", mode=mode, max_t=max(steps, first), grace_period=first,
        reduction_factor=REDUCTION, stop_last_trials=False,
    )  # fmt: skip
    for number, rows in enumerate(known):
        nobody: Any = None
        past: Any = SimpleNamespace(trial_id=f"past-{number}")
        asha.on_trial_add(nobody, past)
        for row in rows:
            asha.on_trial_result(nobody, past, dict(row))
    return asha


def run_trials(
    trials: Trials, *, scheduler: TrialScheduler, at_once: int, resources: Mapping[str, float], retries: int,
    work: Path, environment: Mapping[str, str], silent_s: float = SILENT_S,
) -> None:  # fmt: skip
    """Until `trials` has no more.  A signal stops all of them, each with its state saved, and is raised again then.

    `environment` is for the trials' processes, beside the cluster's own.  It may hold passwords: what is part of a
    trial, or a parameter of Tune's, would be part of Tune's state on the disk.

    `work` is scratch, Tune's own state above all: gone in the end, and what a killed sweep has left is not read.
    """
    stop = work / "stop"
    if work.exists():
        shutil.rmtree(work)
    make_folder(work)
    name = f"sweep-{os.getpid()}"
    tuner = tune.Tuner(
        tune.with_resources(_Run, dict(resources)),
        tune_config=tune.TuneConfig(
            scheduler=scheduler, search_alg=_Next(trials, stop, name), num_samples=-1, max_concurrent_trials=at_once,
            reuse_actors=False,
        ),
        run_config=tune.RunConfig(
            name=name, storage_path=str((work / "ray").resolve()), verbose=0,
            failure_config=tune.FailureConfig(max_failures=retries), callbacks=[_Told(trials, stop, silent_s)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )  # fmt: skip
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial that fails is said in one line by `trials`
    # Not in the main thread, where Tune would take SIGINT for itself.
    given = {key: os.environ[key] for key in PASSED_ON if key in os.environ}
    with kept(name, {**given, **environment}), ThreadPoolExecutor(1) as thread:
        running = thread.submit(tuner.fit)
        try:
            running.result()
        except KeyboardInterrupt:
            stop.touch()
            done = threading.Event()
            running.add_done_callback(lambda _: done.set())
            done.wait(GRACE_S + 10)
            raise Interrupted("stopped, trials saved: the same command continues") from None
        except tune.TuneError as error:
            raise InfrastructureError(f"Ray Tune: {cause(str(error))}; the same command continues") from error
    shutil.rmtree(work)
