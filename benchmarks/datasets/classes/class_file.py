"""The names of the classes, their colours and their values in masks, from the files that people have for them."""

from __future__ import annotations

import colorsys
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.datasets.classes.lines import Colour, Entry, entries_of_lines
from benchmarks.datasets.files.images import Palette
from benchmarks.datasets.files.strict_json import strict_json
from orchestrator.recipe.strict_yaml import parse_yaml
from querying.base.errors import UserError
from querying.dataset.label_values import IGNORE

MAX_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ClassFile:
    """Class k is `names[k]`; a grey or palette mask has `values[k]` for it, an RGB mask `colours[k]` (None: the file
    gives no colours, and `palette()` makes distinct ones).  `said`: what the file was taken for."""

    path: Path
    names: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[Colour, ...] | None
    said: str

    def palette(self) -> Palette:
        return self.colours or _distinct_colours(len(self.names))


def read_classes(path: Path) -> ClassFile:
    """Read a list of names, a table of names with ids or colours, a CVAT label map, JSON or YAML (see
    docs/use/ingest.md).

    UserError names the line that is wrong, or that could mean two things and how to say which.
    """
    text = _text(path)
    if path.suffix.lower() in (".json", ".yaml", ".yml") or text.lstrip()[:1] in ("[", "{"):
        entries, kind = list(_entries_of_tree(path, _tree(path, text))), path.suffix.lstrip(".").upper() or "JSON"
    else:
        entries, kind = entries_of_lines(path, text)
    return _checked(path, entries, kind)


def _text(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: not a list of classes: larger than {MAX_BYTES} bytes")
        data = path.read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: not a readable list of classes: {error}") from None


def _checked(path: Path, entries: list[Entry], kind: str) -> ClassFile:
    names: dict[str, None] = {}
    values: dict[int, None] = {}
    colours: dict[Colour, None] = {}
    for place, entry in enumerate(entries):
        if not entry.name.isprintable():
            raise UserError(f"{path}: {entry.where}: class {entry.name!r} has characters that can not be printed")
        if not entry.name:
            raise UserError(f"{path}: {entry.where}: a class without a name")
        if entry.name in names:
            raise UserError(f"{path}: {entry.where}: class {entry.name!r} is there twice")
        names[entry.name] = None
        value = place if entry.value is None else IGNORE if entry.value == -1 else entry.value
        if not 0 <= value <= IGNORE or value in values:
            raise UserError(f"{path}: {entry.where}: id {value} of class {entry.name!r} is above 255 or there twice")
        values[value] = None
        if entry.colour is not None:
            if max(entry.colour) > 255 or entry.colour in colours:
                red, green, blue = entry.colour
                raise UserError(f"{path}: {entry.where}: colour {red} {green} {blue} is above 255 or there twice")
            colours[entry.colour] = None
    if not 2 <= len(names) <= IGNORE:
        raise UserError(f"{path}: {len(names)} classes; 2 to {IGNORE} are possible, one in a line")
    if colours and len(colours) != len(names):
        raise UserError(f"{path}: {len(colours)} of {len(names)} classes have a colour; give all of them one, or none")
    own = [] if list(values) == list(range(len(values))) else [f"ids {min(values)} to {max(values)}"]
    said = ", ".join([kind, f"{len(names)} classes", *own, *(["with colours"] if colours else [])])
    return ClassFile(path, tuple(names), tuple(values), tuple(colours) or None, f"{path.name}: {said}")


def _tree(path: Path, text: str) -> Any:
    if path.suffix.lower() in (".yaml", ".yml"):
        return parse_yaml(text, str(path))
    try:
        return strict_json(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON: {error}") from None


def _entries_of_tree(path: Path, tree: Any) -> Iterable[Entry]:
    """A list of names or of {name, id, color}; {id: name}, {name: id}, {name: [r, g, b]}; or one of these under
    `names`, `classes`, `categories` or `labels`."""
    if isinstance(tree, dict):
        under = [key for key in ("names", "classes", "categories", "labels") if isinstance(tree.get(key), list | dict)]
        if len(under) > 1:
            raise UserError(f"{path}: classes could be under {' or '.join(under)}; leave one of them")
        if under:
            tree = tree[under[0]]
    rows = enumerate(tree) if isinstance(tree, list) else tree.items() if isinstance(tree, dict) else ()
    found = [_entry(path, isinstance(tree, list), key, item) for key, item in rows]
    if not found:
        raise UserError(f"{path}: no list of classes: expected names, or names with id and color")
    if isinstance(tree, list) and any(entry.value is None for entry in found):
        found = [Entry(entry.name, None, entry.colour, entry.where) for entry in found]
    return found


def _entry(path: Path, listed: bool, key: Any, item: Any) -> Entry:
    where = f"entry {key}"
    if isinstance(item, dict):
        name = next((item[word] for word in ("name", "label", "class") if isinstance(item.get(word), str)), None)
        value = next((item[word] for word in ("id", "value", "class_id") if word in item), None)
        colour = next((item[word] for word in ("color", "colour", "rgb", "hex") if word in item), None)
        if not listed:
            name, value = (name, key) if name is not None else (key, value)
    elif listed:
        name, value, colour = item, None, None
    elif str(key).isdecimal() and isinstance(item, str):
        name, value, colour = item, key, None
    else:
        name, value, colour = key, item if isinstance(item, int) else None, None if isinstance(item, int) else item
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(name, str) or isinstance(value, bool) or not isinstance(value, int | None):
        raise UserError(f"{path}: {where}: not a class: {str(item)[:60]}")
    return Entry(name.strip(), value, None if colour is None else _colour(path, where, colour), where)


def _colour(path: Path, where: str, colour: Any) -> Colour:
    if isinstance(colour, str) and len(colour) == 7 and colour[0] == "#":
        with contextlib.suppress(ValueError):
            colour = list(bytes.fromhex(colour[1:]))
    if not isinstance(colour, list) or len(colour) != 3 or not all(type(part) is int and part >= 0 for part in colour):
        raise UserError(f"{path}: {where}: not a colour: {str(colour)[:60]}; expected [r, g, b] or #rrggbb")
    return colour[0], colour[1], colour[2]


def _distinct_colours(count: int) -> Palette:
    """Hues a golden ratio apart, in alternating brightness, so that neighbours in the list look different."""
    colours = []
    for label in range(count):
        rgb = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.8, (0.95, 0.7, 0.5)[label % 3])
        colours.append(tuple(round(255 * part) for part in rgb))
    return [(red, green, blue) for red, green, blue in colours]
