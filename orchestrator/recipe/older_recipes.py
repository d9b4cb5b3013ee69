"""What a recipe meant that an earlier version wrote out in full: keys that it did not know yet had another value then.

The defaults of these keys are the forms of the methods' authors now (docs/how_it_works/fidelity.md).  A run that was
begun before keeps the form that it was begun with.
"""

from collections.abc import Mapping
from typing import Any

_GROUPS = ("data", "initial", "model", "train", "teacher", "reco", "augment", "query")
"""Written in every recipe that is written in full, by every version."""
BEFORE: dict[str, dict[str, str]] = {
    "self_training": {"mean": "apart"},
    "cps": {"passes": "joint"},
    "equal": {"supervised": "image", "distance": "probabilities", "images": "all"},
    "deal": {"balance": "share"},
}
"""`methods.*` as they were."""
SINCE: dict[str, dict[str, str]] = {"cct": {"decoder": "linear"}}
"""Likewise keys that came later: a group of a whole recipe that lacks its key is of before."""
RENAMED = {"equal": "flip_entropy"}
"""`query.acquisition`: its score until then, and the name of that score now."""


def as_it_was(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """The recipe itself, or that of an earlier version with what it meant written into it.

    A recipe that is written in full has every group; one of today has the group `methods.self_training`, too.
    """
    groups = (*_GROUPS, "methods")
    if any(not isinstance(tree.get(group, {}), Mapping) for group in groups):
        return tree  # a mistake that the validation names
    methods: Mapping[str, Any] = tree.get("methods", {})
    if not all(tree.get(group) for group in _GROUPS):
        return tree
    if any(not isinstance(methods.get(name, {}), Mapping) for name in (*BEFORE, *SINCE)):
        return tree
    since = {name: {**keys, **methods[name]} for name, keys in SINCE.items() if methods.get(name)}
    if "self_training" in methods:
        return {**tree, "methods": {**methods, **since}}
    older = {name: {**keys, **methods.get(name, {})} for name, keys in BEFORE.items()}
    older |= {name: {**keys, **methods.get(name, {})} for name, keys in SINCE.items()}
    query = dict(tree["query"])
    query["acquisition"] = RENAMED.get(query.get("acquisition", ""), query.get("acquisition", "entropy"))
    return {**tree, "methods": {**methods, **older}, "query": query}
