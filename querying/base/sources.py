"""What a module is made from: its source and that of everything it imports, found by reading and without running it."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import NamedTuple

OURS = ("orchestrator", "training", "querying")
"""Packages that make results: their source is hashed as a whole."""
INSTALLED = frozenset(("site-packages", "dist-packages"))
"""Folders of what was installed: it is known by its version."""


class Sources(NamedTuple):
    hashes: dict[str, str]
    """Module -> SHA-256 (hex) of its file."""
    installed: frozenset[str]
    """Top-level names of what is imported from elsewhere, Python's own library excepted."""


def own_sources(module: str, loaded: Sequence[str] = ()) -> Sources:
    """The sources of a user's `module`, of its packages, and of what they import, at any depth and inside functions,
    from the user's own folders; `loaded` names modules that were seen to be imported besides, by names that are
    computed.

    Not seen: files that the code reads or executes when it runs.
    """
    package = module.partition(".")[0]

    def follows(name: str, spec: ModuleSpec | None) -> bool:
        top = name.partition(".")[0]
        if top in OURS or top in sys.stdlib_module_names or spec is None:
            return False
        places = [spec.origin or "", *map(str, spec.submodule_search_locations or ())]
        return top == package or not any(INSTALLED.intersection(Path(place).parts) for place in places)

    specs = ((name, getattr(sys.modules.get(name), "__spec__", None)) for name in loaded)
    return sources([module, *(name for name, spec in specs if follows(name, spec))], follows)


def sources(modules: Sequence[str], follows: Callable[[str, ModuleSpec | None], bool]) -> Sources:
    """The sources of `modules` and of all that they import, as far as `follows(name, where it was found)` says."""
    importlib.invalidate_caches()
    hashes: dict[str, str] = {}
    installed: set[str] = set()
    specs: dict[str, ModuleSpec | None] = {}
    todo, seen = list(modules), set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            continue
        spec = _find(name, specs)
        if not follows(name, spec):
            if top not in OURS and (spec is not None or name == top):
                installed.add(top)
            continue
        assert spec is not None
        todo += [name.rpartition(".")[0]] if "." in name else []
        content = _content(spec)
        if content is None:  # a namespace package has no code
            continue
        hashes[name] = hashlib.sha256(content).hexdigest()
        todo += _imported(name, spec, content)
    return Sources(dict(sorted(hashes.items())), frozenset(installed))


def _find(name: str, specs: dict[str, ModuleSpec | None]) -> ModuleSpec | None:
    """Where a module is, as Python would find it; unlike importlib.util.find_spec it imports no package on the way."""
    if name not in specs:
        parent = name.rpartition(".")[0]
        above = _find(parent, specs) if parent else None
        path: list[str] | None = None
        if parent:
            if above is None or above.submodule_search_locations is None:
                specs[name] = None
                return None
            own = getattr(sys.modules.get(parent), "__path__", None)  # a package may change it
            path = list(own if own is not None else above.submodule_search_locations)
        specs[name] = _asked(name, path)
    return specs[name]


def _asked(name: str, path: list[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        if not hasattr(finder, "find_spec"):
            continue
        try:
            spec: ModuleSpec | None
            try:
                spec = finder.find_spec(name, path)
            except KeyError:  # a namespace package, which looks for its parent among the imported modules
                spec = finder.find_spec(name.rpartition(".")[2], path)
        except (ImportError, ValueError):
            continue
        if spec is not None:
            return spec
    return None


def _content(spec: ModuleSpec) -> bytes | None:
    """The bytes of a module's file, be it source, compiled or in an archive."""
    if spec.origin is None:
        return None
    try:
        return Path(spec.origin).read_bytes()
    except OSError:
        get_data = getattr(spec.loader, "get_data", None)
        try:
            return bytes(get_data(spec.origin)) if get_data else None
        except OSError:
            return None


def _imported(name: str, spec: ModuleSpec, content: bytes) -> Iterator[str]:
    """Every name that the code may import, and some that are no modules."""
    if not str(spec.origin).endswith((".py", ".pyw")):
        return
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):  # importing it says so
        return
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), package)
            if base:
                yield base
                listed = [alias.name for alias in node.names]
                yield from (f"{base}.{one}" for one in listed if one != "*")
        elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            # `from package import *` imports the submodules that are listed there.
            words = [one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)]
            yield from (f"{package}.{word}" for word in words if isinstance(word, str) and package)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                base = _absolute(node.args[0].value, package)
                yield from [base] if base else []


def _absolute(name: str, package: str) -> str:
    try:
        return importlib.util.resolve_name(name, package)
    except ImportError:  # beyond the top, or in no package
        return ""
