"""A sweep as numbers: the best so far, and what goes with the objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.studies.sweep import FINISHED, PRUNED, Sample, best

ENOUGH = 5
"""Trials below which an association says nothing at all."""


def best_so_far(samples: Sequence[Sample], objective: str, mode: str) -> list[float | None]:
    """After each trial in the order of their numbers, of the finished ones."""
    line: list[float | None] = []
    for count in range(1, len(samples) + 1):
        found = best(samples[:count], objective, mode)
        line.append(found.outcome[objective] if found else None)
    return line


def side_by_side(samples: Sequence[Sample], objective: str) -> tuple[list[tuple[Sample, float]], str]:
    """Trials with a figure that can be compared, and what it is.

    Where a scheduler has stopped some: every trial's mIoU at the last step that all of them have seen.  Else the
    objective of the finished ones.
    """
    curves = [one for one in samples if one.rows and one.state in (FINISHED, PRUNED)]
    if objective == "miou" and any(one.state == PRUNED for one in curves):
        steps = set.intersection(*({row["step"] for row in one.rows} for one in curves))
        if steps:
            at = max(steps)
            values = [next(row["miou"] for row in one.rows if row["step"] == at) for one in curves]
            return list(zip(curves, values, strict=True)), f"mIoU on val at step {at:.0f}, all trials"
    done = [one for one in samples if one.state == FINISHED and objective in one.outcome]
    return [(one, one.outcome[objective]) for one in done], f"{objective} of finished trials"


def importance(samples: Sequence[Sample], objective: str) -> dict[str, float]:
    """How much of the figure of `side_by_side` goes with a key, 0..1: |Spearman's rho| of a number, the correlation
    ratio eta of anything else.  Neither is a cause; with few trials both are large by chance.

    Left out where fewer than five trials had the key or it never changed.
    """
    from scipy.stats import spearmanr

    found: dict[str, float] = {}
    compared, _ = side_by_side(samples, objective)
    for key in dict.fromkeys(key for one, _ in compared for key in one.values):
        having = [(one.values[key], value) for one, value in compared if key in one.values]
        x, y = [value for value, _ in having], np.array([value for _, value in having])
        if len(having) < ENOUGH or len(set(map(str, x))) < 2 or not y.std():
            continue
        if all(is_number(value) for value in x):
            found[key] = abs(float(spearmanr(x, y).statistic))
        else:
            groups = [y[[str(value) == name for value in x]] for name in dict.fromkeys(map(str, x))]
            between = sum(len(group) * (group.mean() - y.mean()) ** 2 for group in groups)
            found[key] = float(np.sqrt(between / ((y - y.mean()) ** 2).sum()))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
