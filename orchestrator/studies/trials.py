"""The trials of a sweep: what is tried, what Tune asks and tells, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.recipe.config import RunConfig, changed
from orchestrator.run.preflight import check_data
from orchestrator.studies.room import room_for
from orchestrator.studies.samplers import Sampler
from orchestrator.studies.space import Space, with_values
from orchestrator.studies.sweep import DRAWN, FAILED, FINISHED, PRUNED, Sample, SweepRecord, config_of, shown_values
from orchestrator.tracking.uri import handed_on
from querying.base.errors import UserError
from querying.dataset.shards import DataIndex
from training.settings.training import VAL_SPLIT

if TYPE_CHECKING:
    from orchestrator.backends.backend import Backend
    from orchestrator.process.progress import Progress
    from orchestrator.studies.ray_trials import TrialTask


LOOKS = 10
"""Evaluations on val in a training, where the recipe asks for none and the scheduler needs some."""


def base_of(config: RunConfig, overrides: Sequence[str], scheduler: str, objective: str) -> RunConfig:
    """Trials are judged on val, never on what is reported: nothing is chosen on test."""
    chosen = [word.partition("=")[2] for word in overrides if word.startswith("data.evaluate_on=")]
    if chosen and chosen[-1] != VAL_SPLIT:
        raise UserError(f"data.evaluate_on={chosen[-1]}: a sweep chooses, so its trials are evaluated on {VAL_SPLIT}")
    config = changed(config, data={"evaluate_on": VAL_SPLIT})
    if config.stop_at is None and not any(word.startswith("reference=") for word in overrides):
        config = changed(config, reference=False)  # the same training on all labels in every trial says nothing new
    if scheduler == "asha":
        if objective != "miou":
            raise UserError(f"--scheduler asha goes by mIoU on {VAL_SPLIT}; use fifo with --objective {objective}")
        if not config.train.validate_epochs:
            config = changed(config, train={"validate_epochs": max(1, config.train.epochs // LOOKS)})
    return config


def all_recipes(sampler: Sampler, base: RunConfig, index: DataIndex) -> list[RunConfig]:
    """The recipe of every sample: each mistake is found before the first training."""
    drawn: list[dict[str, Any]] = []
    configs = []
    for number in range(sampler.total):
        drawn.append(sampler.draw(number, drawn))
        try:
            configs.append(with_values(base, drawn[-1]))
            check_data(configs[-1], index)
        except UserError as error:
            raise UserError(f"sample {number} ({shown_values(drawn[-1])}): {error}") from None
    return configs


def single_changes(points: Space, base: RunConfig) -> list[RunConfig]:
    """The recipe with one value changed, for each that the space names: what comes is not known beforehand."""
    return [base, *(with_values(base, {one.key: value}) for one in points.parameters for value in one.values)]


def run_sweep(
    record: SweepRecord,
    sampler: Sampler,
    settings: Mapping[str, Any],
    configs: Sequence[RunConfig],
    backend: Backend,
    index: DataIndex,
    uri: str,
    parallel: int | None,
    retries: int,
    progress: Progress,
) -> None:
    from orchestrator.run.outcome import total_steps
    from orchestrator.studies.ray_trials import run_trials, scheduler_of

    for one in record.samples:
        sampler.tell(one.number, one.values, one.objective(settings["objective"]))
        if one.state != DRAWN:
            progress.say(f"trial {one.number}: {one.state} already")
    room = room_for(configs, backend, parallel)
    trials = SweepTrials(record, sampler, settings, index, room.where, progress)
    progress.say(f"{sampler.total} trials, {room.at_once} at a time, {settings['scheduler']}")
    steps = max(map(total_steps, configs))
    scheduler = scheduler_of(settings["scheduler"], settings["mode"], steps, trials.known())
    run_trials(trials, scheduler=scheduler, at_once=room.at_once, resources=room.resources, retries=retries,
               work=record.root / "work", environment=handed_on(uri))  # fmt: skip


class SweepTrials:
    """What Tune asks and tells; begins with the trials that were drawn and have not ended."""

    def __init__(
        self,
        record: SweepRecord,
        sampler: Sampler,
        settings: Mapping[str, Any],
        index: DataIndex,
        words: Sequence[str],
        progress: Progress,
    ) -> None:
        self.record, self.sampler, self.settings, self.index = record, sampler, settings, index
        self.words, self.progress = words, progress
        self.waiting = [one for one in record.samples if one.state == DRAWN]

    def known(self) -> list[list[dict[str, float]]]:
        return [one.rows for one in self.record.samples if one.state in (FINISHED, PRUNED)]

    def next(self) -> TrialTask | None:
        from orchestrator.studies.ray_trials import TrialTask

        while sample := self._sample():
            self.progress.say(f"trial {sample.number}: {shown_values(sample.values)}")
            try:
                config = config_of(self.settings["recipe"], sample)
                check_data(config, self.index)
            except UserError as error:  # values that do not go together, which only Optuna finds out so late
                self.ended(sample.number, "failed", str(error))
                continue
            root = self.record.folder(sample.number).resolve()
            words = [str(self.record.root.resolve()), str(sample.number), str(self.index.root.resolve()), *self.words]
            return TrialTask(sample.number, root, config.model_dump(mode="json"), ["trial", *words],
                         root.with_suffix(".log"), Path.cwd())  # fmt: skip
        return None

    def _sample(self) -> Sample | None:
        if self.waiting:
            return self.waiting.pop(0)
        if len(self.record.samples) >= self.sampler.total:
            return None
        try:
            return self.record.draw(self.sampler)
        except UserError as error:  # the space is exhausted, which only Optuna finds out so late
            self.progress.say(str(error))
            return None

    def reached(self, number: int, row: Mapping[str, float]) -> None:
        sample = self.record.samples[number]
        if not sample.rows or row["step"] > sample.rows[-1]["step"]:
            sample.rows.append(dict(row))
            self.record.keep(sample)

    def say(self, text: str) -> None:
        self.progress.say(text)

    def ended(self, number: int, how: str, error: str) -> None:
        from orchestrator.run.outcome import outcome

        sample = self.record.samples[number]
        sample.state, sample.error = {"finished": FINISHED, "pruned": PRUNED}.get(how, FAILED), error
        if how == "finished":
            sample.outcome = outcome(self.record.folder(number)) or {}
        self.record.keep(sample)
        value = sample.objective(self.settings["objective"])
        self.sampler.tell(number, sample.values, value)
        figure = "" if value is None else f", {self.settings['objective']} {value:.4f}"
        self.progress.say(f"trial {number}: {sample.state}{figure}{f': {error}' if error else ''}")
