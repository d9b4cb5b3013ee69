"""Lines of text to classes: what is a heading, a comment, an id, a colour, and what could be either."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from querying.base.errors import UserError

Colour = tuple[int, int, int]
Row = tuple[int, str]
"""Number of a line, and the line."""
HEADING = ", heading line left out"

_CVAT = re.compile(r"([^:]+):\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*:[^:]*:[^:]*")
_CVAT_HEADING = re.compile(r"#\s*label\s*:\s*color_rgb\s*:\s*parts\s*:\s*actions")
_ID_FIRST, _ID_LAST = re.compile(r"(-?\d+)\s*[:=]\s*(\S.*)"), re.compile(r"(\S.*?)\s*[:=]\s*(-?\d+)")
_WORDS = {
    **dict.fromkeys(("name", "names", "class", "classes", "class_name", "class_names", "label", "labels"), "n"),
    **dict.fromkeys(("category", "object"), "n"),
    **dict.fromkeys(("id", "idx", "class_id", "label_id", "train_id", "trainid", "index", "number", "value"), "i"),
    **dict.fromkeys(("r", "red"), "r"), **dict.fromkeys(("g", "green"), "g"), **dict.fromkeys(("b", "blue"), "b"),
    **dict.fromkeys(("hex", "color", "colour", "color_hex"), "h"),
}  # fmt: skip
"""What a heading may say, and which column it stands for."""
_SHAPES = {
    "n": "n", "niii": "nrgb", "niiii": "nrgb-", "iiin": "rgbn", "in": "in", "iniii": "inrgb", "iiiin": "irgbn",
    "ni": "ni", "niiiii": "nirgb-", "nh": "nh", "hn": "hn", "inh": "inh",
}  # fmt: skip
"""Kinds of a row's fields (name, integer, hexadecimal colour) -> columns, where there is no heading."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`value` None: the place in the file.  `where` names the line for a message."""

    name: str
    value: int | None
    colour: Colour | None
    where: str


def entries_of_lines(path: Path, text: str) -> tuple[list[Entry], str]:
    """Classes in the order of the lines, and what the file was taken for.  UserError names a line."""
    rows = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    comments = [row for row in rows if row[1].startswith("#")]
    rows = [row for row in rows if not row[1].startswith("#")]
    left_out = f", {len(comments)} comment line{'s' * (len(comments) > 1)} left out" if comments else ""
    if any(_CVAT_HEADING.fullmatch(line) for _, line in comments) or (
        rows and all(_CVAT.fullmatch(r[1]) for r in rows)
    ):
        return [_cvat(path, *row) for row in rows], f"CVAT label map{left_out}"
    for mark in "\t;,":
        if len(rows) > 1 and all(mark in line for _, line in rows):
            table = [(number, _fields(line, mark)) for number, line in rows]
            if any(_kind(field) != "n" for _, fields in table for field in fields) or _columns(table[0][1]):
                entries, heading = _table(path, table)
                return entries, f"table{heading}{left_out}"
    for pattern, order in ((_ID_FIRST, "in"), (_ID_LAST, "ni")):
        if rows and all(pattern.fullmatch(line) for _, line in rows):
            table = [(number, list(pattern.fullmatch(line).groups())) for number, line in rows]  # type: ignore[union-attr]
            return [_row(path, *row, order) for row in table], f"table of ids and names{left_out}"
    entries, heading = _words(path, rows)
    plain = all(entry.colour is None and entry.value is None for entry in entries)
    return entries, f"{'list of names' if plain else 'table'}{heading}{left_out}"


def _cvat(path: Path, number: int, line: str) -> Entry:
    found = _CVAT.fullmatch(line)
    if not found:
        raise UserError(f"{path}: line {number}: {line[:60]!r} is not name:r,g,b:parts:actions as in a CVAT label map")
    return _row(path, number, list(found.groups()), "nrgb")


def _fields(line: str, mark: str) -> list[str]:
    try:
        fields = [field.strip() for field in next(csv.reader([line], delimiter=mark, skipinitialspace=True))]
    except csv.Error:  # a field of 131,072 characters: whatever it is, it is no class
        fields = [line]
    while len(fields) > 1 and not fields[-1]:
        fields.pop()
    return fields


def _kind(field: str) -> str:
    return "i" if re.fullmatch(r"-?\d+", field) else "h" if re.fullmatch(r"#[0-9a-fA-F]{6}", field) else "n"


def _columns(fields: Sequence[str]) -> str:
    """Columns that a heading names, `-` for one that is not read; nothing where it is no heading."""
    found = "".join(_WORDS.get(_word(field), "-") for field in fields)
    known = found.replace("-", "")
    fits = len(known) > 1 and found.count("n") == 1 and len(set(known)) == len(known)
    return found if fits and found.count("-") < len(known) else ""


def _word(field: str) -> str:
    return field.lower().strip().rstrip(":").replace(" ", "_")


def _table(path: Path, table: list[tuple[int, list[str]]]) -> tuple[list[Entry], str]:
    """Rows of fields to classes, by the heading or, without one, by what the fields look like."""
    (number, first), rest = table[0], table[1:]
    if columns := _columns(first):
        unread = [field for field, column in zip(first, columns, strict=True) if column == "-"]
        said = HEADING + (f", columns not read: {', '.join(unread)}" if unread else "")
        return [_row(path, *row, columns) for row in rest], said
    shapes = ["".join(map(_kind, fields)) for _, fields in table]
    usual = max(shapes, key=len)
    entries = []
    for (number, fields), shape in zip(table, shapes, strict=True):
        if shape not in _SHAPES or shape != usual:
            raise UserError(
                f"{path}: line {number}: {', '.join(fields)[:80]!r} is not understood: expected a name, or in every"
                " line name r g b, r g b name, id name, id name r g b or name #rrggbb, perhaps below a heading"
            )
        entries.append(_row(path, number, fields, _SHAPES[shape]))
    return entries, ""


def _row(path: Path, number: int, fields: Sequence[str], columns: str) -> Entry:
    where = f"line {number}"
    if len(fields) != len(columns):
        raise UserError(f"{path}: {where}: {len(fields)} columns, expected {len(columns)}")
    of = dict(zip(columns, fields, strict=True))
    try:
        value = _number(of["i"]) if "i" in of else None
        colour = (_number(of["r"]), _number(of["g"]), _number(of["b"])) if {"r", "g", "b"} <= of.keys() else None
        if "h" in of:
            red, green, blue = bytes.fromhex(of["h"].removeprefix("#"))
            colour = red, green, blue
    except ValueError:
        raise UserError(f"{path}: {where}: {', '.join(fields)[:80]!r} has no number where one was expected") from None
    return Entry(_unquoted(of["n"]), value, colour, where)


def _number(text: str) -> int:
    return int(text[:1] + text[1:].lstrip("0")[:4] if text.startswith("-") else text.strip().lstrip("0")[:4] or 0)


def _unquoted(name: str) -> str:
    return name[1:-1].strip() if len(name) > 2 and name[0] == name[-1] == '"' else name


def _words(path: Path, rows: Sequence[Row]) -> tuple[list[Entry], str]:
    """Lines whose columns are apart by spaces: a name may have spaces and numbers in it, too.

    Numbers before the name are an id (one), a colour (three) or both (four) where every line has as many of them;
    behind the name three numbers or #rrggbb are a colour.
    """
    if len(rows) > 1 and (columns := _columns(rows[0][1].split())):
        split = str.rsplit if columns[0] == "n" else str.split  # so that the name may be several words
        return [_row(path, n, split(line, None, len(columns) - 1), columns) for n, line in rows[1:]], HEADING
    leads = {len(re.match(r"(?:-?\d+\s+)*", line + " ")[0].split()) for _, line in rows}  # type: ignore[index]
    lead = leads.pop() if len(leads) == 1 else 0
    lead = lead if lead in (1, 3, 4) and all(len(line.split()) > lead for _, line in rows) else 0
    entries = []
    for number, line in rows:
        *front, rest = line.split(None, lead)
        found = re.fullmatch(r"(.*?\S)(?:\s+(\d+)\s+(\d+)\s+(\d+)|\s+(#[0-9a-fA-F]{6}))?", rest)
        assert found is not None, rest
        fields = [*front, *(part for part in found.groups() if part is not None)]
        back = {1: "n", 2: "nh", 4: "nrgb"}[len(fields) - lead]
        _check_name(path, number, found[1])
        entries.append(_row(path, number, fields, {0: "", 1: "i", 3: "rgb", 4: "irgb"}[lead] + back))
    return _without_heading(path, rows, entries)


def _without_heading(path: Path, rows: Sequence[Row], entries: list[Entry]) -> tuple[list[Entry], str]:
    """What only the lines together show: a heading of one word, and numbers that could be ids or part of a name."""
    names = [line for _, line in rows]
    if len(rows) > 1 and _word(names[0]) in _WORDS:
        if all(entry.colour or entry.value is not None for entry in entries[1:]):
            return entries[1:], HEADING
        raise UserError(
            f"{path}: line {rows[0][0]}: {names[0]!r} could be a heading or a class; begin the line with # if it is a"
            f' heading, put it in double quotes if it is a class ("{names[0]}")'
        )
    if rows and all(re.fullmatch(r"\d+\s+\d+\s+\d+", name) for name in names):
        raise UserError(f"{path}: line {rows[0][0]}: a colour without a name; expected name r g b in every line")
    if rows and all(re.fullmatch(r".*?\S(\s+\d+){4,}", name) for name in names) and any(e.colour for e in entries):
        raise UserError(
            f"{path}: line {rows[0][0]}: more than three numbers behind the name: write name,r,g,b,a with commas where"
            " they are a colour and its alpha, put the name in double quotes where it ends with a number"
        )
    numbered = [re.fullmatch(r"(.+?)\s+(\d+)|(\d+)[.)]\s*(.+)", name) for name in names]
    parts = [(found[1] or found[4], int((found[2] or found[3])[:9])) for found in numbered if found]
    bare, ids = zip(*parts, strict=True) if parts else ((), ())
    plain = not any(entry.colour or entry.value is not None for entry in entries)
    if plain and len(parts) == len(rows) == len(set(bare)) == len(set(ids)) and list(ids) != list(range(len(ids))):
        raise UserError(
            f"{path}: line {rows[0][0]}: is the number in {names[0]!r} the class's id or a part of its name?"
            f' Write "{ids[0]} {bare[0]}" for an id, put the whole in double quotes for a name'
        )
    return entries, ""


def _check_name(path: Path, number: int, name: str) -> None:
    if name.startswith('"'):
        return
    if re.search(r"\s#", name):
        raise UserError(
            f"{path}: line {number}: {name[:60]!r}: a comment behind a class? Comments have lines of their own; put the"
            " name in double quotes if # is a part of it"
        )
    if re.search(r"[,;\t]\s*#?\d", name):
        raise UserError(f"{path}: line {number}: {name[:60]!r} has columns that other lines have not")
