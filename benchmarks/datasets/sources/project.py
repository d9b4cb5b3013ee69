"""A folder that `s4al init` has made: images that are elsewhere, the plan of which are asked first, and masks as they
come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from benchmarks.datasets.classes.class_file import read_classes
from benchmarks.datasets.files.images import Size, UInt8, look, read_rgb, resize_image
from benchmarks.datasets.files.listing import list_images, named
from benchmarks.datasets.sources.source import Checked, Pixels, RawDataset
from orchestrator.annotation.masks import mask_path
from orchestrator.annotation.rounds import PLAN
from orchestrator.folder.shapes import Sha256, Shape, Text, read_shaped
from querying.base.errors import UserError
from querying.base.files import sha256
from querying.dataset.codecs import UNREADABLE, decode_label
from querying.dataset.label_values import IGNORE

SPLITS = ("val", "test", "first")
"""What the plan decides; `first` are train images."""
ONE_SIZE, OWN_SHAPES = 1, 2
"""Formats of the plan: a size of all images, or an area."""
Sizing = Size | int
"""(height, width) of all images; or the pixels that each one is made smaller to about, in its own shape."""
OWN = "each in its own shape, of at most about {} pixels"


Side = Annotated[int, Field(ge=8)]


class PlanNote(Shape):
    """`plan.json`.

    `size`: of all images, None where each has an `area` in its own shape.  `files`: of every image that is asked first
    its path below `images`, and its SHA-256.
    """

    format: Literal[1, 2]
    images: Text
    size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None
    area: Annotated[int, Field(ge=256)] | None = None
    seed: int
    classes: Annotated[list[Text], Field(min_length=2)]
    val: list[Text]
    test: list[Text]
    first: list[Text]
    files: dict[Text, tuple[Text, Sha256] | Annotated[list[Text], Field(min_length=2, max_length=2)]]

    @model_validator(mode="after")
    def one_of_both(self) -> PlanNote:
        if (self.size is None) == (self.area is None):
            raise ValueError("either a size or an area was expected")
        return self


@dataclass(frozen=True, slots=True)
class ProjectSample:
    """An image, resized when it is read, and a mask of the size that people saw."""

    image_id: str
    image: Path
    mask: Path | None
    sizing: Sizing
    classes: int
    digest: str | None = None
    """Of an image that people have seen."""

    def check(self) -> Checked:
        seen, digest = look(self.image), sha256(self.image)
        if self.digest not in (None, digest):
            raise UserError(f"{self.image}: is not the image that was asked about any more: put it back as it was")
        size = size_in(self.sizing, seen.size)
        label_HW = self._labels(size)
        pixels = None if label_HW is None else np.bincount(label_HW.ravel(), minlength=256)
        mask = sha256(self.mask) if self.mask else ""
        kept = size if isinstance(self.sizing, int) else seen.size
        return Checked(kept, digest, mask, str(self.image), seen.traits, pixels)

    def read(self) -> Pixels:
        image_HWC = pixels_of(self.image, self.sizing)
        return image_HWC, self._labels((image_HWC.shape[0], image_HWC.shape[1]))

    def _labels(self, size: Size) -> UInt8 | None:
        if self.mask is None:
            return None
        try:
            label_HW = decode_label(self.mask.read_bytes(), size)
        except UNREADABLE as error:
            raise UserError(f"{self.mask}: not a mask that `s4al annotate import` has written: {error}") from None
        if (strange := (label_HW >= self.classes) & (label_HW != IGNORE)).any():
            raise UserError(f"{self.mask}: label {label_HW[strange][0]} is none of the {self.classes} classes")
        return label_HW


def pixels_of(path: Path, sizing: Sizing) -> UInt8:
    """An image upright and of its size in the project: what people see is what is trained on."""
    image_HWC = read_rgb(path)
    return resize_image(image_HWC, size_in(sizing, (image_HWC.shape[0], image_HWC.shape[1])))


def size_in(sizing: Sizing, size: Size) -> Size:
    """The size that an image has in the project; one that is made smaller has sides that 16 divides."""
    if not isinstance(sizing, int):
        return sizing
    height, width = size
    scale = min(1.0, (sizing / (height * width)) ** 0.5)
    if scale == 1.0 and min(size) >= 16:
        return size
    return max(16, 16 * round(height * scale / 16)), max(16, 16 * round(width * scale / 16))


def sizing_of(plan: Mapping[str, Any]) -> Sizing:
    """What a plan (`PlanNote`) says."""
    return int(plan["area"]) if plan["size"] is None else (plan["size"][0], plan["size"][1])


def ids_of(images: Path) -> dict[str, Path]:
    """Every image below a folder by its id: its path without suffix, with __ for /.  UserError where two have one."""
    found: dict[str, Path] = {}
    for path in list_images(images).images:
        image_id = path.relative_to(images).with_suffix("").as_posix().replace("/", "__")
        if image_id in found:
            raise UserError(f"{path} and {found[image_id]}: both are called {image_id}: rename one of them")
        if not image_id.isprintable():
            raise UserError(f"{image_id!r}: a file name with characters that can not be printed")
        found[image_id] = path
    return found


def load(src: Path, size: Size | None, classes_file: Path, options: Mapping[str, Any]) -> RawDataset:
    """The project's data set: val and test as planned, all others train, of which the planned first ones have masks.

    UserError where an image of val or test has no mask yet, or an option says otherwise than the plan.
    """
    if idle := [name for name, (given, usual) in options.items() if given != usual]:
        raise UserError(f"--{idle[0].replace('_', '-')}: {src} has its own plan ({PLAN}), made by `s4al init`")
    plan = read_shaped(src / PLAN, PlanNote)
    sizing = sizing_of(plan)
    if size not in (None, sizing):
        seen = OWN.format(sizing) if isinstance(sizing, int) else f"of {sizing[0]}x{sizing[1]}"
        raise UserError(f"--size {size[0]}x{size[1]}: people have labelled images {seen}")
    classes = read_classes(classes_file)
    if list(classes.names) != plan["classes"]:
        raise UserError(f"{classes_file}: other classes than those that people were asked for in {src / PLAN}")
    images = Path(plan["images"])
    if not images.is_dir():
        raise UserError(f"{images}: no such folder; the images of {src} were there when `s4al init` made it")
    there = ids_of(images)
    asked = {image_id: split for split in SPLITS for image_id in plan[split]}
    if gone := [image_id for image_id in asked if image_id not in there]:
        raise UserError(f"{images / plan['files'][gone[0]][0]}: does not exist any more, and people have labelled it")
    splits: dict[str, list[ProjectSample]] = {"train": [], "val": [], "test": []}
    for image_id, path in there.items():
        mask = mask_path(src, image_id)
        known = mask if image_id in asked and mask.is_file() else None
        digest = plan["files"][image_id][1] if image_id in asked else None
        split = asked.get(image_id, "train").replace("first", "train")
        splits[split].append(ProjectSample(image_id, path, known, sizing, len(classes.names), digest))
    said = _missing(src, splits, plan["first"])
    project = {key: plan[key] for key in ("seed", *SPLITS)}
    kept = "as people see them"
    if isinstance(sizing, int):
        project["area"], kept, wanted = sizing, f"{kept}, {OWN.format(sizing)}", None
    else:
        wanted = sizing
    name, colours = src.resolve().name, classes.palette()
    return RawDataset(name, classes.names, colours, splits, wanted, {"project": project}, said, kept)


def _missing(src: Path, splits: Mapping[str, Sequence[ProjectSample]], first: Sequence[str]) -> list[str]:
    remedy = f"label them, then s4al annotate import {src} FILE"
    for split in ("val", "test"):
        if bare := [sample.image_id for sample in splits[split] if sample.mask is None]:
            total = len(splits[split])
            raise UserError(
                f"{src}: {len(bare)} of {total} images of {split} have no mask yet ({', '.join(bare[:3])}): {remedy}"
            )
    masks = {sample.image_id for sample in splits["train"] if sample.mask}
    if not masks:
        raise UserError(f"{src}: none of the {len(first)} first images has a mask yet: {remedy}")
    bare = [image_id for image_id in first if image_id not in masks]
    return [f"without a mask yet, so pool only: {named(bare, 'first image')}"] if bare else []
