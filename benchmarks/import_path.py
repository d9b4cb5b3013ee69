"""The project's packages are imported from where this file lies, whatever else is called `training` elsewhere.

Their names are ordinary words, and users have files of these names: a finder before Python's own decides, so that the
order of `sys.path` does not.  To be imported before anything else of the project.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from os.path import abspath, dirname
from types import ModuleType

ROOT = dirname(dirname(abspath(__file__)))
PACKAGES = ("benchmarks", "orchestrator", "querying", "training")


class _OwnPackages:
    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [ROOT]) if name in PACKAGES else None


if _OwnPackages not in sys.meta_path:
    sys.meta_path.insert(0, _OwnPackages)
