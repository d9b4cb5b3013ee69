"""`s4al init`: from a folder of images to a project that people can begin to label."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.commands.ingest import parse_size
from benchmarks.commands.people.project_files import (
    Plan,
    as_planned,
    asked_sizes,
    damage_of,
    largest,
    restore,
    steps,
    write_files,
)
from benchmarks.datasets.classes.class_file import read_classes
from benchmarks.datasets.files.images import look
from benchmarks.datasets.ingest_check import counted, size_text
from benchmarks.datasets.sources.project import OWN, SPLITS, Sizing, ids_of, pixels_of, size_in
from orchestrator.annotation.package import About, Asked, write_package
from orchestrator.annotation.rounds import ROUND_0
from orchestrator.folder.layout import locked, once
from orchestrator.process.interrupt import handled
from orchestrator.process.progress import Progress, shown
from querying.base.errors import UserError
from querying.base.files import check_folder, flush_below, make_folder, sync
from querying.base.leftovers import folder_beside, remove_beside
from querying.labels.regions import WHOLE

USUAL = {"val": 30, "test": 60, "first": 40}
SHARES = {"val": 0.1, "test": 0.2, "first": 0.17}
"""Of a folder with too few images for the usual numbers."""
FEWEST = {"val": 2, "test": 2, "first": 2}
AREA = 240 * 320
"""Pixels of an image by default: what two cores can train on, and people can still label."""
WHOLE_IMAGE_S = 120.0
"""A guess of how long a whole image takes."""


def init_command(
    folder: Path,
    images: Path,
    *,
    classes: Path | None,
    size: str | None,
    counts: Mapping[str, int | None],
    seed: int,
) -> None:
    """Make the project, all of it or nothing; `counts`: how many images of each split, None for the usual number.

    Of a project whose plan or first package is damaged, make these again: what people have handed in stays.
    """
    if folder.is_dir() and any(folder.iterdir()):
        damage = damage_of(folder)
        if not damage:
            raise UserError(f"{folder}: is not empty; `s4al init` begins a new project in a new folder")
        plan = as_planned(folder, _planned(images, classes, size, counts, seed))
        with handled(), shown() as progress, locked(folder):
            restore(folder, plan, partial(_write_package, plan=plan, progress=progress), damage)
        print(f"{folder}: {damage[0]}: made again, with what was asked then")
        return
    check_folder(folder)
    plan = _planned(images, classes, size, counts, seed)
    target = folder.resolve()
    make_folder(target.parent)
    remove_beside(target, print)
    with handled(), shown() as progress:
        progress.stage("init")
        with folder_beside(target) as staging:
            write_files(staging, plan, target)
            once(staging / ROUND_0 / "package", partial(_write_package, plan=plan, progress=progress))
            flush_below(staging)
            os.replace(staging, target)
            sync(target.parent)
    _say(folder, plan)


def _write_package(out: Path, plan: Plan, progress: Progress) -> None:
    """The whole images of val, test and first."""
    asked = [image_id for split in SPLITS for image_id in plan.splits[split]]

    def pictures() -> Iterator[Asked]:
        for done, image_id in enumerate(asked, 1):
            image_HWC = pixels_of(plan.images[image_id], plan.sizing)
            yield Asked(image_id, image_HWC, [(WHOLE, 0, 0, *image_HWC.shape[:2])])
            progress.update(done, len(asked), "images")

    height, width = largest(asked_sizes(plan).values())
    about = About(
        run=_run_of(plan), cycle=0, model=None, data="", classes=plan.classes.names,
        palette=plan.classes.palette(), height=height, width=width, region_size=max(height, width),
    )  # fmt: skip
    write_package(out, about, pictures(), dict.fromkeys(asked))


def _planned(images: Path, classes: Path | None, size: str | None, counts: Mapping[str, int | None], seed: int) -> Plan:
    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder")
    found = ids_of(images.resolve())
    splits = _drawn(sorted(found), counts, seed, images)
    names = read_classes(classes or _beside(images))
    sizing = parse_size(size) if size else _sizing(found.values())
    return Plan(images.resolve(), found, splits, names, sizing, seed)


def _beside(images: Path) -> Path:
    for path in (images / "classes.txt", images.resolve().parent / "classes.txt"):
        if path.is_file():
            return path
    raise UserError(
        f"{images}: which classes are there?  Write a file with a name a line (road, car, sky) and name it: --classes"
        " FILE"
    )


def _drawn(ids: Sequence[str], counts: Mapping[str, int | None], seed: int, images: Path) -> dict[str, list[str]]:
    """Val, test and first, by hashing (seed, id): the same whatever the order, and nested in the number of images."""
    total = len(ids)
    given = {split: counts.get(split) for split in SPLITS}
    usual = (
        USUAL
        if total >= 2 * sum(USUAL.values())
        else {split: min(USUAL[split], max(FEWEST[split], int(total * SHARES[split]))) for split in SPLITS}
    )
    number = {split: value if value is not None else usual[split] for split, value in given.items()}
    if sum(number.values()) >= total:
        asked = ", ".join(f"{value} {split}" for split, value in number.items())
        raise UserError(
            f"{images}: {total} images are too few for {asked}: at least one must be left to ask about"
            " (--val, --test, --first)"
        )
    order = sorted(ids, key=lambda image_id: hashlib.sha256(f"{seed}/{image_id}".encode()).digest())
    splits, place = {}, 0
    for split in SPLITS:
        splits[split] = sorted(order[place : place + number[split]])
        place += number[split]
    return splits


def _sizing(paths: Iterable[Path]) -> Sizing:
    """Each image made smaller to about `AREA` in its own shape: one size where that is the same for all."""
    sizes = {size_in(AREA, look(path).size) for path in paths}
    return AREA if len(sizes) > 1 else sizes.pop()


def _run_of(plan: Plan) -> str:
    """The same project made again is the same."""
    text = "\n".join([*plan.classes.names, *(image_id for split in SPLITS for image_id in plan.splits[split])])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _say(folder: Path, plan: Plan) -> None:
    counts = ", ".join(f"{len(plan.splits[split])} {split}" for split in SPLITS)
    asked = sum(len(plan.splits[split]) for split in SPLITS)
    sizes = Counter(size_in(plan.sizing, look(path).size) for path in plan.images.values())
    of = size_text(next(iter(sizes))) if len(sizes) == 1 else f"{len(sizes)} sizes"
    minutes = round(asked * WHOLE_IMAGE_S / 60)
    print(
        f"{folder}: {len(plan.images)} images, of which {asked} are to be labelled whole first ({counts}), at"
        f" {of}, {len(plan.classes.names)} classes; about {minutes} minutes at a guess of"
        f" {WHOLE_IMAGE_S:.0f} s an image"
    )
    if isinstance(plan.sizing, int):
        print(f"{folder}: {OWN.format(plan.sizing)} (--size HxW makes all one): {counted(sizes)}")
    print(f"next: {steps(shlex.quote(str(folder)))[0]}")
