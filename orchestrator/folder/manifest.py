"""What a published folder holds: size and SHA-256 of every file, and the digests of what it was made from."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.folder.shapes import Manifest, read_shaped
from orchestrator.recipe.keys import Value, differing
from querying.base.environment import MACHINE, note_machine
from querying.base.errors import DamagedError
from querying.base.files import read_json, sha256, write_json
from querying.base.forms import use_plain_forms

T = TypeVar("T")
MANIFEST = "manifest.json"
SCHEMA = 1


def seal(
    folder: Path, *, inputs: Mapping[str, str], seconds: float, settings: Mapping[str, Value] | None = None
) -> None:
    """Write the manifest of a finished folder; its files must be on the disk already.  What the processes that made it
    have noted of their machines (`noted`) goes into it."""
    notes = sorted(folder.glob(f"{MACHINE}*.json"))
    machines = sorted({str(read_json(path)["machine"]) for path in notes})
    for path in notes:
        path.unlink()
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    made = {"schema": SCHEMA, "seconds": seconds, "inputs": dict(inputs), "files": files}
    made |= {"settings": dict(settings)} if settings is not None else {}
    write_json(folder / MANIFEST, made | ({"made_on": machines} if machines else {}))


def noted(make: Callable[[], T], folder: Path, gpu: bool, plain: bool) -> Callable[[], T]:
    """`make`, wherever it is called, with plain forms or ours, after a note in `folder` of what that process computes
    with."""
    return partial(_make_noted, make, folder, gpu, plain)


def _make_noted(make: Callable[[], T], folder: Path, gpu: bool, plain: bool) -> T:
    use_plain_forms(plain)
    note_machine(folder, gpu)
    return make()


def machines(folder: Path) -> list[str]:
    """On what the processes ran that made a published folder; empty where an earlier version made it."""
    return [str(one) for one in _read(folder).get("made_on") or []]


def problems(
    folder: Path, inputs: Mapping[str, str] | None = None, settings: Mapping[str, Value] | None = None
) -> list[str]:
    """What is wrong with a published folder, a line each: files that are missing, altered or foreign, `inputs` (digest
    by name) that are not those it was made from, and `settings` that are not those it was made with; an earlier version
    noted none, and is believed (see `notes_settings`).  UserError where another version made it."""
    try:
        manifest = _read(folder)
    except DamagedError as error:
        return [str(error)]
    found = []
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{path}: does not exist")
        elif path.stat().st_size != expected["size"] or sha256(path) != expected["sha256"]:
            found.append(f"{path}: differs from its manifest")
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST}
    found += [f"{folder / name}: is in no manifest" for name in sorted(there - set(manifest["files"]))]
    changed = [name for name, digest in (inputs or {}).items() if manifest["inputs"].get(name) != digest]
    found += [f"{folder}: was made from another {name}" for name in changed]
    others = differing(manifest.get("settings", settings or {}), settings or {})
    if others:
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        found.append(f"{folder}: was made with {'; '.join(others[:2])}{more}")
    return found


def notes_settings(folder: Path) -> bool:
    """Does the manifest say with which settings it was made?  Those of the first versions do not."""
    return "settings" in _read(folder)


def inputs_key(inputs: Mapping[str, str]) -> str:
    """A short name for what something is made from."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:8]


def digest(folder: Path, pattern: str = "*") -> str:
    """SHA-256 (hex) of the contents of a published folder's files whose names match; DamagedError without one."""
    files = {name: file["sha256"] for name, file in _read(folder)["files"].items() if fnmatch(name, pattern)}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def seconds(folder: Path) -> float:
    """Wall seconds that making `folder` took, those of killed attempts until the last file that they left included."""
    return float(_read(folder)["seconds"])


def set_aside(path: Path) -> Path:
    """Rename something damaged to `damaged-N-NAME` beside it, for whoever wants to look; returns the new path."""
    numbers = [re.match(r"damaged-(\d+)-", other.name) for other in path.parent.iterdir()]
    number = 1 + max((int(found[1]) for found in numbers if found), default=0)
    return path.rename(path.with_name(f"damaged-{number}-{path.name}"))


def _read(folder: Path) -> dict[str, Any]:
    return read_shaped(folder / MANIFEST, Manifest, reads=SCHEMA)
