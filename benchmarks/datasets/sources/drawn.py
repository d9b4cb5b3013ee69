"""Images whose masks are shapes in text files: COCO, LabelMe, YOLO (`s4al ingest folder --shapes`)."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from benchmarks.datasets.classes.choice import ClassChoice
from benchmarks.datasets.classes.class_file import ClassFile
from benchmarks.datasets.files.images import Size, UInt8, look, read_rgb
from benchmarks.datasets.files.layout import SPLITS
from benchmarks.datasets.files.listing import named
from benchmarks.datasets.files.pairs import Pairs, by_stem
from benchmarks.datasets.shapes import coco, labelme, yolo
from benchmarks.datasets.sources.source import Checked, Exif, Pixels
from querying.base.errors import UserError
from querying.base.files import sha256
from querying.dataset.label_values import IGNORE

Draw = Callable[[Size], UInt8]
_BACKGROUND = ("background", "_background_", "__background__")
"""What a class of pixels in no shape is called."""


@dataclass(frozen=True, slots=True)
class ShapeSample:
    """An image and perhaps the file of its shapes, which `draw` turns into labels; `digest`: of that file."""

    image_id: str
    image: Path
    mask: Path | None
    draw: Draw | None
    digest: str
    exif: Exif
    bits: int | None

    def check(self) -> Checked:
        seen = look(self.image, self.bits)
        upright = self.exif != "ignore"
        size = seen.size if upright else seen.stored
        turned = (("EXIF applied" if upright else "EXIF ignored"),) if seen.orientation > 1 else ()
        labels_HW = self.draw(size) if self.draw else None
        pixels = None if labels_HW is None else np.bincount(labels_HW.ravel(), minlength=256)
        return Checked(size, sha256(self.image), self.digest, str(self.image), seen.traits + turned, pixels)

    def read(self) -> Pixels:
        image_HWC = read_rgb(self.image, self.bits, self.exif != "ignore")
        return image_HWC, self.draw((image_HWC.shape[0], image_HWC.shape[1])) if self.draw else None


def samples_of(
    src: Path, pairs: Mapping[str, Pairs], template: str, file: ClassFile, choice: ClassChoice, exif: Exif,
    bits: int | None,
) -> tuple[dict[str, list[ShapeSample]], list[str]]:  # fmt: skip
    """The images of each split with their shapes, and what is to be said.

    `template`: the COCO file, or the folder of LabelMe's or YOLO's files, below SRC, perhaps with {split}.  UserError
    where there are mask images, too, or shapes without an image.
    """
    label_of, rest = partial(_label, file, choice), _rest(file, choice)
    said = [f"in no shape: {'not labelled' if rest == IGNORE else f'class {choice.names[rest]}'}"]
    found: dict[str, list[ShapeSample]] = {}
    for split, pair in pairs.items():
        if twice := [mask for _, mask in pair.of.values() if mask is not None]:
            raise UserError(f"{twice[0]}: a mask beside --shapes {template}: which counts? Leave one of them out")
        place = _place(src, template, split)
        of, kind = _drawings(place, list(pair.of), label_of, rest)
        said.append(f"{place}: {kind}, {len(of)} of {len(pair.of)} images")
        found[split] = []
        for stem, (image, _) in pair.of.items():
            path, draw, digest = of.get(stem, (None, None, ""))
            found[split].append(ShapeSample(stem.replace("/", "__"), image, path, draw, digest, exif, bits))
    return found, said


def _place(src: Path, template: str, split: str) -> Path:
    names = SPLITS[split] if split else ("",)
    tried = [src / template.replace("{split}", name) for name in names]
    for path in tried:
        if path.exists():
            return path
    raise UserError(f"--shapes {template}: {tried[0]}: no such file or folder")


def _drawings(
    place: Path, stems: list[str], label_of: Callable[[Any, str], int], rest: int
) -> tuple[dict[str, tuple[Path, Draw, str]], str]:
    """By the image's name: the file of its shapes, what draws them, and the file's checksum."""
    if place.is_file():
        whole = coco.read(place)
        keys = _matched(place, list(whole.numbers), stems)
        draws = {stem: partial(_coco, whole, key, label_of, rest) for stem, key in keys.items()}
        return {stem: (place, draw, whole.digest) for stem, draw in draws.items()}, "COCO"
    files = sorted(path for path in place.rglob("*") if path.suffix.lower() in (".json", ".txt") and path.is_file())
    kinds = {path.suffix.lower() for path in files}
    if len(kinds) != 1:
        what = "both .json and .txt" if kinds else "neither .json (LabelMe) nor .txt (YOLO)"
        raise UserError(f"{place}: has {what} files: --shapes names a folder with one kind of them")
    of = by_stem(place, files)
    kind = labelme.draw if kinds == {".json"} else yolo.draw
    keys = _matched(place, list(of), stems)
    drawn: dict[str, tuple[Path, Draw, str]] = {}
    for stem, key in keys.items():
        drawn[stem] = of[key], partial(_draw, kind, of[key], label_of, rest), sha256(of[key])
    return drawn, "LabelMe" if kinds == {".json"} else "YOLO"


def _coco(whole: coco.CocoFile, key: str, label_of: Callable[[Any, str], int], rest: int, size: Size) -> UInt8:
    return whole.draw(key, size, label_of, rest)


def _draw(kind: Callable[..., UInt8], path: Path, label_of: Callable[[Any, str], int], rest: int, size: Size) -> UInt8:
    return kind(path, size, label_of, rest)


def _matched(place: Path, keys: list[str], stems: list[str]) -> dict[str, str]:
    """The shapes of each image, by its path below the images' folder or, where that names no image, its last part.
    UserError names shapes without an image, and an image that two name."""
    found: dict[str, str] = {}
    known, lost = set(stems), []
    for key in keys:
        stem = key if key in known else PurePosixPath(key).name
        if stem not in known:
            lost.append(key)
        elif found.setdefault(stem, key) != key:
            raise UserError(f"{place}: {found[stem]} and {key} are both for the image {stem}; leave one of them")
    if lost:
        raise UserError(
            f"{place}: shapes without an image: {named(lost, 'image')}; put the images there, or take them out"
        )
    return found


def _label(file: ClassFile, choice: ClassChoice, what: Any, where: str) -> int:
    """The class of a name, or of the number that stands for it in YOLO's files."""
    if isinstance(what, str) and what in file.names:
        return choice.of_value[file.values[file.names.index(what)]]
    if type(what) is int and what in file.values:
        return choice.of_value[what]
    text = what if isinstance(what, str) else ""
    near = difflib.get_close_matches(text, file.names, 1)
    hint = f"did you mean {near[0]}?" if near else f"classes of {file.path.name}: {', '.join(file.names[:8])}"
    raise UserError(f"{where}: {str(what)[:60]!r} is no class; {hint}")


def _rest(file: ClassFile, choice: ClassChoice) -> int:
    name = next((name for name in file.names if name.lower() in _BACKGROUND), None)
    return IGNORE if name is None else choice.of_value[file.values[file.names.index(name)]]
