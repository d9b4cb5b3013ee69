"""What a recipe names by import path, `package.module:name`, of the user's own: found, and known by its source."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from querying.base.errors import UserError
from querying.base.redaction import cause
from querying.base.sources import Sources, own_sources

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_read: dict[str, Sources] = {}
"""Import path -> the source that it had when this process imported it."""


def read_source(spec: str) -> Sources:
    """What it is made from, as it was when this process imported it; where it did not, as it is now."""
    return _read.get(spec) or own_sources(spec.partition(":")[0])


def load_own(key: str, spec: str, folder: Path | None = None) -> Any:
    """What `spec` names; UserError, one line that names `key`, where there is nothing or importing it fails.

    Looked for in PYTHONPATH and, after all else, in `folder`: there, a file of another library's name hides nothing.
    """
    where = f"{key}={spec}"
    module, _, name = spec.partition(":")
    folder = folder or Path.cwd()
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    before = set(sys.modules)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        what = f"can not be imported (is its folder in PYTHONPATH?): {error}"
        if isinstance(error, AttributeError):
            what = f"has no {name}"
        raise UserError(f"{where}: {module} {what}{_hidden(module, folder)}") from None
    except (Exception, SystemExit) as error:  # whatever the user's module does while it is imported
        raise UserError(f"{where}: importing {module}: {said(error)}") from None
    if spec not in _read:
        _read[spec] = own_sources(module, sorted(set(sys.modules) - before))
    return found


def check_source(key: str, spec: str, noted: Mapping[str, str], where: Path) -> None:
    """Before anything of it is imported: is what `spec` names here the source that `where` has `noted`?

    UserError where it is not, or where no module of the user's own has the name: a file that somebody gives away may
    name any function of any module, and must not get it called.
    """
    module = spec.partition(":")[0]
    if module not in noted:  # Python's own and installed modules are not even looked for
        raise UserError(f"{where}: notes no source of {module}, so that {key}={spec} is not run")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    now = own_sources(module).hashes
    if module not in now:
        raise UserError(
            f"{key}={spec}: {module} can not be imported (is its folder in PYTHONPATH?): no module of your own has"
            " this name"
        )
    if changed := [name for name, digest in now.items() if noted.get(name) != digest]:
        raise UserError(
            f"{where}: was trained with another source of {', '.join(changed[:3])}, and what is here is not run:"
            f" put the one back that {key}={spec} named then"
        )


def said(error: BaseException) -> str:
    """An error of the user's code in a line."""
    return f"{type(error).__name__}: {cause(str(error), 200)}"


def _hidden(module: str, folder: Path) -> str:
    """Where a file of the user's has the name of another module, which is found first: that, and what to do."""
    top = module.partition(".")[0]
    there = getattr(sys.modules.get(top), "__file__", None) or "Python"
    for mine in (folder / f"{top}.py", folder / top):
        if top in sys.modules and mine.exists() and not Path(there).is_relative_to(mine):
            return f"; {mine} is not looked at, since {there} has its name: rename it"
    return ""
