"""What masks hold, before anything is decided: values or colours; and which of the two is the class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.datasets.classes.choice import ClassChoice, code_of, text_of
from benchmarks.datasets.files.image_files import opened
from benchmarks.datasets.files.images import UInt8, Unknown, check_mask, colour_codes, mask_values
from benchmarks.datasets.files.listing import named
from querying.base.errors import UserError
from querying.dataset.label_values import IGNORE

Values = Literal["auto", "ids", "colours"]
"""Whether the class of a pixel is the value that its mask has there, or the colour that one sees there."""
MAX_COLOURS = 1024


class Seen(NamedTuple):
    """What a pixel of a mask can be.  kind: grey, palette or colour; value: 0 to 255 (-1 of RGB); colour: 0xRRGGBB."""

    kind: str
    value: int
    colour: int


@dataclass(frozen=True, slots=True)
class Reading:
    """How pixels become labels: `kinds` of masks are read by their colours, others by their values."""

    choice: ClassChoice
    kinds: frozenset[str]
    unknown: Unknown = "error"
    said: tuple[str, ...] = ()

    def label(self, seen: Seen) -> int | None:
        """A class, IGNORE, or None for what is neither."""
        if seen.kind in self.kinds:
            return self.choice.of_colour.get(seen.colour)
        return self.choice.of_value.get(seen.value)


@dataclass(slots=True)
class Found:
    """Everything that is in a set of masks: pixels of each thing seen, in how many files, and the first of them."""

    pixels: Counter[Seen] = field(default_factory=Counter)
    files: dict[Seen, list[Path]] = field(default_factory=dict)

    def add(self, path: Path, pixels: Counter[Seen]) -> None:
        self.pixels.update(pixels)
        for seen in pixels:
            self.files.setdefault(seen, []).append(path)


def look_at_mask(path: Path) -> Counter[Seen]:
    """Pixels of every value or colour of a mask file."""
    kind, values_HW, colour_256 = _read(path)
    if kind == "colour":
        codes, counts = np.unique(values_HW, return_counts=True)
        if len(codes) > MAX_COLOURS:
            raise UserError(
                f"{path}: {len(codes)} different colours: a photograph, or a mask whose colours were blended when it"
                " was resized or saved as JPEG; labels can not be had from it"
            )
        pairs = zip(codes.tolist(), counts.tolist(), strict=True)
        return Counter({Seen(kind, -1, code): count for code, count in pairs})
    count_256 = np.bincount(values_HW.ravel(), minlength=256)
    there = np.flatnonzero(count_256).tolist()
    return Counter({Seen(kind, value, colour_256[value]): int(count_256[value]) for value in there})


def read_labels(path: Path, reading: Reading) -> UInt8:
    """Labels (H, W) of a mask; UserError names a value or colour that is no class, unless unknown ones are ignored."""
    kind, values_HW, colour_256 = _read(path)
    if kind == "colour":
        codes, place_HW = np.unique(values_HW, return_inverse=True)
        seen = [Seen(kind, -1, code) for code in codes.tolist()]
    else:
        place_HW = values_HW
        there = np.flatnonzero(np.bincount(values_HW.ravel(), minlength=256)).tolist()
        seen = [Seen(kind, value, colour_256[value]) for value in there]
    table = np.full(max(256, len(seen)), IGNORE, np.uint8)
    for place, what in enumerate(seen):
        label = reading.label(what)
        if label is None and reading.unknown == "error":
            raise UserError(f"{path}: {describe(what, reading)} belongs to no class")
        table[place if kind == "colour" else what.value] = IGNORE if label is None else label
    labels_HW: UInt8 = table[place_HW].reshape(values_HW.shape)
    return labels_HW


def describe(seen: Seen, reading: Reading) -> str:
    return f"colour {text_of(seen.colour)}" if seen.kind in reading.kinds else f"value {seen.value}"


def decide(found: Found, choice: ClassChoice, values: Values, unknown: Unknown, where: Path) -> Reading:
    """Grey and palette masks are read by value where that makes sense, RGB masks by colour.

    Where the class file gives colours, grey 255 may be a class that is white there, and a palette's colours may say
    something else than its indices: if only one reading gives every pixel a class, it is taken; if both do and they
    differ, only one that shows more than one class is; else UserError asks for `values`.
    """
    kinds, said = {"colour"}, []
    for kind in ("grey", "palette"):
        here = [seen for seen in found.pixels if seen.kind == kind]
        if not here:
            continue
        if values == "auto":
            by_colour = choice.coloured and _by_colour(here, choice, found, where)
        else:
            by_colour = values == "colours"
        if by_colour:
            kinds.add(kind)
            paths = sorted({path for seen in here for path in found.files[seen]})
            said.append(f"{named(paths, f'{kind} mask')}: read by their colours, as the class file has them")
    reading = Reading(choice, frozenset(kinds), unknown, tuple(said))
    strange = [seen for seen in found.pixels if reading.label(seen) is None]
    if strange and unknown == "error":
        raise _strange(strange, found, reading)
    return reading


def _by_colour(here: Sequence[Seen], choice: ClassChoice, found: Found, where: Path) -> bool:
    value = {seen: choice.of_value.get(seen.value) for seen in here}
    colour = {seen: choice.of_colour.get(seen.colour) for seen in here}
    if value == colour or None in colour.values():
        return False
    if None in value.values():
        return True
    shown = [len(set(labels.values()) - {IGNORE}) for labels in (value, colour)]
    if min(shown) < 2 and shown[0] != shown[1]:
        return shown[1] > shown[0]
    seen = next(seen for seen in here if value[seen] != colour[seen])
    names = [choice.names[k] if k is not None and k != IGNORE else "not labelled" for k in (value[seen], colour[seen])]
    raise UserError(
        f"{found.files[seen][0]}: value {seen.value} (and {len(found.files[seen]) - 1} more masks): as an id it is"
        f" {names[0]}, as the colour {text_of(seen.colour)} of {where.name} it is {names[1]};"
        " say which: --values ids or --values colours"
    )


def _strange(strange: Sequence[Seen], found: Found, reading: Reading) -> UserError:
    """What is no class, most frequent first, with the remedy."""
    strange = sorted(strange, key=lambda seen: -found.pixels[seen])
    if any(seen.kind == "colour" for seen in strange) and not reading.choice.of_colour:
        return _colours_without_names(found)
    shown = [f"{describe(seen, reading)} ({found.pixels[seen]} pixels)" for seen in strange[:8]]
    files = sorted({path for seen in strange for path in found.files[seen]})
    first = strange[0]
    word = text_of(first.colour) if first.kind in reading.kinds else str(first.value)
    return UserError(
        f"{files[0]}: {', '.join(shown)}{', ...' if len(strange) > 8 else ''}: belongs to no class"
        f" ({named(files, 'mask')}): --ignore {word} if these pixels have no label, --map {word}=CLASS if they are one"
    )


def _colours_without_names(found: Found) -> UserError:
    codes = Counter({seen.colour: count for seen, count in found.pixels.items() if seen.kind == "colour"})
    files = sorted({path for seen, paths in found.files.items() if seen.kind == "colour" for path in paths})
    return UserError(
        f"{files[0]}: a colour mask ({named(files, 'mask')}), but the class file gives no colours; found:"
        f" {listed(codes)}; give every class its colour (name r g b)"
    )


def listed(codes: Counter[int], most: int = 20) -> str:
    """Colours with their share of the pixels, most frequent first."""
    total = codes.total()
    shown = [
        f"{text_of(code).replace(',', ' ')} ({100 * count / total:.2g} %)" for code, count in codes.most_common(most)
    ]
    return ", ".join(shown) + (f" and {len(codes) - most} more" if len(codes) > most else "")


def _read(path: Path) -> tuple[str, np.ndarray, list[int]]:
    """Kind, values (H, W) or colour codes (H, W), and the colour of each value."""
    with opened(path) as image:
        check_mask(path, image)
        pixels = mask_values(path, image)
        mode, palette = image.mode, list(image.getpalette("RGB") or []) if image.mode == "P" else []
    if mode == "RGB":
        return "colour", colour_codes(pixels), []
    if mode == "P":
        colours = [
            code_of((r, g, b)) for r, g, b in zip(*[iter(palette + [0] * (768 - len(palette)))] * 3, strict=True)
        ]
        return "palette", pixels, colours
    step = 255 if mode == "1" else 1
    return "grey", pixels, [code_of((min(v * step, 255),) * 3) for v in range(256)]
