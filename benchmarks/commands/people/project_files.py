"""What `s4al init` writes besides the first package: recipe, classes, plan, and what to do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.datasets.classes.class_file import ClassFile, read_classes
from benchmarks.datasets.files.images import Size
from benchmarks.datasets.sources.project import SPLITS
from benchmarks.recipes.camvid import camvid_cpu
from orchestrator.annotation.human import GUESS_S
from orchestrator.annotation.rounds import PLAN
from orchestrator.recipe.config import RunConfig, changed
from querying.base.errors import UserError
from querying.base.files import sha256, write_json, write_text, written

CYCLES = 3
HOUR_S = 3600.0


class Plan(NamedTuple):
    """What was decided; `splits`: ids of val, test and first."""

    src: Path
    images: Mapping[str, Path]
    splits: Mapping[str, Sequence[str]]
    classes: ClassFile
    size: Size
    seed: int


def _recipe(plan: Plan, name: str) -> RunConfig:
    """What two cores can train, asking for about an hour's regions a round."""
    height = plan.size[0]
    side = max(8, round(height / 6))
    pool = len(plan.images) - len(plan.splits["val"]) - len(plan.splits["test"]) - len(plan.splits["first"])
    each = max(1, round(HOUR_S / GUESS_S / pool))
    return changed(
        camvid_cpu(),
        name=name,
        annotator="human",
        reference=False,
        cycles=CYCLES,
        data={"dataset": None, "size": plan.size},
        initial={"images": len(plan.splits["first"])},
        train={"precision": "fp32"},
        augment={"cutout_size": max(8, round(height / 7))},
        query={
            "region_size": side, "select": "global", "per_image": each, "exclude_border": False, "scales": (1.0,)
        },
    )  # fmt: skip


def write_files(out: Path, plan: Plan, target: Path) -> None:
    """Write them into `out`, which will be `target`."""
    name = re.sub(r"[^A-Za-z0-9_.+-]+", "_", target.name).strip(".+-")[:100] or "project"
    config = _recipe(plan, name)
    _write_classes(out / "classes.txt", plan.classes)
    head = (
        f"# s4al run {target / 'recipe.yaml'} --data DATA; any key can be changed before the first run.\n"
        "# data.size is decided: people label images of this size.  query.per_image regions for each pool image\n"
        f"# are asked in a round, about {_round_minutes(config, plan)} minutes at {GUESS_S:.0f} s each (a guess).\n"
    )
    write_text(out / "recipe.yaml", head + config.to_yaml())
    asked = [image_id for split in SPLITS for image_id in plan.splits[split]]
    files = {
        image_id: [plan.images[image_id].relative_to(plan.src).as_posix(), sha256(plan.images[image_id])]
        for image_id in asked
    }
    note = {
        "format": 1, "images": str(plan.src), "size": list(plan.size), "seed": plan.seed,
        "classes": list(plan.classes.names), **{split: list(plan.splits[split]) for split in SPLITS}, "files": files,
    }  # fmt: skip
    write_json(out / PLAN, note)
    write_text(out / "README.txt", _readme(plan, target))


def _write_classes(path: Path, classes: ClassFile) -> None:
    """The user's own file where it says the same under this name, else a line `name r g b` for each class."""
    colours = zip(classes.names, classes.palette(), strict=True)
    for text in (classes.path.read_bytes(), "".join(f"{name} {r} {g} {b}\n" for name, (r, g, b) in colours).encode()):
        with written(path) as staged:
            staged.write_bytes(text)
        with suppress(UserError):
            there = read_classes(path)
            if (there.names, list(there.palette())) == (classes.names, list(classes.palette())):
                return
    raise UserError(f"{classes.path}: a class name that a list of names can not hold; give the classes plainer names")


def _round_minutes(config: RunConfig, plan: Plan) -> int:
    pool = len(plan.images) - sum(len(plan.splits[split]) for split in SPLITS)
    return max(1, round(pool * config.query.per_image * GUESS_S / 60))


def steps(project: str) -> list[str]:
    """The commands of a project, in their order."""
    data = f"{project}-data"
    return [
        f"s4al annotate export {project} {project}-label --format labelstudio",
        f"s4al annotate import {project} FILE",
        f"s4al ingest folder {project} {data}",
        f"s4al run {project}/recipe.yaml --data {data} --out {project}-run",
    ]


def _readme(plan: Plan, target: Path) -> str:
    out, back, ingest, run = steps(shlex.quote(str(target)))
    counts = {split: len(plan.splits[split]) for split in SPLITS}
    return f"""A segmentation project made by `s4al init` from {len(plan.images)} images in {plan.src}.

1. Label {sum(counts.values())} whole images: {counts["val"]} to watch the training (val), {counts["test"]} to measure
   it (test), {counts["first"]} to learn from (first).  Take them out:
     {out}
   and bring back what was labelled, as often as you like:
     {back}
   The masks appear in masks/.
2. When val and test are complete:
     {ingest}
     {run}
   The run trains, chooses the regions that teach it most, and stops with exit status 3.  Label these (the line that
   it prints says how), and give the same command again; {CYCLES} rounds by default.

classes.txt   names and colours of the classes
recipe.yaml   what is trained and how much is asked; change what you like before the first run
plan.json     which images are val, test and first; drawn once, not to be changed
round-0/      what is asked before anything is trained, and the answers as they came
Your images are only read: leave them where they are, unchanged.
"""
