"""`s4al doctor`: is this machine fit for a run, is this data set what was ingested and fit to learn from, and what to
start with?"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks.datasets.regime import Neighbours, Regime
from orchestrator.process import terminal
from querying.base.errors import DamagedError
from querying.base.storage.cache import made_cache_folder
from querying.base.storage.place import Place
from querying.dataset.label_values import IGNORE
from querying.dataset.shards import DataIndex, check_ids, paired, read_images, read_truth, verify

PACKAGE = "s4al-plus"
ENOUGH_FREE_BYTES = 2 * 2**30
"""A run of the demo writes some tens of megabytes, one of Cityscapes a few gigabytes."""

FEW_IMAGES = 10
"""Below this many images, the mIoU of a split is warned about."""


def doctor_command(data: Place) -> None:
    """Print what was found; DamagedError with the first problem and their number where something is wrong.

    Reads and hashes every shard.  Warnings (a class that is absent from a split, little disk) do not fail.
    """
    index = DataIndex.load(data)
    console = terminal.console()
    environment, problems = _environment(), list(_library_problems())
    console.print(_environment_table(environment, data))
    damaged = list(verify(index))
    twins, neighbours = Twins(), Neighbours()
    if not damaged:  # what is not what was written is not worth reading
        problems += _content_problems(index, twins, neighbours)
    problems = list(dict.fromkeys(damaged + problems))
    console.print(_split_table(index))
    console.print(_class_table(index))
    for warning in (*warnings_of(index, data), *twins.warnings()):
        console.print(f"warning: {warning}", soft_wrap=True)
    for problem in problems:
        console.print(f"problem: {problem}", soft_wrap=True)
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise DamagedError(f"{problems[0]}{more}")
    regime = Regime.of(index, neighbours)
    console.print(regime.table())
    for line in regime.advice(index.name, (index.height, index.width), shlex.quote(str(data))):
        console.print(f"start with: {line}", soft_wrap=True)
    console.print("why: docs/use/which_recipe.md", soft_wrap=True)
    console.print(f"{data}: fine, every shard is what was ingested", soft_wrap=True)


def free_bytes(data: Place) -> int:
    """Of the disk on which the data are, or their copies."""
    return shutil.disk_usage(data if isinstance(data, Path) else made_cache_folder()).free


class Twins:
    """Images that are, pixel for pixel, the same: in two splits what is learned from one is tested on the other, and
    within the train split a label may be bought twice."""

    def __init__(self) -> None:
        self.first: dict[bytes, tuple[str, str]] = {}
        self.found: dict[tuple[str, str], list[str]] = {}

    def add(self, split: str, image_id: str, image_HWC: npt.NDArray[np.uint8]) -> None:
        key = hashlib.blake2b(image_HWC.tobytes(), digest_size=8).digest()
        other_split, other = self.first.setdefault(key, (split, image_id))
        if other != image_id:
            pairs = self.found.setdefault((split, other_split), [])
            pairs.append(f"{image_id} = {other}" if len(pairs) < 3 else "")

    def warnings(self) -> Iterator[str]:
        for (split, other), pairs in self.found.items():
            where = f"another one of {split}" if split == other else f"one of {other}, so that mIoU is too high"
            shown = ", ".join(filter(None, pairs)) + (", ..." if len(pairs) > 3 else "")
            yield f"split {split}: {len(pairs)} images are, pixel for pixel, {where}: {shown}"


def warnings_of(index: DataIndex, data: Place) -> Iterator[str]:
    """What a run can live with, but its owner should know."""
    free = free_bytes(data)
    if free < ENOUGH_FREE_BYTES:
        yield f"{data}: {free / 2**30:.1f} GiB free on this disk"
    yield from split_warnings(index)


def split_warnings(index: DataIndex) -> Iterator[str]:
    """A line for each split that can teach or measure less than one may think."""
    for split, shards in index.splits.items():
        pixels_C = class_pixels(index, split)
        absent = [name for name, pixels in zip(index.classes, pixels_C, strict=True) if not pixels]
        masked = sum(shard.masked for shard in shards)
        if not pixels_C.any():
            effect = "nothing can be learned from it" if split == "train" else "nothing can be measured on it"
            what = "all pixels of its masks are void" if masked else "no image has a mask"
            yield f"split {split}: {what} ({effect})"
        elif absent:
            effect = "no label teaches it" if split == "train" else "its IoU counts only where it is predicted"
            yield f"split {split}: no pixel of {', '.join(absent)} ({effect})"
        if np.count_nonzero(pixels_C) == 1 and split != "train":
            only = index.classes[int(pixels_C.argmax())]
            yield f"split {split}: {only} is the only class in it, so that its mIoU says nothing"
        if split != "train" and 0 < masked < FEW_IMAGES:
            yield (
                f"split {split}: {masked} image{'s' * (masked > 1)} with a mask: mIoU measured on so few changes by"
                f" many points with the images; {FEW_IMAGES} or more tell models apart"
            )
        bare = sum(shard.rows for shard in shards) - masked
        if bare and split == "train":
            yield f"split train: {bare} images without a mask (pool; only people can be asked: annotator=human)"


def class_pixels(index: DataIndex, split: str) -> npt.NDArray[np.int64]:
    """Pixels of each class in a split's masks, int64 (C,)."""
    total = np.zeros(index.num_classes, np.int64)
    for shard in index.shards(split):
        total += np.array(shard.class_pixels, np.int64)
    return total


def _environment() -> dict[str, str]:
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processors": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{memory:.1f} GiB",
        "GPU": ", ".join(gpus) or "none: training runs on the CPU",
    }


def _library_problems() -> Iterator[str]:
    """Installed libraries below the version that the package asks for."""
    try:
        wanted = requires(PACKAGE) or []
    except PackageNotFoundError:  # run from a source tree
        return
    for requirement in wanted:
        found = re.fullmatch(r"([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?>=([0-9.]+)", requirement)
        if not found:
            continue
        name, lowest = found.groups()
        try:
            have = version(name)
        except PackageNotFoundError:
            yield f"{name} is not installed (needs {lowest} or newer)"
            continue
        if numbers(have) < numbers(lowest):
            yield f"{name} {have} is older than {lowest}"


def numbers(text: str) -> tuple[int, ...]:
    """The release of a version as numbers: 2.15.0+cpu -> (2, 15, 0)."""
    release = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in release[0].split(".")) if release else ()


def _content_problems(index: DataIndex, twins: Twins, neighbours: Neighbours) -> Iterator[str]:
    """A line per file that does not hold what the index says: ids, sizes, labels, counts."""
    try:
        check_ids(index)
    except DamagedError as error:
        yield str(error)
    for split, shards in index.splits.items():
        for shard in shards:
            count_256, masked, where = np.zeros(256, np.int64), 0, index.root / shard.truth
            try:
                images, truth = read_images(index.root, shard), read_truth(index.root, shard)
                for image_id, image_HWC, mask_HW in paired(index.root, shard, images, truth):
                    twins.add(split, image_id, image_HWC)
                    if split == "train":
                        neighbours.add(image_HWC)
                    if mask_HW is not None:
                        masked += 1
                        count_256 += np.bincount(mask_HW.ravel(), minlength=256)
            except DamagedError as error:
                yield str(error)
                continue
            counts = (tuple(count_256[: index.num_classes].tolist()), int(count_256[IGNORE]), masked)
            if counts != (shard.class_pixels, shard.void_pixels, shard.masked):
                yield f"{where}: pixels per class or masks differ from the counts in the index"


def _environment_table(environment: dict[str, str], data: Place) -> Table:
    table = Table("environment", "", title_justify="left")
    for name, value in environment.items():
        table.add_row(name, value)
    table.add_row("free disk", f"{free_bytes(data) / 2**30:.1f} GiB")
    return table


def _split_table(index: DataIndex) -> Table:
    sizes = len({size for split in index.splits for size in index.sizes(split)})
    of = f"{sizes} sizes up to " if sizes > 1 else ""
    table = Table("split", title=f"{index.name}, {of}{index.height}x{index.width}", title_justify="left")
    for heading in ("images", "without mask", "shards", "void %"):
        table.add_column(heading, justify="right")
    for split, shards in index.splits.items():
        void = sum(shard.void_pixels for shard in shards)
        known = void + int(class_pixels(index, split).sum())
        bare = sum(shard.rows - shard.masked for shard in shards)
        share = f"{100 * void / known:.2f}" if known else "-"
        table.add_row(split, str(index.num_images(split)), str(bare), str(len(shards)), share)
    return table


def _class_table(index: DataIndex) -> Table:
    """Share of each class among the known pixels of each split."""
    table = Table("class, % of known pixels")
    for split in index.splits:
        table.add_column(split, justify="right")
    shares = []
    for split in index.splits:
        pixels_C = class_pixels(index, split)
        shares.append(100 * pixels_C / max(int(pixels_C.sum()), 1))
    for place, name in enumerate(index.classes):
        table.add_row(name, *(f"{share[place]:.2f}" if share[place] else "absent" for share in shares))
    return table
