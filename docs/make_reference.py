"""Writes pages of docs/reference from the program, which they describe: `python docs/make_reference.py`."""

import ast
import re
import subprocess
import sys
import tempfile
import types
import typing
from pathlib import Path
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from orchestrator.recipe.config import RunConfig

HERE = Path(__file__).parent / "reference"
ROOT = Path(__file__).parents[1]
PACKAGES = ("benchmarks", "orchestrator", "training", "querying")
COMMAND_LINE = "benchmarks.cli.app"
MADE = "<!-- Made by docs/make_reference.py; a test compares it with the program. -->\n\n"
BOUNDS = (
    ("from", "ge", annotated_types.Ge),
    ("above", "gt", annotated_types.Gt),
    ("to", "le", annotated_types.Le),
    ("below", "lt", annotated_types.Lt),
)


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    return {"commands.md": commands(), "recipe_keys.md": recipe_keys(), "tree.md": tree()}


def commands() -> str:
    """Typer's own documentation of the command line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "commands.md"
        typed = ["typer", COMMAND_LINE, "utils", "docs", "--name", "s4al", "--title", "Commands", "--output", str(path)]
        subprocess.run([sys.executable, "-m", *typed], check=True, capture_output=True)
        return MADE + path.read_text()


def recipe_keys() -> str:
    """A table for each group of keys: value, default, meaning."""
    head = (
        "# Recipe keys\n\n"
        "Every key of a recipe with its default. `s4al show RECIPE` prints a recipe's own values; on the command\n"
        "line a key is changed as `group.key=value`. A key that does not exist, or a value out of its range, ends\n"
        "with exit status 2 before anything starts.\n\n"
    )
    return MADE + head + "\n".join(_group(RunConfig, "")).rstrip() + "\n"


def tree() -> str:
    """Every room with its rule, and every file with the first sentence of its docstring."""
    lines = [
        "# The tree\n",
        "Imports point one way, from the first package to the last: `benchmarks -> orchestrator -> training ->",
        "querying`. Inside a package they point down the order of rooms that `pyproject.toml` states; `make check`",
        "holds both.\n",
    ]
    for package in PACKAGES:
        for room in sorted({path.parent for path in (ROOT / package).rglob("*.py")}):
            name = room.relative_to(ROOT).as_posix()
            lines += [f"## {name}/\n", _first(room / "__init__.py", whole=True), ""]
            files = sorted(path for path in room.glob("*.py") if path.name != "__init__.py")
            lines += [*(f"- `{path.name}`: {_first(path)}" for path in files), ""]
    return MADE + "\n".join(lines).rstrip() + "\n"


def _first(path: Path, whole: bool = False) -> str:
    text = _sentences(ast.get_docstring(ast.parse(path.read_text())))
    return text if whole else re.split(r"(?<=[.?!]) ", text)[0]


def _group(settings: type[BaseModel], prefix: str, given: Any = None) -> list[str]:
    """`given`: the defaults of the group, where the group has others than its own."""
    rows, below = [], []
    for name, field in settings.model_fields.items():
        inner, default = _settings(field.annotation), field.get_default(call_default_factory=True)
        default = getattr(given, name, default)
        if inner is not None:
            below += _group(inner, f"{prefix}{name}.", default)
        else:
            cells = (f"`{prefix}{name}`", _value(field), _text(default), _sentences(field.description))
            rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    title = f"`{prefix[:-1]}`" if prefix else "The run"
    table = [f"## {title}", "", "| key | value | default | meaning |", "|---|---|---|---|", *rows, ""]
    return [*(table if rows else []), *below]


def _settings(annotation: Any) -> type[BaseModel] | None:
    for one in (annotation, *typing.get_args(annotation)):
        if isinstance(one, type) and issubclass(one, BaseModel):
            return one
    return None


def _value(field: FieldInfo) -> str:
    kind = ", ".join(f"`{one}`" for one in field.examples) if field.examples else _kind(field.annotation)
    return " ".join([kind, *_bounds(field.metadata)])


def _bounds(metadata: typing.Iterable[Any]) -> list[str]:
    flat = [one for entry in metadata for one in getattr(entry, "metadata", [entry])]
    return [
        f"{word} {_number(getattr(one, name))}" for one in flat for word, name, kind in BOUNDS if isinstance(one, kind)
    ]


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _kind(annotation: Any) -> str:
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{one}`" for one in inner)
    if origin is typing.Annotated:
        return " ".join([_kind(inner[0]), *_bounds(inner[1:])])
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _kind(one) for one in inner)
    if origin is tuple and Ellipsis not in inner:
        return f"({', '.join(_kind(one) for one in inner)})"
    if origin in (tuple, list):
        return f"list of {_kind(inner[0])}"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}[annotation]


def _text(value: Any) -> str:
    if value is PydanticUndefined:
        return "must be given"
    if value is None or isinstance(value, bool):
        return f"`{'null' if value is None else str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def _sentences(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip()


if __name__ == "__main__":
    for page, text in pages().items():
        (HERE / page).write_text(text)
