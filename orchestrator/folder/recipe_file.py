"""A run's `recipe.yaml`: resolved configuration, what it ran with, and a seal.

A run can make everything anew but this, so it is kept twice.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from orchestrator.folder.layout import RunLayout
from orchestrator.folder.manifest import set_aside
from orchestrator.folder.shapes import Provenance, shaped
from orchestrator.recipe.config import RunConfig, build_tree
from orchestrator.recipe.strict_yaml import parse_yaml
from querying.base.errors import DamagedError
from querying.base.files import check_schema, write_text

_SEAL_LINE = "# seal: "
LARGEST = 5_000_000
"""Bytes of a recipe with a seal: it grows by some hundred with each change of its environment."""


def write_recipe(path: Path, config: RunConfig, provenance: Mapping[str, Any]) -> None:
    """A run's `recipe.yaml`: the configuration, what it ran with, and as the last line a seal over both."""
    text = config.to_yaml() + yaml.safe_dump({"provenance": dict(provenance)}, sort_keys=False)
    for file in (recipe_copy(path), path):
        write_text(file, text + _SEAL_LINE + hashlib.sha256(text.encode()).hexdigest() + "\n")


def recipe_copy(path: Path) -> Path:
    """Where the second copy of the recipe is."""
    return path.with_name(f".{path.name}.copy")


def is_run(root: Path) -> bool:
    """Is it a run folder?  One copy is enough: the same `s4al run` again makes the other from it."""
    path = RunLayout(root).recipe
    return path.exists() or recipe_copy(path).exists()


def read_recipe(path: Path) -> tuple[RunConfig, dict[str, Any]]:
    """Configuration and provenance of a run.  DamagedError where `recipe.yaml` is not what was written, UserError where
    another version wrote it."""
    if not path.exists():
        raise DamagedError(f"{path}: does not exist")
    text, _, seal = path.read_bytes().rpartition(_SEAL_LINE.encode())
    if seal != hashlib.sha256(text).hexdigest().encode() + b"\n":
        raise DamagedError(f"{path}: not what was written: its seal is broken")
    tree = parse_yaml(text.decode(), str(path), LARGEST)
    provenance: dict[str, Any] = tree["provenance"]
    check_schema(provenance, path)  # before its keys, which may be unknown here
    shaped(provenance, Provenance, path)
    return build_tree(tree, path), provenance


def restore_recipe(path: Path) -> None:
    """Where one of a recipe and its copy is damaged or missing, put the other in its place; nothing where there is no
    run yet."""
    copy = recipe_copy(path)
    pair = ((path, copy, "taken from its copy"), (copy, path, "made again from the recipe"))
    for file, other, what in pair:
        if not other.exists():
            continue
        try:
            read_recipe(file)
        except DamagedError as error:
            if file.exists():
                set_aside(file)
            print(f"{error}: {what}", flush=True)
            write_text(file, other.read_text())
