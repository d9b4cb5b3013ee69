"""A search space: which keys of a recipe may take which values, checked before anything is tried.

query.threshold: {choice: [0.6, 0.7, 0.8]}
train.lr: {loguniform: [0.003, 0.1]}
reco.weight: {uniform: [0.0, 1.0]}
train.steps_per_epoch: {randint: [50, 200]}      # both ends may be drawn
query.region_size: {grid: [15, 30]}              # every value with `--search grid`, else like choice
reco.queries: {choice: [64, 128], when: {reco.weight: [0.5, 1.0]}}   # else the recipe's value
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.recipe.config import RunConfig, flatten, nearest, override, unknown_key
from orchestrator.recipe.strict_yaml import MAX_YAML_BYTES, parse_yaml
from orchestrator.run.preflight import with_local_list, with_local_weights
from querying.base.errors import UserError

LARGEST = 2**63 - 1
"""Whole number that can be drawn."""
LISTS, RANGES = ("choice", "grid"), ("uniform", "loguniform", "randint")
FIXED = {
    "data.evaluate_on": "nothing is chosen on another split than val",
    "name": "a trial has the recipe's name and its number",
}
"""Keys that no space may hold, and why."""
SHIPPED = Path(__file__).parent / "spaces"
Values = dict[str, Any]
"""Key of the recipe -> value."""


@dataclass(frozen=True, slots=True)
class Parameter:
    key: str
    kind: str
    """One of LISTS or RANGES."""
    values: tuple[Any, ...]
    """The values of a list; low and high of a range."""
    when: Mapping[str, tuple[Any, ...]]
    """Other parameters of the space, and the values of each for which this one counts."""

    def counts(self, drawn: Values) -> bool:
        return all(key in drawn and drawn[key] in allowed for key, allowed in self.when.items())

    def draw(self, rng: np.random.Generator) -> Any:
        if self.kind in LISTS:
            return self.values[int(rng.integers(len(self.values)))]
        low, high = self.values
        if self.kind == "randint":
            return int(rng.integers(low, high, endpoint=True))
        if self.kind == "uniform":
            return float(rng.uniform(low, high))
        return float(math.exp(rng.uniform(math.log(low), math.log(high))))


class Space:
    """Parameters in an order in which conditions come before what depends on them."""

    def __init__(self, parameters: Mapping[str, Parameter], where: str) -> None:
        self.where = where
        self.parameters: list[Parameter] = []
        left = dict(parameters)
        while left:
            ready = [p for p in left.values() if not left.keys() & p.when.keys()]
            if not ready:
                raise UserError(f"{where}: the conditions of {', '.join(sorted(left))} go round in a circle")
            self.parameters += ready
            left = {key: p for key, p in left.items() if p not in ready}

    def draw(self, rng: np.random.Generator) -> Values:
        """One value for every parameter that counts."""
        drawn: Values = {}
        for parameter in self.parameters:
            value = parameter.draw(rng)  # also where it does not count: what comes after stays the same
            if parameter.counts(drawn):
                drawn[parameter.key] = value
        return drawn

    def grid(self) -> Iterator[Values]:
        """Every combination, once.  UserError for a range."""
        for parameter in self.parameters:
            if parameter.kind in RANGES:
                raise UserError(f"{self.where}: {parameter.key}: --search grid needs a list, not {parameter.kind}")
        seen = set()
        for values in itertools.product(*(parameter.values for parameter in self.parameters)):
            drawn: Values = {}
            for parameter, value in zip(self.parameters, values, strict=True):
                if parameter.counts(drawn):
                    drawn[parameter.key] = value
            if (key := identity(drawn)) not in seen:
                seen.add(key)
                yield drawn


def identity(values: Values) -> str:
    """Equal for equal samples."""
    return json.dumps(values, sort_keys=True)


def with_values(config: RunConfig, values: Values) -> RunConfig:
    """The recipe with a sample's values; UserError names the key whose value it can not have."""
    return override(config, [f"{key}={json.dumps(value)}" for key, value in values.items()])


def shipped_spaces() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_space(name: str, base: RunConfig) -> Space:
    """A YAML file, or the name of a space that comes along.

    UserError, one line: an unknown key, a wrong form, or a value (of a list, or the end of a range) that the recipe
    could not have.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        if name not in shipped_spaces():
            raise UserError(
                f"--space {name}: not a YAML file, and no space that comes along"
                f"{nearest(name, shipped_spaces())}; there are {', '.join(shipped_spaces())}"
            )
        path = SHIPPED / f"{name}.yaml"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_YAML_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    return parse_space(text, base, str(path))


def parse_space(text: str, base: RunConfig, where: str) -> Space:
    tree = parse_yaml(text, where)
    if not isinstance(tree, dict) or not tree:
        raise UserError(f"{where}: a space is a mapping of a recipe's keys to what they may be")
    known = flatten(base.model_dump(mode="json"))
    for key in tree:
        if key not in known:
            raise UserError(f"{where}: {unknown_key(str(key))}")
        if key in FIXED:
            raise UserError(f"{where}: {key}: can not be searched: {FIXED[key]}")
    found = {key: _kind_and_values(key, spec, base, where) for key, spec in tree.items()}
    return Space(
        {
            key: Parameter(key, kind, values, _conditions(key, tree[key].get("when", {}), found, base, where))
            for key, (kind, values) in found.items()
        },
        where,
    )


def _kind_and_values(key: str, spec: Any, base: RunConfig, where: str) -> tuple[str, tuple[Any, ...]]:
    kinds = [word for word in spec if word != "when"] if isinstance(spec, dict) else []
    if len(kinds) != 1 or kinds[0] not in LISTS + RANGES:
        known = ", ".join(LISTS + RANGES)
        hint = nearest(str(kinds[0]), LISTS + RANGES) if len(kinds) == 1 else ""
        raise UserError(f"{where}: {key}: expected one of {known}, such as {{choice: [1, 2]}}{hint}")
    [kind] = kinds
    values = spec[kind]
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: {key}: {kind}: expected a list")
    if kind in RANGES:
        values = _ends(key, kind, values, where)
    try:
        read = tuple(_as_read(base, key, value) for value in values)
    except UserError as error:
        raise UserError(f"{where}: {key}: {kind}: {error}") from None
    if kind in LISTS:
        return kind, read
    if kind != "randint" and all(isinstance(end, int) for end in read):
        raise UserError(f"{where}: {key}: {kind}: the key takes whole numbers: use randint")
    return kind, tuple(values)


def _as_read(base: RunConfig, key: str, value: Any) -> Any:
    """The value as the recipe has it: 1e-3 is text to YAML, 1 a whole number, and a path the user's."""
    node: Any = with_local_list(with_local_weights(with_values(base, {key: value}))).model_dump(mode="json")
    for part in key.split("."):
        node = node[part]
    return node


def _ends(key: str, kind: str, values: list[Any], where: str) -> list[Any]:
    try:
        if any(isinstance(value, bool) for value in values):
            raise ValueError
        low, high = ends = [float(value) for value in values]  # also 1e-3, which is text to YAML
    except (TypeError, ValueError):
        raise UserError(f"{where}: {key}: {kind}: expected two numbers, low and high") from None
    if not low < high:
        raise UserError(f"{where}: {key}: {kind}: {values[0]} is not below {values[1]}")
    if kind == "loguniform" and low <= 0:
        raise UserError(f"{where}: {key}: {kind}: {values[0]} is not above 0")
    if kind == "randint":
        if not (low.is_integer() and high.is_integer()):
            raise UserError(f"{where}: {key}: {kind}: expected two whole numbers")
        if max(-low, high) > LARGEST:
            raise UserError(f"{where}: {key}: {kind}: {values} go beyond 64 bits")
        return [int(low), int(high)]
    return ends


def _conditions(
    key: str, when: Any, found: Mapping[str, tuple[str, tuple[Any, ...]]], base: RunConfig, where: str
) -> dict[str, tuple[Any, ...]]:
    if not isinstance(when, dict) or not all(isinstance(allowed, list) for allowed in when.values()):
        raise UserError(f"{where}: {key}: when: expected other keys of the space with a list of values each")
    conditions = {}
    for other, allowed in when.items():
        kind, listed = found.get(other, ("", ()))
        if kind not in LISTS:
            raise UserError(f"{where}: {key}: when: {other} is not a choice or grid of this space")
        try:
            conditions[other] = tuple(_as_read(base, other, value) for value in allowed)
        except UserError as error:
            raise UserError(f"{where}: {key}: when: {error}") from None
        for value, written in zip(conditions[other], allowed, strict=True):
            if value not in listed:
                raise UserError(f"{where}: {key}: when: {other} is never {written}")
    return conditions
