"""`s4al sweep`: trials of a recipe over a space of its keys, under Ray Tune; again to continue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.backends import check_backend, started
from benchmarks.preflight import check_data, with_local_list, with_local_weights
from benchmarks.recipes import resolve
from benchmarks.run_command import begin, generated, settled
from benchmarks.samplers import Sampler, new_sampler
from benchmarks.space import load_space, with_values
from benchmarks.sweep_record import DRAWN, FAILED, FINISHED, PRUNED, Sample, SweepRecord, best, config_of, group_of
from orchestrator.config import RunConfig, changed
from orchestrator.interrupt import GRACE_S, follow_parent, handled
from orchestrator.layout import RunLayout, locked
from orchestrator.mlflow_store import open_group
from orchestrator.record import Record
from orchestrator.tracking_uri import check_uri, default_uri
from querying.errors import InfrastructureError, UserError
from querying.shards import DataIndex
from training.settings import VAL_SPLIT

if TYPE_CHECKING:
    from orchestrator.backend import Backend
    from orchestrator.progress import Progress
    from orchestrator.ray_tuning import Trial

OBJECTIVES = ("miou", "pixel_accuracy", "labelled_fraction", "labelled_pixels", "cells", "void_pixels", "seconds")
"""Numbers of a run's last cycle, besides each class's IoU."""
LOOKS = 10
"""Evaluations on val in a training, where the recipe asks for none and the scheduler needs some."""


def sweep_command(
    recipe: str,
    overrides: Sequence[str],
    *,
    space: str,
    samples: int | None,
    scheduler: str,
    search: str,
    objective: str,
    mode: str,
    seed: int,
    data: Path | None,
    out: Path | None,
    address: str | None,
    tracking: str | None,
    parallel: int | None,
    retries: int,
) -> None:
    base = _base(with_local_list(with_local_weights(resolve(recipe, overrides))), overrides, scheduler, objective)
    out = out or Path("runs") / f"{base.name}.sweep"
    check_backend("ray", address)
    points = load_space(space, base)
    sampler = new_sampler(search, points, samples, seed, mode)
    uri = tracking or default_uri(out)
    if uri != "none":
        check_uri(uri)
    data = data or generated(base, out)
    index = DataIndex.load(data)
    known = [*OBJECTIVES, *(f"class_iou/{name}" for name in index.classes)]
    if objective not in known:
        raise UserError(f"--objective {objective}: there are {', '.join(known)}")
    if search != "optuna":  # every mistake before the first training
        _check_all(sampler, base, index)
    check_data(base, index)
    settings = {
        "recipe": base.model_dump(mode="json"),
        "space": [[p.key, p.kind, list(p.values), {k: list(v) for k, v in p.when.items()}] for p in points.parameters],
        "search": search,
        "scheduler": scheduler,
        "objective": objective,
        "mode": mode,
        "seed": seed,
        "data": index.digest,
        "samples": sampler.total,
    }

    from orchestrator.progress import shown

    with locked(out), handled(), shown() as progress:
        record = SweepRecord(out)
        record.begin(settings)
        record.settle()
        with started("ray", address, progress) as ready:
            if uri != "none":
                open_group(out, base.name, uri)
            _run(record, sampler, settings, ready, data.resolve(), uri, parallel, retries, progress)

    from benchmarks.sweep_results import conclude

    conclude(record, settings, uri)
    if not best(record.samples, objective, mode):
        raise InfrastructureError(f"{out}: no trial finished; the first: {record.samples[0].error}")


def _base(config: RunConfig, overrides: Sequence[str], scheduler: str, objective: str) -> RunConfig:
    """Trials are judged on val, never on what is reported: nothing is chosen on test."""
    chosen = [word.partition("=")[2] for word in overrides if word.startswith("data.evaluate_on=")]
    if chosen and chosen[-1] != VAL_SPLIT:
        raise UserError(f"data.evaluate_on={chosen[-1]}: a sweep chooses, so its trials are evaluated on {VAL_SPLIT}")
    config = changed(config, data={"evaluate_on": VAL_SPLIT})
    if scheduler == "asha":
        if objective != "miou":
            raise UserError(f"--scheduler asha goes by mIoU on {VAL_SPLIT}; use fifo with --objective {objective}")
        if not config.train.validate_epochs:
            config = changed(config, train={"validate_epochs": max(1, config.train.epochs // LOOKS)})
    return config


def _check_all(sampler: Sampler, base: RunConfig, index: DataIndex) -> None:
    drawn: list[dict[str, Any]] = []
    for number in range(sampler.total):
        drawn.append(sampler.draw(number, drawn))
        try:
            check_data(with_values(base, drawn[-1]), index)
        except UserError as error:
            shown = ", ".join(f"{key}={value}" for key, value in drawn[-1].items())
            raise UserError(f"sample {number} ({shown}): {error}") from None


def _run(
    record: SweepRecord,
    sampler: Sampler,
    settings: Mapping[str, Any],
    backend: Backend,
    data: Path,
    uri: str,
    parallel: int | None,
    retries: int,
    progress: Progress,
) -> None:
    from orchestrator.ray_tuning import run_trials, scheduler_of
    from orchestrator.trial_rows import total_steps

    for one in record.samples:
        sampler.tell(one.number, one.values, one.objective(settings["objective"]))
        if one.state != DRAWN:
            progress.say(f"trial {one.number}: {one.state} already")
    base = config_of(settings["recipe"], Sample(0, {}))
    alone = base.train.workers == 1 and base.query.actors == 1
    if alone:  # the actor holds what its process needs, and no Ray runs within
        threads = max(base.train.threads, base.query.threads)
        resources = {"CPU": threads, **({"GPU": 1} if backend.device == "cuda" else {})}
        room = backend.room(1, threads)
        where = ["local", "-"]
    else:  # its workers and scorers hold it: an actor that did, too, might keep them waiting for ever
        resources = {"CPU": 0}
        room = backend.room(base.train.workers, base.train.threads)
        where = ["ray", str(backend.address)]
    if not room:
        raise UserError("no node of the cluster has room for one trial (train.workers, train.threads, query.threads)")
    at_once = min(parallel or room, room) if alone else parallel or room
    trials = _Trials(record, sampler, settings, [str(data), uri, *where], progress)
    steps = max(total_steps(config_of(settings["recipe"], one)) for one in record.samples) if record.samples else 0
    steps = max(steps, total_steps(base))
    progress.say(f"{sampler.total} trials, {at_once} at a time, {settings['scheduler']}")
    scheduler = scheduler_of(settings["scheduler"], settings["mode"], steps, trials.known())
    run_trials(trials, scheduler=scheduler, at_once=at_once, resources=resources, retries=retries,
               work=record.root / "work")  # fmt: skip


class _Trials:
    """What Tune asks and tells; begins with the trials that were drawn and have not ended."""

    def __init__(
        self,
        record: SweepRecord,
        sampler: Sampler,
        settings: Mapping[str, Any],
        words: Sequence[str],
        progress: Progress,
    ) -> None:
        self.record, self.sampler, self.settings = record, sampler, settings
        self.words, self.progress = words, progress
        self.waiting = [one for one in record.samples if one.state == DRAWN]

    def known(self) -> list[list[dict[str, float]]]:
        return [one.rows for one in self.record.samples if one.state in (FINISHED, PRUNED)]

    def next(self) -> Trial | None:
        from orchestrator.ray_tuning import Trial

        if self.waiting:
            sample = self.waiting.pop(0)
        elif len(self.record.samples) < self.sampler.total:
            sample = self.record.draw(self.sampler)
        else:
            return None
        root = self.record.folder(sample.number).resolve()
        shown = ", ".join(f"{key}={value}" for key, value in sample.values.items())
        self.progress.say(f"trial {sample.number}: {shown}")
        recipe = config_of(self.settings["recipe"], sample).model_dump(mode="json")
        command = ["trial", str(self.record.root.resolve()), str(sample.number), *self.words]
        return Trial(sample.number, root, recipe, command, root.with_suffix(".log"))

    def reached(self, number: int, row: Mapping[str, float]) -> None:
        sample = self.record.samples[number]
        if not sample.rows or row["step"] > sample.rows[-1]["step"]:
            sample.rows.append(dict(row))
            self.record.keep(sample)

    def ended(self, number: int, how: str, error: str) -> None:
        from orchestrator.trial_rows import outcome

        sample = self.record.samples[number]
        sample.state, sample.error = {"finished": FINISHED, "pruned": PRUNED}.get(how, FAILED), error
        if how == "finished":
            sample.outcome = outcome(self.record.folder(number)) or {}
        self.record.keep(sample)
        value = sample.objective(self.settings["objective"])
        self.sampler.tell(number, sample.values, value)
        figure = "" if value is None else f", {self.settings['objective']} {value:.4f}"
        self.progress.say(f"trial {number}: {sample.state}{figure}{f': {error}' if error else ''}")


def trial_command(root: Path, number: int, data: Path, uri: str, backend: str, address: str) -> None:
    """One trial, in the process that Tune's actor has started."""
    from orchestrator.loop import run
    from orchestrator.progress import shown

    record = SweepRecord(root)
    settings, sample = record.settings(), record.samples[number]
    config, index = config_of(settings["recipe"], sample), DataIndex.load(data)
    layout = RunLayout(record.folder(number))
    with (
        handled(),
        shown() as progress,
        started(backend, None if backend == "local" else address, progress) as ready,
        locked(layout.root, patience=GRACE_S + 5),  # one of a sweep that was killed may still be saving
    ):
        follow_parent()
        begin(config, index, layout)
        mirror = settled(config, index, layout, ready, uri, progress, group_of(root, settings, number))
        mirror.sync()
        run(config, index, layout, ready, Record(layout.metrics), mirror, progress)
        mirror.finish(None, None)
