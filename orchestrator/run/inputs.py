"""What each stage of a run is made from."""

from __future__ import annotations

from pathlib import Path

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import MANIFEST, digest, notes_settings
from querying.base.errors import DamagedError
from querying.base.files import sha256
from querying.labels.ledger import Ledger
from querying.settings import EXTRAS

STAGES = {"train": "checkpoint", "evaluate": "evaluation", "score": "scores", "select": "query"}
"""What a stage does -> the folder of a cycle that it publishes."""


def stage_inputs(layout: RunLayout, ledger: Ledger, stage: str, cycle: int, start: str = "imagenet") -> dict[str, str]:
    """Digests of what a stage of this cycle is made from: where they change, it must be made again.  `start` is the
    recipe's `train.start`."""
    labels = {"labels": ledger.chain(cycle)}
    choice = layout.teacher_choice(cycle)
    reliable = {"reliable images": digest(choice)} if choice else {}
    if stage == "train":
        pseudo = {"pseudo-labels": digest(layout.scores(cycle - 1), "pseudo-*")} if cycle else {}
        weights = {"first weights": sha256(layout.backbone)} if layout.backbone.exists() else {}
        begun = cycle and start == "previous"
        previous = {"previous network": digest(layout.checkpoint(cycle - 1), "*.safetensors")} if begun else {}
        return labels | pseudo | reliable | weights | previous
    if stage == "select":
        scores = layout.scores(cycle)
        extras = {kind: digest(scores, f"{kind}-*") for kind in EXTRAS if any(scores.glob(f"{kind}-*"))}
        return labels | {"scores": digest(scores, "regions-*")} | extras
    model = {"model": digest(layout.checkpoint(cycle), "*.safetensors")}
    return model if stage == "evaluate" else labels | model | reliable


def unnoted_settings(layout: RunLayout) -> list[str]:
    """One line, where stages of a run were made by a version that noted no settings: they are believed."""
    folders = [layout.cycle(cycle) / name for cycle in range(1000) for name in STAGES.values()]
    old = [one for one in folders if (one / MANIFEST).exists() and not _noted(one)]
    more = f" (and {len(old) - 1} more)" if len(old) > 1 else ""
    return [f"{old[0]}{more}: made by a version that noted no settings, believed to be of this recipe"] if old else []


def _noted(folder: Path) -> bool:
    try:
        return notes_settings(folder)
    except DamagedError:  # said where it counts
        return True
