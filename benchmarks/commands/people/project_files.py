"""What `s4al init` writes besides the first package: recipe, classes, plan, and what to do."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from benchmarks.datasets.classes.class_file import ClassFile, read_classes
from benchmarks.datasets.files.images import Size, look
from benchmarks.datasets.sources.project import (
    ONE_SIZE,
    OWN_SHAPES,
    SPLITS,
    PlanNote,
    Sizing,
    size_in,
    sizing_of,
)
from benchmarks.recipes.camvid import camvid_cpu
from orchestrator.annotation.given import by_annotator, rule_of
from orchestrator.annotation.human import GUESS_S
from orchestrator.annotation.imports import REGIONS_FILE, REPORT, import_folders, rows_of
from orchestrator.annotation.masks import different_masks
from orchestrator.annotation.package import read_note
from orchestrator.annotation.rounds import PLAN, ROUND_0, Round, is_project
from orchestrator.folder.layout import once
from orchestrator.folder.manifest import problems, set_aside
from orchestrator.folder.shapes import read_shaped
from orchestrator.recipe.config import RunConfig, changed
from querying.base.errors import DamagedError, UserError
from querying.base.files import read_json, sha256, write_json, write_text, written

CYCLES = 3
HOUR_S = 3600.0


class Plan(NamedTuple):
    """What was decided; `splits`: ids of val, test and first."""

    src: Path
    images: Mapping[str, Path]
    splits: Mapping[str, Sequence[str]]
    classes: ClassFile
    sizing: Sizing
    seed: int


def _recipe(plan: Plan, name: str) -> RunConfig:
    """What two cores can train, asking for about an hour's regions a round."""
    height = _usual_height(plan)
    side = max(8, round(height / 6))
    if isinstance(plan.sizing, int):  # 16 divides what was made smaller, so that nobody is asked for slivers
        side = 16 * max(1, round(height / 96))
    pool = len(plan.images) - len(plan.splits["val"]) - len(plan.splits["test"]) - len(plan.splits["first"])
    each = max(1, round(HOUR_S / GUESS_S / pool))
    return changed(
        camvid_cpu(),
        name=name,
        annotator="human",
        reference=False,
        cycles=CYCLES,
        data={"dataset": None, "size": None if isinstance(plan.sizing, int) else plan.sizing},
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
    own_shapes = isinstance(plan.sizing, int)
    said = (
        "data.size stays null: images have several sizes, and people label them so."
        if own_shapes else "data.size is decided: people label images of this size."
    )  # fmt: skip
    head = (
        f"# s4al run {target / 'recipe.yaml'} --data DATA; any key can be changed before the first run.\n"
        f"# {said}  query.per_image regions for each pool image\n"
        f"# are asked in a round, about {_round_minutes(config, plan)} minutes at {GUESS_S:.0f} s each (a guess).\n"
    )
    write_text(out / "recipe.yaml", head + config.to_yaml())
    write_json(out / PLAN, _note(plan))
    write_text(out / "README.txt", _readme(plan, target))


def damage_of(project: Path) -> list[str]:
    """What is wrong with the plan and the first package of a project, a line each; nothing of any other folder."""
    package = project / ROUND_0 / "package"
    if not is_project(project):
        return []
    found = problems(package)
    try:
        read_shaped(project / PLAN, PlanNote)
    except DamagedError as error:
        found.insert(0, str(error))
    return found


def as_planned(project: Path, plan: Plan) -> Plan:
    """The plan of the project itself, as far as it can be read: images that have come since change nothing."""
    with suppress(DamagedError):
        there = read_shaped(project / PLAN, PlanNote)
        splits = {split: there[split] for split in SPLITS}
        if gone := [image_id for split in SPLITS for image_id in splits[split] if image_id not in plan.images]:
            raise UserError(f"{plan.src / there['files'][gone[0]][0]}: is gone, and people have seen it")
        return plan._replace(splits=splits, sizing=sizing_of(there), seed=there["seed"])
    return plan


def restore(project: Path, plan: Plan, write_package: Callable[[Path], None], damage: Sequence[str]) -> None:
    """Make a damaged plan or package again, as it was: `plan` must be what is left of the other.  UserError where it is
    not, or an image is another one than then."""
    note, package = _note(plan), project / ROUND_0 / "package"
    there: dict[str, object] = {}
    with suppress(DamagedError):
        there = read_shaped(project / PLAN, PlanNote)
    with suppress(DamagedError):
        asked = read_note(package)
        sizes = {one.image_id: one.size for one in sorted(asked.images, key=lambda one: one.rank)}
        if ([*sizes.items()], asked.classes) != ([*asked_sizes(plan).items()], plan.classes.names):
            raise UserError(f"{project}: {damage[0]}; and these options are not those of `s4al init` then")
    different = [key for key in note if there and json.dumps(there.get(key)) != json.dumps(note[key])]
    if different:
        raise UserError(f"{project}: {damage[0]}; and {different[0]} is not what it was when `s4al init` made the plan")
    if not there:
        if (project / PLAN).exists():
            set_aside(project / PLAN)
        write_json(project / PLAN, note)
    once(package, write_package)


def _asked(plan: Plan) -> list[str]:
    return [image_id for split in SPLITS for image_id in plan.splits[split]]


def asked_sizes(plan: Plan) -> dict[str, Size]:
    """The size of each image that is asked first, as people see it."""
    return {image_id: size_in(plan.sizing, look(plan.images[image_id]).size) for image_id in _asked(plan)}


def largest(sizes: Iterable[Size]) -> Size:
    """The largest height and the largest width."""
    heights, widths = zip(*sizes, strict=True)
    return max(heights), max(widths)


def _usual_height(plan: Plan) -> int:
    """The height of most images that are asked first."""
    return Counter(height for height, _ in asked_sizes(plan).values()).most_common(1)[0][0]


def _note(plan: Plan) -> dict[str, object]:
    asked, sizing = _asked(plan), plan.sizing
    sizes = {"size": None, "area": sizing} if isinstance(sizing, int) else {"size": list(sizing)}
    files = {
        image_id: [plan.images[image_id].relative_to(plan.src).as_posix(), sha256(plan.images[image_id])]
        for image_id in asked
    }
    return {
        "format": OWN_SHAPES if isinstance(sizing, int) else ONE_SIZE, "images": str(plan.src), **sizes,
        "seed": plan.seed, "classes": list(plan.classes.names), **{split: list(plan.splits[split]) for split in SPLITS},
        "files": files,
    }  # fmt: skip


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


def audit_project(project: Path) -> Iterator[str]:
    """A line for everything of a project that is not what was written, its answers included."""
    yield from damage_of(project)
    one = Round(project, project / ROUND_0, 0)
    for folder in import_folders(one.answers):
        yield from problems(folder)
    with suppress(DamagedError):  # said
        rows = [row for folder in import_folders(one.answers) for row in rows_of(folder / REGIONS_FILE)]
        notes = [read_json(folder / REPORT) for folder in import_folders(one.answers)]
        for path in different_masks(project, by_annotator(rows), rule_of(notes[-1]["rule"] if notes else "")):
            yield f"{path}: not what people have answered: the same `s4al annotate import` again writes it anew"
