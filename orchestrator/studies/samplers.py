"""Which point of a space comes next.  Sample `number` depends on the seed and on what was told before, so a sweep that
was killed goes on with the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Literal, Protocol

import numpy as np

from orchestrator.studies.space import LISTS, Parameter, Space, Values, identity
from querying.base.errors import UserError

TRIES = 1000
"""Draws before a space counts as exhausted."""


class Sampler(Protocol):
    total: int
    """How many samples there will be."""

    def draw(self, number: int, before: Sequence[Values]) -> Values:
        """Sample `number`; `before` are all with a smaller number."""

    def tell(self, number: int, values: Values, objective: float | None) -> None:
        """What a trial has reached; None where it failed or was stopped early."""


def new_sampler(search: str, space: Space, samples: int | None, seed: int, mode: str) -> Sampler:
    """UserError where the search can not have so many samples, or Optuna is not installed."""
    if search == "grid":
        return _Listed(list(islice(space.grid(), samples)))
    if samples is None:
        raise UserError(f"--search {search} needs --samples N")
    if search == "optuna":
        return _Optuna(space, samples, seed, mode)
    return _Random(space, samples, seed)


class _Listed:
    def __init__(self, values: Sequence[Values]) -> None:
        self.values, self.total = values, len(values)

    def draw(self, number: int, before: Sequence[Values]) -> Values:
        return self.values[number]

    def tell(self, number: int, values: Values, objective: float | None) -> None: ...


class _Random:
    """Independent draws, none twice."""

    def __init__(self, space: Space, samples: int, seed: int) -> None:
        self.space, self.total, self.seed = space, samples, seed

    def draw(self, number: int, before: Sequence[Values]) -> Values:
        return _another(self.space.draw, [self.seed, number], before, self.space)

    def tell(self, number: int, values: Values, objective: float | None) -> None: ...


def _another(
    draw: Callable[[np.random.Generator], Values], entropy: Sequence[int], before: Sequence[Values], space: Space
) -> Values:
    known = {identity(values) for values in before}
    rng = np.random.Generator(np.random.PCG64(list(entropy)))
    for _ in range(TRIES):
        values = draw(rng)
        if identity(values) not in known:
            return values
    raise UserError(f"{space.where}: has no more than {len(known)} different samples; ask for fewer with --samples")


class _Optuna:
    """Optuna's TPE; the study is told again what is known already when a sweep goes on."""

    def __init__(self, space: Space, samples: int, seed: int, mode: str) -> None:
        try:
            import optuna
        except ImportError:
            raise UserError("--search optuna: Optuna is not installed; run: pip install optuna") from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.space, self.total, self.seed = optuna, space, samples, seed
        self.direction: Literal["maximize", "minimize"] = "maximize" if mode == "max" else "minimize"
        self.told: dict[int, tuple[Values, float | None]] = {}

    def draw(self, number: int, before: Sequence[Values]) -> Values:
        sampler = self.optuna.samplers.TPESampler(seed=self.seed + number)
        study = self.optuna.create_study(direction=self.direction, sampler=sampler)
        for values, objective in (self.told[n] for n in sorted(self.told)):
            if objective is not None:
                study.add_trial(self._frozen(values, objective))

        def ask(rng: np.random.Generator) -> Values:
            trial, drawn = study.ask(), Values()
            for parameter in self.space.parameters:
                if parameter.counts(drawn):
                    drawn[parameter.key] = self._suggest(trial, parameter)
            return drawn

        return _another(ask, [number], before, self.space)

    def tell(self, number: int, values: Values, objective: float | None) -> None:
        self.told[number] = values, objective

    def _suggest(self, trial: Any, parameter: Parameter) -> Any:
        if parameter.kind in LISTS:  # by place: Optuna knows only scalars
            return parameter.values[trial.suggest_categorical(parameter.key, range(len(parameter.values)))]
        low, high = parameter.values
        if parameter.kind == "randint":
            return trial.suggest_int(parameter.key, low, high)
        return trial.suggest_float(parameter.key, low, high, log=parameter.kind == "loguniform")

    def _frozen(self, values: Values, objective: float) -> Any:
        kinds = self.optuna.distributions
        numbers: dict[str, Any] = {}
        distributions: dict[str, Any] = {}
        for one in (p for p in self.space.parameters if p.key in values):
            if one.kind in LISTS:
                numbers[one.key] = one.values.index(values[one.key])
                found = kinds.CategoricalDistribution(range(len(one.values)))
            elif one.kind == "randint":
                numbers[one.key], found = values[one.key], kinds.IntDistribution(*one.values)
            else:
                numbers[one.key] = values[one.key]
                found = kinds.FloatDistribution(*one.values, log=one.kind == "loguniform")
            distributions[one.key] = found
        return self.optuna.trial.create_trial(params=numbers, distributions=distributions, value=objective)
