"""Which classes are learned, and what each value and colour of a mask is, by the class file and the options."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.datasets.classes.class_file import ClassFile
from benchmarks.datasets.classes.lines import Colour
from benchmarks.datasets.files.images import Palette
from querying.base.errors import UserError
from querying.dataset.label_values import IGNORE

NONE = "none"
_VOID = frozenset(("void", "ignore", "ignored", "unlabelled", "unlabeled", "notlabelled", "notlabeled", "unknown",
                   "dontcare", "outofroi", "ignorelabel", "undefined"))  # fmt: skip
"""Names that people give to what is no class."""


@dataclass(slots=True)
class ClassChoice:
    """Class k is `names[k]`.  `of_value` and `of_colour` (0xRRGGBB) give a class or IGNORE; `coloured`: whether the
    class file gives colours; `ids`: those that it gives, empty where they are 0, 1, ...; `said`: what was decided."""

    names: tuple[str, ...]
    palette: Palette
    coloured: bool
    ids: tuple[int, ...]
    of_value: dict[int, int] = field(default_factory=dict)
    of_colour: dict[int, int] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)


def choose_classes(file: ClassFile, ignore: Sequence[str] = (), maps: Sequence[str] = ()) -> ClassChoice:
    """Classes of the file without those that `ignore` names, by name, id or colour "r,g,b"; `none`: ignore no class.

    `maps` ("value=class" or "r,g,b=class") says further values or colours; `ignore` as a class stands for "not
    labelled".  UserError where a class has a name such as "void" and `ignore` does not say what it is.
    """
    dropped, of_value, of_colour = _ignored(file, [word for word in ignore if word != NONE])
    void = [
        k for k, name in enumerate(file.names) if re.sub(r"[\s_'-]", "", name.lower()) in _VOID and k not in dropped
    ]
    said = [file.said]
    for k in void:
        if file.values[k] == IGNORE:
            dropped.add(k)
        elif NONE not in ignore:
            name = file.names[k]
            raise UserError(
                f"{file.path}: is {name!r} a class to learn, or pixels without a label?"
                f" --ignore {_quoted(name)} leaves them out of training and mIoU; --ignore none learns it as a class"
            )
    kept = [k for k in range(len(file.names)) if k not in dropped]
    if len(kept) < 2:
        raise UserError(f"{file.path}: {len(kept)} classes are left when {', '.join(ignore)} are ignored; 2 are needed")
    if dropped:
        said.append(
            f"not labelled, so neither learned nor measured: {', '.join(file.names[k] for k in sorted(dropped))}"
        )
    label = {k: kept.index(k) if k in kept else IGNORE for k in range(len(file.names))}
    palette = file.palette()
    choice = ClassChoice(
        tuple(file.names[k] for k in kept), [palette[k] for k in kept], file.colours is not None,
        () if file.values == tuple(range(len(file.values))) else file.values, said=said,
    )  # fmt: skip
    choice.of_value = {IGNORE: IGNORE} | of_value | {value: label[k] for k, value in enumerate(file.values)}
    choice.of_colour = of_colour | {code_of(colour): label[k] for k, colour in enumerate(file.colours or ())}
    for rule in maps:
        source, target = _rule(file, label, rule)
        (choice.of_value if isinstance(source, int) else choice.of_colour)[
            source if isinstance(source, int) else code_of(source)
        ] = target
    return choice


def code_of(colour: Colour) -> int:
    """0xRRGGBB."""
    red, green, blue = colour
    return (red << 16) | (green << 8) | blue


def text_of(code: int) -> str:
    """r,g,b of 0xRRGGBB, as `--ignore` takes it."""
    return f"{code >> 16},{(code >> 8) & 255},{code & 255}"


def _ignored(file: ClassFile, words: Sequence[str]) -> tuple[set[int], dict[int, int], dict[int, int]]:
    """Classes, further values and further colours that `words` name."""
    dropped: set[int] = set()
    of_value: dict[int, int] = {}
    of_colour: dict[int, int] = {}
    for word in words:
        if word in file.names:
            dropped.add(file.names.index(word))
            continue
        found = _value_or_colour(word)
        if found is None:
            raise UserError(f"--ignore {word!r}: no class, id 0 to 255 or colour r,g,b; {_known(file, word)}")
        if isinstance(found, int):
            if found in file.values:
                dropped.add(file.values.index(found))
            of_value[found] = IGNORE
        else:
            if file.colours and found in file.colours:
                dropped.add(file.colours.index(found))
            of_colour[code_of(found)] = IGNORE
    return dropped, of_value, of_colour


def _rule(file: ClassFile, label: dict[int, int], rule: str) -> tuple[int | Colour, int]:
    source, _, target = rule.partition("=")
    found, target = _value_or_colour(source), target.strip()
    if found is None or not target:
        raise UserError(f"--map {rule!r}: expected VALUE=CLASS or R,G,B=CLASS, such as 255={_quoted(file.names[-1])}")
    if target in file.names:
        return found, label[file.names.index(target)]
    if target.lower() in ("ignore", "void"):
        return found, IGNORE
    if target.isdecimal() and int(target) in file.values:
        return found, label[file.values.index(int(target))]
    raise UserError(f"--map {rule!r}: no class {target!r}; {_known(file, target)}")


def _value_or_colour(text: str) -> int | Colour | None:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(part.isdecimal() and len(part) < 4 and int(part) < 256 for part in parts):
        return None
    numbers = [int(part) for part in parts]
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1], numbers[2])


def _known(file: ClassFile, word: str) -> str:
    near = difflib.get_close_matches(word, file.names, 1)
    if near:
        return f"did you mean {near[0]}?"
    return f"classes: {', '.join(file.names[:8])}{', ...' if len(file.names) > 8 else ''}"


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
