"""A cell of the semi-supervised benchmark: one method on one split with one seed, from a recipe that they share.

The recipe fixes network, optimiser, steps, batch, augmentation and evaluation; a method brings its loss and the
settings that its authors published (for Cityscapes where there are any).
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from orchestrator.recipe.config import RunConfig, changed, nearest
from orchestrator.run.first_labels import shipped_lists
from querying.base.errors import UserError

ROUNDS = 2
"""Rounds of self-training after the supervised one (S4AL+ section 4.3; ST++)."""
ANY = 0.001
"""A confidence that every prediction has: the most probable of 255 classes has more."""

Changes = dict[str, Any]
_ALONE: Changes = {"cycles": 0, "reco": {"weight": 0.0}}
_ROUNDS: Changes = {"cycles": ROUNDS, "train": {"method": "self_training"}}

_SAME_STEPS: Changes = {"epochs": None, "steps_per_epoch": None, "batch_size": None}
"""And as many labelled images."""
_FROM_SHORT: Changes = {"ramp": 0.4}
"""CPS's published weight needs networks that are right more often than they agree on what is wrong: fresh heads agree
on one class within 13 steps, and no label can free it, under all published conditions
(docs/how_it_works/fidelity.md).  So it grows over two fifths of the steps here (ours)."""

SUPERVISED = "supervised"
POOL_TRUTH = "pool_truth"
"""No method but their control: one training like theirs, whose pool has its true labels."""

METHODS: dict[str, Changes] = {
    SUPERVISED: {**_ALONE, "train": {"method": "supervised"}},
    "supervised_reco": {"cycles": 0, "train": {"method": "supervised"}},
    "self_training": _ROUNDS,
    "self_training_no_reco": {**_ROUNDS, "reco": {"weight": 0.0}},
    "st++": {
        "cycles": ROUNDS,
        "train": {"method": "st++"},
        "reco": {"weight": 0.0},
        "query": {"threshold": ANY},
        "methods": {"self_training": {"mean": "known"}},
    },
    "mean_teacher": {**_ALONE, "train": {"method": "mean_teacher"}},
    "cct": {**_ALONE, "train": {"method": "cct"}},
    "cps": {**_ALONE, "train": {"method": "cps"}, "methods": {"cps": {"weight": 6.0, **_FROM_SHORT}}},
    "cps_cutmix": {
        **_ALONE,
        "train": {"method": "cps"},
        "methods": {"cps": {"weight": 5.0, "cutmix": True, **_FROM_SHORT}},
    },
    "u2pl": {**_ALONE, "train": {"method": "u2pl"}},
    "ael": {**_ALONE, "train": {"method": "ael"}},
    "unimatch": {**_ALONE, "train": {"method": "unimatch"}},
    "unimatch_v2": {**_ALONE, "train": {"method": "unimatch_v2"}},
    POOL_TRUTH: {
        "cycles": 1,
        "train": {"method": "self_training", "pool_labels": "truth"},
        "teacher": {"epochs": 1, "steps_per_epoch": 1},  # nothing is learned from it
        "reco": {"weight": 0.0},
    },
}
"""What each changes in the recipe.  S4AL+ and ST++ train three times for the recipe's steps (supervised, then two
rounds), all others once."""
OWN_KEYS = ("cycles", "train.method", "train.pool_labels", "teacher.*", "reco.weight", "query.threshold", "methods.*")
"""What methods may differ in; all other keys they share, or a comparison would compare schedules, too."""


def cell(base: RunConfig, method: str, split: str, seed: int, *, family: str | None = None) -> RunConfig:
    """The configuration of a cell.

    `split` is a share such as 1/8.  With `family` (cps, u2pl), Cityscapes' published list of that share; without, that
    share of the train images drawn with the seed: nested over splits, every class in it.  UserError names a method,
    share or list that does not exist.
    """
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}{nearest(method, list(METHODS))}; there are {', '.join(METHODS)}")
    share = parse_share(split)
    label = f"{share.numerator}_{share.denominator}"
    initial: Changes = {"fraction": float(share), "images": None, "list": None, "cover": share < 1}
    if family is not None:
        source = f"cityscapes/{family}/{label}"
        if source not in shipped_lists():
            raise UserError(f"no list {source}; there are {', '.join(shipped_lists())}")
        initial = {"list": source, "cover": False}
    changes = _nested(base, METHODS[method])
    return changed(
        base,
        f"{method} {split} seed {seed}: ",
        seed=seed,
        name=f"{base.name}.{method}.{label}" + (f".{family}" if family else ""),
        reference=False,
        budget=None,
        stop_at=None,
        initial=initial,
        **{
            **changes,
            "query": {"unit": "cell", "per_image": 0, "images": 0, **changes.get("query", {})},
            "teacher": {**_SAME_STEPS, **changes.get("teacher", {})},
        },
    )


def parse_share(text: str) -> Fraction:
    """1/16, 1/8, ... or a decimal; UserError for what is not in 0 < share <= 1."""
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UserError(f"split {text!r}: expected a share such as 1/8") from None
    if not 0 < share <= 1:
        raise UserError(f"split {text!r}: a share lies above 0 and is at most 1")
    return share


def _nested(base: RunConfig, changes: Changes) -> Changes:
    """`changed` merges one level; `methods` has two."""
    if "methods" not in changes:
        return changes
    tree = base.methods.model_dump()
    merged = {name: {**tree[name], **values} for name, values in changes["methods"].items()}
    return {**changes, "methods": merged}
